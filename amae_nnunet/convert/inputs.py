"""The readers of raw studies under one roof: what kind of input a path is, and its cases.

Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amae_nnunet.convert.bids import scan_bids
from amae_nnunet.convert.codes import folded
from amae_nnunet.convert.identity import Identities, default_key_file, hash_cases
from amae_nnunet.convert.layouts import NAMES, NNUNET, detect_layout, layout_template, scan_layout
from amae_nnunet.convert.model import template_of_model
from amae_nnunet.convert.names import counted, listed, say_renamed
from amae_nnunet.convert.overview import table
from amae_nnunet.convert.scan import is_nifti, scan
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.table import scan_table, write_table
from amae_nnunet.convert.template import Template, load_template
from amae_nnunet.errors import ConfigError, InputError

if TYPE_CHECKING:
    from amae_nnunet.convert.dicom.index import Index
    from amae_nnunet.convert.dicom.scan import Scan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the user wants read, and how.

    Attributes:
        root: the raw studies.
        layout: ``auto``, ``dicom``, ``bids``, ``folders``, ``table`` or a name of ``layouts``.
        template: name or path, empty for the layout's own.
        model: folder of the model that the inputs are for, None for a data set.
        split: of cases whose input names none.
        sheet: file of a dry run, that says what is converted; None to find out.
        rules: file of the user's contrast rules (DICOM).
        b_value: wanted one of TRACE, s/mm2 (DICOM).
        labels: folder of the labels of DICOM studies.
        hash_ids: name cases by keyed hashes; DICOM studies always are.
        key: file of the secret key, None for the user's own.
        make_key: whether that file may be made.
        strict: a doubt about a contrast is a problem of the case.
        with_label: whether training cases need labels; not where all are inference inputs.
        processes: that read DICOM headers at the same time.
    """

    root: Path
    layout: str = "auto"
    template: str = ""
    model: Path | None = None
    split: str = "train"
    sheet: Path | None = None
    rules: Path | None = None
    b_value: float = 1000.0
    labels: Path | None = None
    hash_ids: bool = False
    key: Path | None = None
    make_key: bool = True
    strict: bool = False
    with_label: bool = True
    processes: int = 1

    def known(self) -> Request:
        """The request with its layout found out."""
        layout = detect_layout(self.root) if self.layout == "auto" else self.layout
        _log.debug("%s is read as %s", self.root, layout)
        return replace(self, layout=layout)

    def identities(self) -> Identities:
        """What names cases by hashes."""
        return Identities.from_file(self.key or default_key_file(), self.make_key)


@dataclass(frozen=True)
class Input:
    """What a reader found.

    Attributes:
        cases: none of them opened.
        template: their contrasts and labels.
        table: case x contrast, and what is doubtful, as text.
    """

    cases: list[RawCase]
    template: Template
    table: str


def find_cases(request: Request) -> Input:
    """Read what is there; or, with a sheet, what the sheet says.

    Raises:
        InputError: the input is not what it should be.
        ConfigError: template, rules, sheet or key cannot be used.
    """
    request = request.known()
    template = find_template(request)
    if request.layout == "dicom":
        return _find_studies(request, template, None)
    cases = scan_table(request.sheet, template) if request.sheet else _scan(request, template)
    return _found(request, template, cases)


def dry_run(request: Request, sheet: Path) -> Input:
    """Read what is there, and write a sheet to edit.

    Raises:
        ConfigError: the sheet exists already, and may have been edited; or as ``find_cases``.
        InputError: see ``find_cases``.
    """
    request = request.known()
    if sheet.exists():
        raise ConfigError(f"{sheet} exists: remove it, or name another file with --series")
    if not os.access(sheet.absolute().parent, os.W_OK):
        raise ConfigError(f"{sheet}: no file can be made there: name another one with --series")
    template = find_template(request)
    if request.layout == "dicom":
        return _find_studies(request, template, sheet)
    cases = _scan(request, template)
    write_table(cases, sheet, template)
    return _found(request, template, cases)


def find_template(request: Request) -> Template:
    """The template asked for: the user's, fitted to the layout or the model.

    Raises:
        ConfigError: it cannot be used, or none was given where one is needed.
    """
    given = load_template(request.template) if request.template else None
    if request.model:
        given = template_of_model(request.model, given)
    if request.layout in NAMES:
        asked = request.split != "unlabeled" or request.layout == NNUNET  # names splits itself
        with_label = request.with_label and asked
        return layout_template(request.layout, request.root, given, with_label)
    if given is None:
        raise ConfigError("which template? give -t LGG, -t Infarct or -t FILE.json")
    return given


def _scan(request: Request, template: Template) -> list[RawCase]:
    if request.layout == "folders":
        return scan(request.root, template)
    if request.layout == "bids":
        return scan_bids(request.root, template)
    if request.layout == "table":
        return scan_table(request.root, template)
    return scan_layout(request.root, request.layout, template)


def _found(request: Request, template: Template, cases: Sequence[RawCase]) -> Input:
    """The cases, with hashed names if asked for, those that lack a label with a problem.

    Raises:
        ConfigError: they are to be unlabelled, and each is said to be something else.
    """
    named = {raw.split for raw in cases}
    if request.split == "unlabeled" and named and not named & {None, "unlabeled"}:
        raise ConfigError(
            f"--split unlabeled: {request.root} itself says of each case that it is "
            f"{' or '.join(sorted(filter(None, named)))}: leave --split out, or take the labels "
            "(or the column split) out of it"
        )
    if request.hash_ids:
        cases = hash_cases(cases, request.identities())
    else:
        say_renamed(cases)
    if request.with_label:
        remedy = f"add a file named like {', '.join(template.label_patterns)}"
        cases = _ask_labels(cases, remedy, request.split)
    return Input(list(cases), template, table(cases, template))


def _ask_labels(cases: Sequence[RawCase], remedy: str, split: str) -> list[RawCase]:
    problem = (
        f"no label: {remedy}, or convert it with --split test, or with --split unlabeled into a "
        "data set of its own"
    )
    return [
        replace(raw, code="E_NO_LABEL", problem=problem)
        if (raw.split or split) == "train" and not raw.label and not raw.code
        else raw
        for raw in cases
    ]


def _find_studies(request: Request, template: Template, write_to: Path | None) -> Input:
    """The DICOM part of ``find_cases`` and ``dry_run``; pydicom is wanted from here on."""
    from amae_nnunet.convert.dicom.index import Index, index_of, save_index
    from amae_nnunet.convert.dicom.rules import load_rules
    from amae_nnunet.convert.dicom.sheet import read_sheet, write_sheet
    from amae_nnunet.convert.dicom.sheet import table as sheet_table
    from amae_nnunet.convert.dicom.studies import Selection, select, select_by_sheet

    index = _read_index(request.root, request.sheet) if request.sheet else None
    ids = replace(request, make_key=request.make_key and not request.sheet).identities()
    rules = load_rules(request.rules)
    selection = Selection(template, rules, ids, request.b_value, request.strict, request.labels)
    table_of_series = request.sheet or write_to
    if table_of_series:
        selection = replace(selection, sheet=table_of_series.name)
    for verdict in rules.without_channel(template.accepts):
        _log.warning(
            "warning: rule %s names %s, which no channel of %s takes: add it to the template",
            verdict.evidence,
            verdict.contrast,
            template.name,
        )
    if request.sheet and index:
        stacks = {stack.key: stack for stack in index.stacks}
        rows = read_sheet(request.sheet, stacks, template.accepts)
        if not ids.made({row.case: stacks[row.key].study for row in rows if row.key}):
            raise ConfigError(f"{request.sheet} was written with another key: give it with --key")
        cases = select_by_sheet(rows, stacks, selection, index.chosen)
    else:
        found = _read_headers(request.root, request.processes)
        rows, cases = select(found.stacks, selection, found.skipped)
        index = Index(found.stacks, {row.key: row.contrast for row in rows if row.chosen})
        if write_to:
            write_sheet(write_to, rows)
            save_index(index, index_of(write_to))
    if request.labels:
        studies = {stack.study for stack in index.stacks}
        named = {raw.case for raw in cases} | studies | {ids.case(study) for study in studies}
        _say_unused(request.labels, named)
    if request.with_label and (request.labels or not write_to):  # who looks has none yet
        remedy = "put CASE.nii.gz (see --dry_run) into the folder given with --labels"
        cases = _ask_labels(cases, remedy, request.split)
    cases = [replace(raw, id_key=ids.mark) for raw in cases]
    lines = [sheet_table(rows, template.accepts), *_problems_and_doubts(cases)]
    return Input(cases, template, "\n".join(lines))


def _problems_and_doubts(cases: Sequence[RawCase]) -> list[str]:
    """What the headers of studies tell already; of what is ambiguous, the table has the series."""
    said = [(raw.case, f"{raw.problem} [{raw.code}]") for raw in cases if raw.code]
    for raw in cases:
        of_contrasts = (text for source in raw.contrasts.values() for text in source.warnings)
        doubts = (*raw.warnings, *of_contrasts)
        known = (text for text in doubts if not text.startswith("W_AMBIGUOUS"))
        said += [(raw.case, f"warning: {text}") for text in known]
    return folded(said)


def _read_index(root: Path, sheet: Path) -> Index:
    """What a dry run of ``root`` found."""
    from amae_nnunet.convert.dicom.index import find_index, load_index

    index = load_index(find_index(sheet))
    files = (file.path for stack in index.stacks for file in stack.files)
    if not all(Path(file).is_relative_to(root.absolute()) for file in files):
        raise ConfigError(
            f"{sheet} was written for another folder than {root}: give that one with -i, or write "
            "a sheet of this one with --dry_run"
        )
    return index


def _read_headers(root: Path, processes: int) -> Scan:
    """What the headers of all files tell."""
    from amae_nnunet.convert.dicom.scan import scan_dicom

    found = scan_dicom(root, processes)
    for reason, count in found.reasons.most_common():
        _log.info("%s skipped: %s", counted(count, "file"), reason)
    if not found.stacks and not any(file.code for file in found.skipped):
        raise _no_study(root)
    return found


def _no_study(root: Path) -> InputError:
    """What is to be said of a folder without a DICOM image."""
    nifti = next((path for path in root.rglob("*") if is_nifti(path)), None)
    if not nifti:
        return InputError(f"{root} holds no DICOM image: give the folder of the studies")
    inside = nifti.relative_to(root)
    return InputError(
        f"{root} holds no DICOM image, and NIfTI files too far down ({inside}): give the folder "
        f"that holds one folder a case, e.g. -i {root / inside.parts[0]}"
    )


def _say_unused(folder: Path, named: Collection[str]) -> None:
    """Warn of files in the folder of labels that are called like no study."""
    files = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    unused = [name for name in files if name.removesuffix(".gz").removesuffix(".nii") not in named]
    if unused:
        said = f"warning: {counted(len(unused), 'file')} of --labels fit no study"
        _log.warning("%s: %s: call them CASE.nii.gz, see --dry_run", said, listed(unused))
