"""The files of a DICOM tree that cannot be read: none is lost without a word.

Nobody knows what such a file is. Where it lies beside images of one study, that study has a doubt;
else, what lies in its folder is a case that failed, be it a series or a whole study. The folder's
name, which may be that of a patient, stands in the user's private sheet only. Not in the paper.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from amae_nnunet.convert.codes import CODES, CaseError, warning
from amae_nnunet.convert.dicom.files import Skipped
from amae_nnunet.convert.dicom.sheet import Row
from amae_nnunet.convert.identity import Identities

_VERDICT = "unreadable"
_UNKNOWN = "files cannot be read"  # where a user has emptied the cell


def unreadable_rows(
    skipped: Iterable[Skipped],
    owners: Mapping[str, Collection[tuple[str, str]]],
    ids: Identities,
) -> list[Row]:
    """A row of the sheet for each folder, or archive, with files that were meant to be images.

    Args:
        skipped: what the scan could not use; without a code it was never an image.
        owners: folder -> case and subject of the studies that have images in it.
        ids: name what nobody owns.
    """
    places: dict[tuple[str, str], list[Skipped]] = defaultdict(list)
    for file in skipped:
        if file.code:
            folder = PurePosixPath(file.path).parent.as_posix()
            places[file.path if file.member else folder, folder].append(file)
    rows = []
    for (place, folder), files in sorted(places.items()):
        names = list(owners.get(folder, ()))
        if len(names) != 1:
            names = [(ids.case(f"folder {place}"), ids.subject(f"folder {place}"))]
        code = Counter(file.code for file in files).most_common(1)[0][0]
        row = Row(*names[0], verdict=_VERDICT, evidence=code, why_not=_why(files), folder=place)
        rows.append(row)
    return rows


def doubts_of(rows: Iterable[Row]) -> list[str]:
    """What a case has to say of rows without an image, each ``W_CODE: text``."""
    return [warning("W_UNREADABLE", row.why_not or _UNKNOWN) for row in rows]


def nothing_readable(rows: Collection[Row], sheet: str) -> CaseError:
    """Why a case that has such rows only is none; ``sheet`` is what the user calls the table."""
    codes = [row.evidence for row in rows if row.evidence in CODES]
    what = "; ".join(row.why_not or _UNKNOWN for row in rows)
    remedy = f"copy them anew (their folder is named in {sheet})"
    return CaseError(codes[0] if codes else "E_DAMAGED", f"{what}: {remedy}")


def _why(files: Collection[Skipped]) -> str:
    """How many cannot be read, and why."""
    counts = Counter(file.reason for file in files).most_common()
    reasons = [f"{reason} ({count})" if len(counts) > 1 else reason for reason, count in counts]
    many = "s" * (len(files) != 1)
    return f"{len(files)} file{many} of a folder cannot be read: {', '.join(reasons)}"
