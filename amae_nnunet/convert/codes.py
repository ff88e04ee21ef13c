"""The stable codes of what can be wrong with a case, for scripts that read the failures.

``E_`` codes end a case or a contrast, ``W_`` codes are doubts that the ledger and the report list.
Not in the paper, which describes no conversion.
"""

from __future__ import annotations

from collections.abc import Iterable

from amae_nnunet.errors import InputError, one_line

_FEW = 3  # cases, each of which gets a line of its own

#: code -> what it means; README and report show this table.
CODES = {
    "E_DAMAGED": "a file is cut short, or is not what its name says",
    "E_NONFINITE": "voxels are NaN or infinite",
    "E_4D": "a file holds no single 3-D volume",
    "E_TYPE": "colour or complex voxels, or values too large for 32 bits",
    "E_SHEAR": "the grid is not rectangular",
    "E_UNITS": "spacing or extent is not that of a head in millimetres",
    "E_NO_GEOMETRY": "there is no position in the scanner",
    "E_AFFINE": "sform and qform of a NIfTI file disagree (with --strict)",
    "E_EMPTY": "all voxels are the same",
    "E_LABEL_VALUES": "the label has values that the template does not know",
    "E_LABEL_GRID": "the label lies on the grid of no image",
    "E_NO_LABEL": "a training case has no label",
    "E_REQUIRED": "a required contrast is absent",
    "E_COVERAGE": "a contrast covers less than half of the case's grid",
    "E_AMBIGUOUS": "several files or series could be one contrast",
    "E_NAME": "a name cannot be used, or two cases would get the same",
    "E_SUBJECT": "a subject would be tested on and trained on",
    "E_LINK": "a link leads nowhere or out of the input folder",
    "E_TABLE": "a row of the table is wrong, or names a file that is not there",
    "E_MISSING_SLICES": "slices are missing inside a stack",
    "E_DUPLICATE_POSITION": "two different slices lie at one position",
    "E_NONUNIFORM": "the distance between slices varies",
    "E_MATRIX": "slices of one stack have different sizes",
    "E_FEW_SLICES": "a stack has too few slices or covers too little",
    "E_NOT_A_VOLUME": "dcm2niix did not make the one volume that the headers promise",
    "E_FRAMES": "a multi-frame file cannot be split into volumes",
    "E_PREDICTION_CASE": "a prediction is of no case of the inputs",
    "E_PREDICTION_GRID": "a prediction does not lie on the grid of its case",
    "E_TIMEOUT": "a case took longer than the time limit",
    "E_CRASH": "the process of a case died",
    "E_UNEXPECTED": "an error of this program",
    "W_AFFINE": "sform and qform of a NIfTI file disagree, and the sform was taken",
    "W_COVERAGE": "a contrast covers less than 90 % of the case's grid",
    "W_DROPPED": "an optional contrast could not be used and counts as absent",
    "W_AMBIGUOUS": "several series were equally good and one was taken, or no series was sure",
    "W_UNMATCHED": "a contrast is absent, and files beside the case's match no pattern",
    "W_UNVERIFIED": "the rule that named the contrast was never seen at work on real data",
    "W_B_VALUE": "the trace image has a b-value outside 700 to 2000 s/mm2",
    "W_FRAME": "contrasts lie in different frames of reference: the patient may have moved",
    "W_DUPLICATES": "files were there twice and one copy was used",
    "W_UNREADABLE": "files beside those of the case cannot be read: a series may be missing",
    "W_SLICES_END": "slices seem to be missing at an end of the stack",
    "W_EMPTY_LABEL": "the label is empty",
    "W_SUBJECT": "the subject of a test case is trained on as well",
    "W_REGISTRATION": "the registration was not plausible and the header's position was kept",
}


class CaseError(InputError):
    """What keeps one case, or one contrast of it, from being converted.

    Args:
        code: a key of ``CODES``.
        message: one line: what was found, in which file, and what to do next.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = one_line(message)

    def __str__(self) -> str:
        return self.message


def folded(said: Iterable[tuple[str, str]]) -> list[str]:
    """Lines for the user: what is said of more than three cases alike is one line.

    Args:
        said: pairs of case and text, without a line end.
    """
    cases: dict[str, list[str]] = {}
    for case, text in said:
        cases.setdefault(text, []).append(case)
    lines: list[str] = []
    for text, names in cases.items():
        if len(names) > _FEW:
            lines.append(f"{len(names)} cases: {text}, first {', '.join(names[:_FEW])}")
        else:
            lines += [f"case {name}: {text}" for name in names]
    return lines


def warning(code: str, message: str) -> str:
    """A doubt about a case as the ledger keeps it: ``W_COVERAGE: T1 covers ...``."""
    assert code in CODES, code
    return f"{code}: {message}"
