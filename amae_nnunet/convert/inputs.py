"""The readers of raw studies under one roof: what kind of input a path is, and its cases.

Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amae_nnunet.convert.bids import scan_bids
from amae_nnunet.convert.codes import folded
from amae_nnunet.convert.dataset import table
from amae_nnunet.convert.identity import Identities, default_key_file, hash_cases
from amae_nnunet.convert.layouts import NAMES, detect_layout, layout_template, scan_layout
from amae_nnunet.convert.model import template_of_model
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.table import scan_table, write_table
from amae_nnunet.convert.template import Template, load_template
from amae_nnunet.errors import ConfigError, InputError

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
        strict: a doubt about a contrast is a problem of the case.
        with_label: whether labels will be read.
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
        return Identities.from_file(self.key or default_key_file())


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
        return layout_template(request.layout, request.root, given, request.with_label)
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
    """The cases, with hashed names if asked for, those that lack a label with a problem."""
    cases = hash_cases(cases, request.identities()) if request.hash_ids else list(cases)
    if request.with_label:
        remedy = f"add a file named like {', '.join(template.label_patterns)}"
        cases = _ask_labels(cases, remedy, request.split)
    return Input(cases, template, table(cases, template))


def _ask_labels(cases: Sequence[RawCase], remedy: str, split: str) -> list[RawCase]:
    problem = f"no label: {remedy}, or convert with --split unlabeled or test"
    return [
        replace(raw, code="E_NO_LABEL", problem=problem)
        if (raw.split or split) == "train" and not raw.label and not raw.code
        else raw
        for raw in cases
    ]


def _find_studies(request: Request, template: Template, write_to: Path | None) -> Input:
    """The DICOM part of ``find_cases`` and ``dry_run``; pydicom is wanted from here on."""
    from amae_nnunet.convert.dicom.index import Index, find_index, index_of, load_index, save_index
    from amae_nnunet.convert.dicom.rules import load_rules
    from amae_nnunet.convert.dicom.scan import scan_dicom
    from amae_nnunet.convert.dicom.sheet import read_sheet, write_sheet
    from amae_nnunet.convert.dicom.sheet import table as sheet_table
    from amae_nnunet.convert.dicom.studies import Selection, select, select_by_sheet

    selection = Selection(
        template,
        load_rules(request.rules),
        request.identities(),
        request.b_value,
        request.strict,
        request.labels,
    )
    for verdict in selection.rules.without_channel(template.accepts):
        _log.warning(
            "warning: rule %s names %s, which no channel of %s takes: add it to the template",
            verdict.evidence,
            verdict.contrast,
            template.name,
        )
    if request.sheet:
        index = load_index(find_index(request.sheet))
        stacks = {stack.key: stack for stack in index.stacks}
        files = (file.path for stack in stacks.values() for file in stack.files)
        if not all(Path(file).is_relative_to(request.root.absolute()) for file in files):
            raise ConfigError(
                f"{request.sheet} was written for another folder than {request.root}: give that "
                "one with -i, or write a sheet of this one with --dry_run"
            )
        rows = read_sheet(request.sheet, stacks, template.accepts)
        cases = select_by_sheet(rows, stacks, selection, index.chosen)
    else:
        found = scan_dicom(request.root, request.processes)
        for reason, count in found.reasons.most_common():
            _log.info("%d files skipped: %s", count, reason)
        if not found.stacks and not any(file.code for file in found.skipped):
            raise InputError(f"{request.root} holds no DICOM image: give the folder of the studies")
        rows, cases = select(found.stacks, selection, found.skipped)
        if write_to:
            write_sheet(write_to, rows)
            chosen = {row.key: row.contrast for row in rows if row.chosen}
            save_index(Index(found.stacks, chosen), index_of(write_to))
    if request.with_label:
        remedy = "put CASE.nii.gz (see --dry_run) into the folder given with --labels"
        cases = _ask_labels(cases, remedy, request.split)
    said = [(raw.case, f"{raw.problem} [{raw.code}]") for raw in cases if raw.code]
    for raw in cases:  # of what is ambiguous, the table has the series
        doubts = (text for text in raw.warnings if not text.startswith("W_AMBIGUOUS"))
        said += [(raw.case, f"warning: {text}") for text in doubts]
    lines = [sheet_table(rows, template.accepts), *folded(said)]
    return Input(cases, template, "\n".join(lines))
