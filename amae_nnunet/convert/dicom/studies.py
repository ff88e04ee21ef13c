"""From the stacks of a DICOM tree to cases: one case per study, named by keyed hashes.

The sheet stands between the two. It is made from rules and choice, or read back as the user left
it, and cases are made from it alone, so that a second step does what the first one showed. Not in
the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amae_nnunet.convert.codes import CaseError, warning
from amae_nnunet.convert.dicom.choose import Choice, Judged, choose, doubts, unfit
from amae_nnunet.convert.dicom.files import Skipped
from amae_nnunet.convert.dicom.lacking import lacking, unusable
from amae_nnunet.convert.dicom.rules import ACCEPTED, Rules, Verdict
from amae_nnunet.convert.dicom.sheet import Row, channel_of, make_row
from amae_nnunet.convert.dicom.stack import Stack
from amae_nnunet.convert.dicom.unreadable import doubts_of, nothing_readable, unreadable_rows
from amae_nnunet.convert.dicom.volume import DicomVolume
from amae_nnunet.convert.identity import Identities
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.template import Template

_BY_HAND = Verdict("", ACCEPTED, "user", "chosen by hand in the series sheet", "")
_LABEL_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Selection:
    """What decides which stacks are taken.

    Attributes:
        template: the channels and what they accept.
        rules: name the contrasts.
        ids: name cases and subjects.
        b_value: wanted one of TRACE, s/mm2.
        strict: a doubt about a wanted contrast is a problem of the case.
        labels: folder with one label per study, named by case or StudyInstanceUID; None for none.
        sheet: what messages call the table of series.
    """

    template: Template
    rules: Rules
    ids: Identities
    b_value: float = 1000.0
    strict: bool = False
    labels: Path | None = None
    sheet: str = "series.tsv, the table of series that --dry_run writes"


def select(
    stacks: Sequence[Stack], selection: Selection, skipped: Sequence[Skipped] = ()
) -> tuple[list[Row], list[RawCase]]:
    """Name the contrasts of all stacks and choose; the sheet's rows, and the cases by name.

    Args:
        stacks: all of a tree.
        selection: what decides.
        skipped: the files that are no usable image.
    """
    rows: list[Row] = []
    cases = []
    studies = _studies(stacks)
    lost = _lost(studies, selection.ids, skipped)
    for study in studies:
        judged = [_judge(stack, selection.rules) for stack in study]
        accepts = selection.template.accepts
        choices = choose(judged, accepts, b_value=selection.b_value)
        refused = _not_one_study(study, selection.sheet)
        if refused:  # the sheet leaves it to the user
            choices = [Choice(why_not=refused.message)] * len(study)
        case, subject = _names(study, selection.ids)
        rows += [make_row(case, subject, *pair) for pair in zip(judged, choices, strict=True)]
        chosen = {
            choice.channel: DicomVolume(item.stack, item.verdict.evidence, choice.warnings)
            for item, choice in zip(judged, choices, strict=True)
            if choice.channel
        }
        unreadable = lost.pop(case, [])
        rows += unreadable
        if selection.strict and not refused:
            refused = _refused(judged, choices, chosen, selection) or (
                nothing_readable(unreadable, selection.sheet) if unreadable else None
            )
        warnings = (*doubts_of(unreadable), *_not_taken(judged, choices, chosen, selection))
        others = [
            (item.stack, choice.why_not)
            for item, choice in zip(judged, choices, strict=True)
            if channel_of(item.verdict.contrast, accepts) not in chosen
        ]
        cases.append(_case(case, subject, study, chosen, refused, others, selection, warnings))
    for case, unreadable in lost.items():
        rows += unreadable
        cases.append(_lost_case(case, unreadable, selection.sheet))
    return rows, sorted(cases, key=lambda raw: raw.case)


def select_by_sheet(
    rows: Sequence[Row],
    stacks: Mapping[str, Stack],
    selection: Selection,
    before: Mapping[str, str],
) -> list[RawCase]:
    """The cases that a sheet asks for, whatever the rules think.

    Args:
        rows: of ``read_sheet``, which has checked them.
        stacks: key -> stack.
        selection: the rules tell why a contrast was named so.
        before: key -> contrast of what was chosen before anybody edited the sheet.
    """
    by_case: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.case):
        by_case.setdefault(row.case, []).append(row)
    cases = []
    for name, mine in by_case.items():
        unreadable = [row for row in mine if not row.key]
        study = [stacks[row.key] for row in mine if row.key]
        if not study:
            cases.append(_lost_case(name, unreadable, selection.sheet))
            continue
        chosen = {}
        for row in (row for row in mine if row.chosen):
            judged = _judge(stacks[row.key], selection.rules)
            if before.get(row.key) != row.contrast:
                judged = replace(judged, verdict=replace(_BY_HAND, contrast=row.contrast))
            channel = channel_of(row.contrast, selection.template.accepts)
            evidence = judged.verdict.evidence
            chosen[channel] = DicomVolume(judged.stack, evidence, doubts(judged, selection.b_value))
        warnings = doubts_of(unreadable)
        others = _not_asked_for(mine, stacks, chosen, selection)
        cases.append(_case(name, mine[0].subject, study, chosen, None, others, selection, warnings))
    return cases


def _studies(stacks: Sequence[Stack]) -> list[list[Stack]]:
    studies: dict[str, list[Stack]] = {}
    for stack in stacks:
        studies.setdefault(stack.study, []).append(stack)
    return list(studies.values())


def _names(study: Sequence[Stack], ids: Identities) -> tuple[str, str]:
    """Case and subject; a study in which no file has a PatientID is a subject of its own."""
    uid = study[0].study
    patient = next((stack.patient for stack in study if stack.patient), f"study {uid}")
    return ids.case(uid), ids.subject(patient)


def _judge(stack: Stack, rules: Rules) -> Judged:
    return Judged(stack, rules.judge(stack.facts, stack.code, stack.problem))


def _lost(
    studies: Sequence[Sequence[Stack]], ids: Identities, skipped: Sequence[Skipped]
) -> dict[str, list[Row]]:
    """Case -> the rows of what cannot be read and belongs to it, or is all that there is of it."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for study in studies:
        for stack in study:
            owners.setdefault(stack.folder, set()).add(_names(study, ids))
    lost: dict[str, list[Row]] = {}
    for row in unreadable_rows(skipped, owners, ids):
        lost.setdefault(row.case, []).append(row)
    return lost


def _lost_case(case: str, unreadable: Sequence[Row], sheet: str) -> RawCase:
    error = nothing_readable(unreadable, sheet)
    subject = unreadable[0].subject
    return RawCase(case, case, subject, code=error.code, problem=error.message)


def _case(
    case: str,
    subject: str,
    study: Sequence[Stack],
    chosen: Mapping[str, DicomVolume],
    refused: CaseError | None,
    others: Sequence[tuple[Stack, str]],
    selection: Selection,
    more: Sequence[str],
) -> RawCase:
    template = selection.template
    contrasts = {name: chosen[name] for name in template.contrasts if name in chosen}
    code = problem = ""
    damaged = unusable(study, contrasts, selection.rules, template.accepts)
    try:
        if refused:
            raise refused
        missing = template.missing_required(contrasts)
        if missing or not contrasts:
            raise lacking(missing, damaged, others, selection.sheet)
        label = _find_label(case, study[0].study, selection.labels)
    except CaseError as error:
        code, problem, label = error.code, error.message, None
    warnings = [
        warning("W_DROPPED", f"{channel} is dropped ({error.code}): {error.message}")
        for channel, error in damaged.items()
    ]
    return RawCase(
        case,
        case,
        subject,
        contrasts,
        label,
        code=code,
        problem=problem,
        warnings=(*warnings, *more, *_frames(contrasts)),
    )


def _not_one_study(study: Sequence[Stack], sheet: str) -> CaseError | None:
    """Why stacks of one StudyInstanceUID may be of several studies, which must not be mixed."""
    patients = {stack.patient for stack in study if stack.patient}
    if study[0].study and len(patients) < 2:
        return None
    what = f"{len(patients)} patients share one" if study[0].study else "the files have no"
    return CaseError("E_AMBIGUOUS", f"{what} StudyInstanceUID: name the cases in {sheet}")


def _refused(
    judged: Sequence[Judged],
    choices: Sequence[Choice],
    chosen: Mapping[str, DicomVolume],
    selection: Selection,
) -> CaseError | None:
    """What a strict user does not pass over: a channel left out for its damage, a close choice."""
    study = [item.stack for item in judged]
    damaged = unusable(study, chosen, selection.rules, selection.template.accepts)
    for channel, error in damaged.items():
        return CaseError(error.code, f"{channel}: {error.message}")
    doubtful = [
        f"series {item.facts.series_number}: {choice.why_not or choice.warnings[-1]}"
        for item, choice in zip(judged, choices, strict=True)
        if choice.ambiguous
    ]
    if not doubtful:
        return None
    return CaseError("E_AMBIGUOUS", f"{'; '.join(doubtful)}: choose in {selection.sheet}")


def _not_taken(
    judged: Sequence[Judged],
    choices: Sequence[Choice],
    chosen: Mapping[str, DicomVolume],
    selection: Selection,
) -> list[str]:
    """A doubt for each stack that may be a contrast which the study lacks."""
    return [
        warning(
            "W_AMBIGUOUS",
            f"series {item.facts.series_number} may be {item.verdict.contrast} and was not taken: "
            f"{choice.why_not}",
        )
        for item, choice in zip(judged, choices, strict=True)
        if choice.ambiguous
        and channel_of(item.verdict.contrast, selection.template.accepts) not in chosen
    ]


def _not_asked_for(
    rows: Sequence[Row],
    stacks: Mapping[str, Stack],
    chosen: Mapping[str, DicomVolume],
    selection: Selection,
) -> list[tuple[Stack, str]]:
    """The stacks that a sheet leaves out and that might be a contrast which its case lacks.

    Why is what the rules say: a cell may hold anything.
    """
    accepts = selection.template.accepts
    return [
        (stacks[row.key], unfit(_judge(stacks[row.key], selection.rules), accepts) or "not chosen")
        for row in rows
        if row.key and channel_of(row.contrast, accepts) not in chosen
    ]


def _frames(contrasts: Mapping[str, DicomVolume]) -> list[str]:
    """A doubt for each contrast that lies in another frame of reference than most."""
    frames = {name: volume.stack.facts.frame_of_reference for name, volume in contrasts.items()}
    usual = Counter(frame for frame in frames.values() if frame).most_common(1)
    return [
        warning("W_FRAME", f"{name} was not acquired in the position of the others")
        for name, frame in frames.items()
        if frame and frame != usual[0][0]
    ]


def _find_label(case: str, study: str, folder: Path | None) -> NiftiFile | None:
    """The label of a study, by the case's name or the StudyInstanceUID.

    Raises:
        CaseError: there are several.
    """
    names = [f"{name}{ending}" for name in (case, study) for ending in _LABEL_ENDINGS]
    paths = [folder / name for name in names if (folder / name).is_file()] if folder else []
    if len(paths) > 1:
        raise CaseError("E_AMBIGUOUS", f"there are {len(paths)} labels of the case: leave one")
    return NiftiFile(paths[0], "label") if paths else None
