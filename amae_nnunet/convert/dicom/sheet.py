"""The series sheet: what was found in a DICOM tree, as a table that a user can edit and run.

``series.tsv`` has a row for each stack, and one for each folder with files that cannot be read. It
is separated by tabs, and opens in a spreadsheet program. A user may change ``chosen`` (y or n),
``contrast``, ``case`` and ``subject``, and leave out rows; the conversion then does what the sheet
says, whatever the rules think. The other columns are there to be read. The sheet holds text of the
headers and names of folders, so that it is written for its owner's eyes only and belongs outside
the data set. Not in the paper.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from amae_nnunet.convert.dicom.choose import Choice, Judged
from amae_nnunet.convert.dicom.stack import Stack
from amae_nnunet.errors import ConfigError
from amae_nnunet.whole import write_whole

_NEEDED = ("case", "subject", "key", "contrast", "chosen")
_YES, _NO = {"y", "yes", "1", "true", "x"}, {"n", "no", "0", "false", ""}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet program would compute a cell that starts so
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_UNESCAPES = {escape: sign for sign, escape in _ESCAPES.items()}
_KEY_MARK = "k"  # a key of digits and an e would come back from a spreadsheet as another number


@dataclass(frozen=True)
class Row:
    """One stack, or one folder of unreadable files, as the sheet shows it.

    Numbers are text, empty where the header is silent.

    Attributes:
        case: identifier of the case that it belongs to; subject: the patient's.
        key: ``Stack.key``, empty for a folder of unreadable files.
        contrast: what it is, or might be.
        chosen: whether it is converted.
        verdict: ``accepted``, ``rejected``, ``ambiguous`` or ``unreadable``; tier, evidence: see
            ``Verdict``.
        why_not: why it was not chosen; for a chosen one, its doubts.
        spacing: mm; coverage: mm; TE, TR, TI: ms; b: s/mm2.
    """

    case: str
    subject: str
    series: str = ""
    key: str = ""
    contrast: str = ""
    chosen: bool = False
    verdict: str = ""
    tier: str = ""
    evidence: str = ""
    why_not: str = ""
    description: str = ""
    manufacturer: str = ""
    plane: str = ""
    slices: str = ""
    spacing: str = ""
    coverage: str = ""
    TE: str = ""
    TR: str = ""
    TI: str = ""
    b: str = ""
    directionality: str = ""
    size: str = ""
    folder: str = ""


COLUMNS = tuple(column.name for column in fields(Row))


def make_row(case: str, subject: str, judged: Judged, choice: Choice) -> Row:
    """The row of one stack."""
    stack, facts, verdict = judged.stack, judged.facts, judged.verdict
    return Row(
        case=case,
        subject=subject,
        series=str(facts.series_number),
        key=stack.key,
        contrast=verdict.contrast,
        chosen=bool(choice.channel),
        verdict=verdict.status,
        tier=verdict.tier,
        evidence=verdict.evidence,
        why_not=choice.why_not or "; ".join(choice.warnings),
        description=facts.series_description or facts.protocol_name,
        manufacturer=facts.manufacturer,
        plane=facts.plane,
        slices=str(facts.size[2]),
        spacing=" x ".join(f"{side:.4g}" for side in facts.spacing),
        coverage=f"{facts.coverage:.1f}",
        TE=_number(facts.echo_time),
        TR=_number(facts.repetition_time),
        TI=_number(facts.inversion_time),
        b=_number(facts.b_value),
        directionality=facts.directionality,
        size=" x ".join(map(str, facts.size)),
        folder=stack.folder,
    )


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, sorted by case and series, readable for the owner only."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows, key=_place):
        key = _KEY_MARK + row.key if row.key else ""
        cells = asdict(row) | {"key": key, "chosen": "y" if row.chosen else "n"}
        writer.writerow([_cell(cells[column]) for column in COLUMNS])
    write_whole(path, text.getvalue(), 0o600)


def read_sheet(
    path: Path, stacks: Mapping[str, Stack], accepts: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Read a sheet, edited or not.

    Args:
        path: the sheet.
        stacks: key -> stack, of the same input folder.
        accepts: channel -> the contrasts that may feed it.

    Raises:
        ConfigError: it is no such sheet, or asks for what cannot be done; names the line.
    """
    rows: list[Row] = []
    seen: dict[str, int] = {}  # what may be there only once -> line
    subjects: dict[str, str] = {}
    for line, cells in _cells(path):
        try:
            row = _row(cells, stacks)
            once = [f"the key {cells['key']}"] if row.key else []
            if row.chosen or not row.key:
                _check_names(row)
            if row.chosen:
                channel = _check(row, stacks[row.key], accepts)
                once.append(f"a {channel} of case {row.case}")
            if subjects.setdefault(row.case, row.subject) != row.subject:
                raise ConfigError(f"case {row.case} has two subjects: give it one")
            for name in once:
                if name in seen:
                    raise ConfigError(f"line {seen[name]} has {name} already: keep one")
                seen[name] = line
        except ConfigError as error:
            raise ConfigError(f"{path.name} line {line}: {error}") from None
        rows.append(row)
    return rows


def channel_of(contrast: str, accepts: Mapping[str, Sequence[str]]) -> str:
    """The channel that a contrast feeds, empty if none does."""
    return next((channel for channel, names in accepts.items() if contrast in names), "")


def table(rows: Sequence[Row], accepts: Mapping[str, Sequence[str]]) -> str:
    """A table of case x channel, then the doubtful stacks.

    ``x`` stands for a chosen stack, ``?`` for doubtful ones only, ``-`` for none.
    """
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    width = max([len("case"), *map(len, by_case)])
    lines = ["  ".join(["case".ljust(width), *accepts])]
    for case, own in sorted(by_case.items()):
        marks = []
        for channel in accepts:
            fitting = [row for row in own if channel_of(row.contrast, accepts) == channel]
            doubtful = any(row.verdict == "ambiguous" for row in fitting)
            mark = "x" if any(row.chosen for row in fitting) else "-?"[doubtful]
            marks.append(mark.center(len(channel)))
        lines.append("  ".join([case.ljust(width), *marks]).rstrip())
    lines += [
        f"ambiguous: {row.case} series {row.series}: {row.why_not}"
        for row in sorted(rows, key=_place)
        if row.verdict == "ambiguous" or "W_AMBIGUOUS" in row.why_not
    ]
    return "\n".join(lines)


def _place(row: Row) -> tuple[str, int, str, str]:
    """What rows are sorted by."""
    return row.case, int(row.series or 0), row.key, row.folder


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _cell(text: str) -> str:
    """Text as a cell: tabs and line ends escaped, other control characters blank, no formula."""
    text = "".join(_ESCAPES.get(sign, sign if sign.isprintable() else " ") for sign in text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _text(cell: str) -> str:
    """The text of a cell; blanks around it, which are seen by nobody, go."""
    cell = cell.strip()
    if cell.startswith(tuple(f"'{sign}" for sign in _FORMULA)):
        cell = cell[1:]
    return re.sub(r"\\[\\tnr]", lambda found: _UNESCAPES[found[0]], cell)


def _cells(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of each row that is not empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: write it with --dry_run") from None
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    # Only descriptions have letters beyond ASCII, and they are for reading only.
    text = content.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    try:
        table = [(reader.line_num, [_text(cell) for cell in row]) for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path.name} is not a table: {error}") from None
    header = table[0][1] if table else []
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        raise ConfigError(
            f"{path.name} has no column {missing[0]}: keep the first line, and save it as text "
            "separated by tabs"
        )
    wrong = [column for column in header if column not in COLUMNS or header.count(column) > 1]
    if wrong:
        raise ConfigError(f"{path.name} has a column {wrong[0]!r} too many: remove it")
    return [
        (line, dict(zip(header, row + [""] * len(header), strict=False)))
        for line, row in table[1:]
        if any(row)
    ]


def _row(cells: Mapping[str, str], stacks: Mapping[str, Stack]) -> Row:
    chosen = cells["chosen"].lower()
    if chosen not in _YES | _NO:
        raise ConfigError(f"chosen is {cells['chosen']!r}: write y or n")
    key = cells["key"].removeprefix(_KEY_MARK)
    filled: dict[str, Any] = {column: cells.get(column, "") for column in COLUMNS}
    row = Row(**filled | {"key": key, "chosen": chosen in _YES})
    if not key and not row.chosen:
        return row
    if key not in stacks:
        raise ConfigError(f"no stack has the key {cells['key']!r}: write the sheet anew")
    return replace(row, series=str(stacks[key].facts.series_number))


def _check_names(row: Row) -> None:
    for column in ("case", "subject"):
        if not _ID.fullmatch(getattr(row, column)):
            raise ConfigError(
                f"{column} {getattr(row, column)!r}: use letters, digits, '.', '_' and '-' only"
            )
    if row.case.endswith("_seg"):
        raise ConfigError(f"case {row.case}: nnU-Net would take it for a label: rename it")


def _check(row: Row, stack: Stack, accepts: Mapping[str, Sequence[str]]) -> str:
    """The channel that a chosen row feeds.

    Raises:
        ConfigError: it cannot.
    """
    if stack.code:
        raise ConfigError(f"series {row.series} cannot be used: {stack.code}: {stack.problem}")
    channel = channel_of(row.contrast, accepts)
    if not channel:
        known = ", ".join(name for names in accepts.values() for name in names)
        raise ConfigError(f"no channel takes the contrast {row.contrast!r}: use one of {known}")
    return channel
