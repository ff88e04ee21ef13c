"""A table of cases: CSV or TSV, written by a dry run, edited by the user, read back.

Columns: ``case``; optional ``subject``, ``split`` (train, test or unlabeled), ``label`` and
``problem``; and one a contrast. A cell is a path, absolute or relative to the table's folder;
``dwi.nii.gz[3]`` is volume 3, counted from 0, of a 4-D file. Empty, ``NaN`` or ``n/a`` is absent.
A row with a problem is refused until that cell is emptied, so that no doubt is passed over. A table
is the user's own statement, so its paths may lead anywhere. Not in the paper.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amae_nnunet.contrasts import SPLITS
from amae_nnunet.convert.codes import CODES, CaseError
from amae_nnunet.convert.found import Found
from amae_nnunet.convert.names import listed
from amae_nnunet.convert.scan import case_id, refuse_clashes
from amae_nnunet.convert.source import NiftiFile, RawCase, Source
from amae_nnunet.convert.template import Template
from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.whole import whole_file

ENDINGS = (".csv", ".tsv")
_FIXED = ("case", "subject", "split", "label", "problem")
_OLD = re.compile(r"^row \d+ still has a problem: ")
_EMPTY_IT = "; correct the row and empty that cell"
_PATH = re.compile(r"[/\\]|^\.+$")
_NOT_UTF_8 = re.compile(r"[\ud800-\udfff]")  # bytes of a name as Python keeps them
_RENAME = "a name of its files is not UTF-8: rename it (with convmv, say) and write the table anew"
_ABSENT = {"", "nan", "none", "na", "n/a"}
_CELL = re.compile(r"(?P<path>.*?\.nii(\.gz)?)(\[(?P<volume>\d+)\])?", re.IGNORECASE)


def scan_table(path: Path, template: Template) -> list[RawCase]:
    """List the cases of a table, in its order.

    Raises:
        InputError: the file cannot be read as a table, or has no row.
        ConfigError: a column is unknown, doubled or not there.
    """
    lines = _read(path)
    columns = _check_columns(lines[0], template, path)
    rows = [
        _Row(number, dict(zip(columns, texts, strict=False)), texts[len(columns) :])
        for number, cells in enumerate(lines[1:], start=2)
        if any(texts := [cell.strip() for cell in cells])
    ]
    if not rows:
        raise InputError(f"{path} has no row below its header: add one a case")
    called: dict[str, list[int]] = {}
    for row in rows:
        called.setdefault(row.filled.get("case", ""), []).append(row.number)
    same = {number: numbers for name, numbers in called.items() if name for number in numbers}
    return refuse_clashes(
        [_scan_row(row, same.get(row.number, []), path.parent, template) for row in rows]
    )


def write_table(cases: Sequence[RawCase], path: Path, template: Template) -> None:
    """Write cases as a table from which ``scan_table`` takes the same; for its owner's eyes.

    A case with a name that is not UTF-8, which a table cannot hold, gets a problem.
    """
    contrasts = _contrasts(template)
    with (
        whole_file(path, 0o600) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        writer.writerow(["case", "subject", "split", *contrasts, "label", "problem"])
        for raw in cases:
            cells = {
                _contrast(channel, source, template): _cell(source, path.parent)
                for channel, source in raw.contrasts.items()
            }
            label = _cell(raw.label, path.parent) if raw.label else ""
            problem = f"{raw.code}: {raw.problem}" if raw.code else ""
            files = [cells.get(name, "") for name in contrasts]
            if any(map(_NOT_UTF_8.search, (*files, label))):
                problem = problem or f"E_NAME: {_RENAME}"
            writer.writerow([raw.case, raw.subject, raw.split or "", *files, label, problem])


def _contrasts(template: Template) -> list[str]:
    return [name for names in template.accepts.values() for name in names]


def _contrast(channel: str, source: Source, template: Template) -> str:
    """The contrast that feeds a channel: the one its source names, the channel's own, the best."""
    accepted = template.accepts[channel]
    own = channel if channel in accepted else accepted[0]
    return str(source.facts.get("contrast", own))


def _cell(source: Source, folder: Path) -> str:
    assert isinstance(source, NiftiFile), source  # a DICOM study has no file to name
    path, folder = source.path.absolute(), folder.absolute()
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    volume = "" if source.volume is None else f"[{source.volume}]"
    return f"{inside.as_posix()}{volume}"


def _read(path: Path) -> list[list[str]]:
    """The rows as text; the separator is that of the ending, or for CSV that of the first line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.split("\n", 1)[0]
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;", key=header.count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except OSError as error:
        raise InputError(f"table {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"table {path} is not UTF-8 text: save it as CSV UTF-8") from None
    if not rows:
        raise InputError(f"table {path} is empty: write a header, and one row a case")
    return rows


def _check_columns(cells: Sequence[str], template: Template, path: Path) -> list[str]:
    """The names of the columns, whatever case they were written in."""
    known = {name.casefold(): name for name in (*_FIXED, *_contrasts(template))}
    width = max((place for place, cell in enumerate(cells, start=1) if cell.strip()), default=0)
    columns: list[str] = []
    for cell in cells[:width]:
        name = known.get(cell.strip().casefold())
        if name is None:
            names = ", ".join(known.values())
            raise ConfigError(
                f"table {path}: column {cell!r} is none of {names}: rename or remove it"
            )
        if name in columns:
            raise ConfigError(f"table {path}: column {name} is there twice: remove one")
        columns.append(name)
    if "case" not in columns:
        raise ConfigError(f"table {path} has no column case: name each case in it")
    return columns


@dataclass(frozen=True)
class _Row:
    """One row: its number in the file, its cells by column, and those beyond the last column."""

    number: int
    cells: Mapping[str, str]
    spare: Sequence[str]

    @property
    def filled(self) -> dict[str, str]:
        """The cells that hold something."""
        return {name: text for name, text in self.cells.items() if text.casefold() not in _ABSENT}


def _scan_row(row: _Row, same: Sequence[int], folder: Path, template: Template) -> RawCase:
    """The case of a row; ``same`` are the rows that have its name, itself included."""
    number, texts = row.number, row.filled
    source = texts.get("case", "")
    source = source if source and not _PATH.search(source) else f"row {number}"
    case = case_id(source)
    found = Found(case, source, case_id(texts.get("subject", case)))
    found.split = texts.get("split", "").lower() or None
    try:
        _check_names(texts, same)
        _check_row(row)
    except CaseError as error:
        found.problem = error
    try:
        _add_files(number, texts, folder, found)
    except CaseError as error:
        found.problem = found.problem or error
    return replace(found.raw_case(template, f"fill a cell of row {number}"), named=True)


def _check_names(texts: Mapping[str, str], same: Sequence[int]) -> None:
    if len(same) > 1:
        numbers = listed(list(map(str, same)))
        raise CaseError(
            "E_NAME", f"rows {numbers} are all called {texts['case']}: rename or remove all but one"
        )
    for column in ("case", "subject"):
        if _PATH.search(texts.get(column, "")):
            raise CaseError("E_NAME", f"{column} {texts[column]!r} is a path, no name: rename it")


def _check_row(row: _Row) -> None:
    number, texts = row.number, row.filled
    problem = texts.get("problem", "")
    if problem:
        code, _, text = problem.partition(": ")
        code, text = (code, text) if code in CODES else ("E_TABLE", problem)
        text = _OLD.sub("", text).removesuffix(_EMPTY_IT)
        raise CaseError(code, f"row {number} still has a problem: {text}{_EMPTY_IT}")
    if "case" not in texts:
        raise CaseError("E_TABLE", f"row {number} has no case: name it")
    spare = [text for text in row.spare if text]
    if spare:
        raise CaseError("E_TABLE", f"row {number} has a cell beyond the last column: {spare[0]}")
    split = texts.get("split", "train").lower()
    if split not in SPLITS:
        raise CaseError("E_TABLE", f"row {number}: split {split} is not one of {', '.join(SPLITS)}")
    files = [text for column, text in texts.items() if column not in _FIXED or column == "label"]
    doubled = next((text for text in files if files.count(text) > 1), None)
    if doubled:
        raise CaseError("E_TABLE", f"row {number} has {doubled} in two cells: correct one")


def _add_files(number: int, texts: Mapping[str, str], folder: Path, found: Found) -> None:
    for column, text in texts.items():
        if column == "label":
            found.labels.append(_file(number, column, text, folder))
        elif column not in _FIXED:
            found.add(column, _file(number, column, text, folder))


def _file(number: int, column: str, text: str, folder: Path) -> NiftiFile:
    cell = _CELL.fullmatch(text)
    if cell is None:
        raise CaseError(
            "E_TABLE", f"row {number}, {column}: {text} does not end in .nii or .nii.gz"
        )
    path = folder / cell["path"]
    if not _is_file(path):
        raise CaseError("E_TABLE", f"row {number}, {column}: {text} is not there: correct the path")
    return NiftiFile(path, path.name, volume=int(cell["volume"]) if cell["volume"] else None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be looked into
        return False
