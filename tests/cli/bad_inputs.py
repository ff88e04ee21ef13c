"""What can be wrong with studies, and what becomes of each: a table that is run and printed.

Three files hold the rows (``bad_nifti.py``, ``bad_tables.py``, ``bad_dicom.py``): a function that
makes the input, whose docstring says to a user what it is. ``test_convert_bad_inputs.py`` converts
them all. ``docs/bad-inputs.md`` is this table printed; after a change of it::

    python tests/cli/bad_inputs.py > docs/bad-inputs.md
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: What can become of an input.
FAILS = "the case fails"
MISSING = "the contrast is dropped"
IGNORED = "the series is not used"
WARNS = "converted, with a warning"
RIGHT = "converted"
DOUBTED = "the series is not used, with a warning"
APART = "its files fail on their own, the rest is converted"
#: With --strict, what a warning becomes: the code that the case fails with.
STRICT = {
    "W_AFFINE": "E_AFFINE",
    "W_AMBIGUOUS": "E_AMBIGUOUS",
    "W_DROPPED": "that of the contrast",
    "W_SUBJECT": "E_SUBJECT",
    "W_UNREADABLE": "E_DAMAGED",
}
_INTRODUCTION = """\
# Bad inputs, and what becomes of them

Each row is made and converted by the tests, and every voxel of what is written is compared with
what it should be. *The contrast is dropped*, that is, it counts as absent, if the template does not
require it: the other contrasts of the case are converted, and ledger, report and standard error say
why (`W_DROPPED`). Where the contrast is required, or with `--strict`, the same
fault fails the case with the same code. A case that fails stops no other one.
"""
_STRICT = """\
## With `--strict`

A case fails where it would otherwise go on without a contrast, or with one of several series:

| instead of the warning | it fails with |
|---|---|
{table}

These warnings stay warnings, since the volumes are what their files say, and ledger, report and
standard error tell the doubt:
{others}.
What was chosen in `series.tsv` is not doubted again: with `--series`, `--strict` asks only that
each chosen volume can be used.
"""
_CODES = "What the codes mean is listed in [convert.md](convert.md)."


@dataclass(frozen=True)
class Row:
    """One bad input.

    Attributes:
        make: writes it, and returns channel -> voxels where they are not those of a good case.
        outcome: one of the above.
        code: that the user is told, empty if there is nothing to tell.
        says: words that the user is told.
        also: a further warning that the case has.
        contrast: that is dropped.
    """

    make: Callable
    outcome: str
    code: str
    says: str
    contrast: str
    also: str

    @property
    def name(self):
        return self.make.__name__

    @property
    def text(self):
        return " ".join(self.make.__doc__.split()).rstrip(".")


class Rows(dict):
    """The rows of one kind of input, by name."""

    def row(self, outcome, code="", says="", contrast="T1", also=""):
        """Make a row of a function."""

        def add(make):
            assert make.__name__ not in self
            self[make.__name__] = Row(make, outcome, code, says, contrast, also)
            return make

        return add

    def of(self, outcome):
        return [row for row in self.values() if row.outcome == outcome]


def as_page(tables):
    """The table for users; ``tables``: heading -> rows."""
    lines = [_INTRODUCTION]
    for heading, rows in tables.items():
        lines += [f"## {heading}", "", "| input | what becomes of it | code |", "|---|---|---|"]
        for row in rows.values():
            code = f"`{row.code}`" if row.code else ""
            lines.append(f"| {row.text} | {row.outcome} | {code} |")
        lines.append("")
    return "\n".join([*lines, _strict(), _CODES, ""])


def _strict():
    from amae_nnunet.convert.codes import CODES

    rows = [f"| `{code}` | {f'`{end}`' if end in CODES else end} |" for code, end in STRICT.items()]
    others = [f"`{code}`" for code in CODES if code.startswith("W_") and code not in STRICT]
    text = ", ".join(others)
    return _STRICT.format(table="\n".join(rows), others=text)


def kinds():
    from cli.bad_dicom import DICOM
    from cli.bad_nifti import NIFTI, STUCK
    from cli.bad_tables import TABLES

    return {"NIfTI files": NIFTI | STUCK, "Tables of cases": TABLES, "DICOM": DICOM}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    print(as_page(kinds()), end="")
