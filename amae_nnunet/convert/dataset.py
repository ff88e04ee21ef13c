"""Many cases: what is to do, who does it, and the tables for the user.

A case that fails is noted and the others go on; a case whose input has not changed since it was
converted is skipped. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from amae_nnunet import __version__
from amae_nnunet.convert import parts
from amae_nnunet.convert.case import CaseJob, Options
from amae_nnunet.convert.cluster import run_on_cluster
from amae_nnunet.convert.codes import CaseError, folded
from amae_nnunet.convert.ledger import read_lines
from amae_nnunet.convert.names import counted, listed
from amae_nnunet.convert.output import FAILURES, LEDGER, Output, opened
from amae_nnunet.convert.parts import Part
from amae_nnunet.convert.processes import run_here, run_local
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.splits import count_folds
from amae_nnunet.convert.subjects import refuse_shared
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import Template
from amae_nnunet.convert.worker import Failure, Outcome, Outcomes
from amae_nnunet.errors import ConfigError, InputError

_log = logging.getLogger(__name__)
_BAR = "cases: {n_fmt} of {total_fmt} |{bar}| {elapsed}, {remaining} left{postfix}"


@dataclass(frozen=True)
class Summary:
    """How a conversion ended.

    Attributes:
        done: cases converted now.
        skipped: cases that were converted before, from the same input.
        failed: cases that could not be converted.
        present: contrast -> how many cases of the splits written have it, in channel order.
        written: those splits.
        training: cases of split ``train`` that the target has in all.
        folds: how many folds by subject are written for them.
    """

    done: int
    skipped: int
    failed: int
    present: dict[str, int]
    written: frozenset[str] = frozenset()
    training: int = 0
    folds: int = 0


def convert(
    cases: Sequence[RawCase],
    template: Template,
    target: Target,
    processes: int = 2,
    options: Options | None = None,
    *,
    timeout: float = 600.0,
    part: Part | None = None,
    dask: str = "",
) -> Summary:
    """Convert cases into a target.

    Args:
        cases: what a reader found.
        template: their contrasts and labels.
        target: where to; made if it is not there, added to if it is.
        processes: how many convert at the same time; 1 without a time limit is this process.
        options: the user's.
        timeout: s that a case may take, 0 for no limit.
        part: convert this part of the cases only, and leave the records to ``merge``.
        dask: address of the Dask scheduler whose workers convert, instead of processes here.

    Raises:
        InputError: no case could be used.
        ConfigError: the target does not fit, or the cluster cannot be used.
        CannotWrite: its disk is full.
    """
    options = options or Options()
    with opened(target, template, cases, part) as output:
        if options.strict:
            cases = refuse_shared(cases, output.entries.values(), target.split_of)
        if part:
            cases = [raw for raw in cases if part.has(raw.case)]
        jobs, keys = _plan(cases, output, options)
        _say_what_is_known(cases, jobs, output)
        skipped, done = len(cases) - len(jobs) - len(output.failures), 0
        with (
            closing(_run(jobs, processes, timeout, dask)) as outcomes,
            closing(_counted(outcomes, len(jobs))) as counted,
        ):
            for case, outcome in counted:
                done += _take(output, jobs[case].raw, keys[case], outcome)
    if cases and not part and not done + skipped:
        none = f"none of the {len(cases)} cases could" if len(cases) > 1 else "the case could not"
        raise InputError(f"{none} be converted: see the lines above")
    return _summary(output, done, skipped, len(output.failures), output.splits)


def merge(target: Target, template: Template) -> Summary:
    """Make one data set of what the parts of a run have converted; again, it changes nothing.

    Raises:
        ConfigError: there is nothing to merge, a part has not ended, or the target does not fit.
    """
    if not (parts.part_folders(target.folder) or (target.folder / LEDGER).is_file()):
        raise ConfigError(f"{target.folder} holds no parts: convert with -num_parts first")
    parts.check_ended(target.folder)
    with opened(target, template, []) as output:
        pass
    failed = len(read_lines(target.folder / FAILURES))
    splits = {entry["split"] for entry in output.entries.values()}
    return _summary(output, 0, len(output.entries), failed, splits)


def _plan(
    cases: Iterable[RawCase], output: Output, options: Options
) -> tuple[dict[str, CaseJob], dict[str, str]]:
    """Jobs and keys of the cases that are to be converted; what is wrong already is noted."""
    jobs, keys = dict[str, CaseJob](), dict[str, str]()
    said = []
    for raw in cases:
        try:
            if raw.case in keys:
                raise CaseError("E_NAME", f"{raw.source} is there twice: remove one of them")
            if raw.code:
                raise CaseError(raw.code, raw.problem)
            raw = output.claim(raw)
            key = keys[raw.case] = _key(raw, output.template, options)
            if output.is_done(raw.case, key):
                _log.debug("case %s: skipped, its input is as it was", raw.case)
                _warn(raw.case, output.entries[raw.case])
            else:
                with_label = bool(output.target.labels(output.target.split_of(raw)))
                folder = output.scratch(raw.case)
                jobs[raw.case] = CaseJob(raw, output.template, folder, with_label, options)
        except CaseError as error:
            said.append((raw.case, f"{error.message} [{error.code}]"))
            output.fail(raw, error.code, error.message)
    for line in folded(said):
        _log.error("%s", line)
    return jobs, keys


def _say_what_is_known(cases: Sequence[RawCase], jobs: Collection[str], output: Output) -> None:
    """Print what becomes of earlier conversions: which are made anew, which are not asked for."""
    again = [case for case in jobs if case in output.entries]
    if again:
        what = counted(len(again), "case")
        _log.info("%s converted anew, since input or options changed: %s", what, listed(again))
    names = {raw.case.casefold() for raw in cases}
    known = [
        case
        for case, entry in output.entries.items()
        if entry["split"] in output.splits and (not output.part or output.part.has(case))
    ]
    gone = [case for case in known if case.casefold() not in names]
    if 0 < len(gone) < len(known):  # else the input is another one
        what = counted(len(gone), "case")
        _log.info("%s not in the input any more, but kept: %s", what, listed(sorted(gone)))


def _key(raw: RawCase, template: Template, options: Options) -> str:
    """A hash of what a case is made from: files, template, options, version.

    A file is its size, its time and its name with the folder, so that ``T1/0001.nii`` is not
    ``FLAIR/0001.nii`` and an archive may be moved as a whole.

    Raises:
        CaseError: a file is not there any more.
    """
    sources = {**raw.contrasts, **({"label": raw.label} if raw.label else {})}
    content: list[Any] = [raw.case, raw.subject, list(raw.warnings)]
    content += [template.digest, asdict(options), __version__]
    for name, source in sources.items():
        facts, warnings = dict(source.facts), list(source.warnings)
        content.append([name, source.name, source.part, facts, warnings])
        for path in source.paths:
            try:
                status = path.stat()
            except OSError as error:
                reason = f"{source.name} cannot be read any more ({error.strerror}): copy it again"
                raise CaseError("E_DAMAGED", reason) from None
            content.append([path.parts[-2:], status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _run(jobs: Mapping[str, CaseJob], processes: int, timeout: float, dask: str) -> Outcomes:
    if jobs and dask:
        return run_on_cluster(jobs, dask, timeout)
    if jobs and (processes > 1 or timeout):
        return run_local(jobs, min(processes, len(jobs)), timeout)
    return run_here(jobs)


def _counted(outcomes: Outcomes, total: int) -> Outcomes:
    """The outcomes, with a bar on a terminal, and else ten lines in the log."""
    failed = 0
    bar = tqdm(total=total, bar_format=_BAR, disable=None if total else True)
    with bar, logging_redirect_tqdm():
        for number, (case, outcome) in enumerate(outcomes, 1):
            failed += isinstance(outcome, Failure)
            yield case, outcome
            bar.update()
            bar.set_postfix(done=number - failed, failed=failed, refresh=False)
            if bar.disable and total >= 10 and number * 10 // total > (number - 1) * 10 // total:
                _log.info("%d of %d cases, %d failed", number, total, failed)


def _take(output: Output, raw: RawCase, key: str, outcome: Outcome) -> bool:
    """Publish a case, or note why it failed; whether it is published."""
    if isinstance(outcome, Failure):
        _fail(output, raw, outcome)
        return False
    _warn(raw.case, outcome.facts)
    _log.debug("case %s: %s", raw.case, _sources(raw, outcome.facts, output.template))
    output.publish(raw, key, outcome)
    return True


def _warn(case: str, facts: Mapping[str, Any]) -> None:
    for warning in facts["warnings"]:
        _log.warning("case %s: warning: %s", case, warning)


def _sources(raw: RawCase, facts: Mapping[str, Any], template: Template) -> str:
    """Which file became which channel, and which files became nothing."""
    said = []
    for channel, name in enumerate(template.contrasts):
        how = facts["contrasts"].get(name, {}).get("status", "absent")
        source = f" from {raw.contrasts[name].name}" if name in raw.contrasts else ""
        said.append(f"{channel:04d} {name}{source} ({how})")
    if "label" in facts and raw.label:
        said.append(f"label from {raw.label.name}")
    said += [f"not used: {name}" for name in raw.unmatched]
    return "; ".join(said)


def _fail(output: Output, raw: RawCase, failure: Failure) -> None:
    _log.error("case %s: %s [%s]", raw.case, failure.message, failure.code)
    if failure.details:
        _log.debug("case %s: %s", raw.case, failure.details)
    output.fail(raw, failure.code, failure.message)


def _summary(
    output: Output, done: int, skipped: int, failed: int, splits: Collection[str]
) -> Summary:
    """How it ended; the contrasts are counted in the cases of ``splits``."""
    entries = [entry for entry in output.entries.values() if entry["split"] in splits]
    present = {
        name: sum(entry["present"][channel] == "1" for entry in entries)
        for channel, name in enumerate(output.template.contrasts)
    }
    training = sum(entry["split"] == "train" for entry in output.entries.values())
    folds = count_folds(output.target.folder)
    written = frozenset(entry["split"] for entry in entries)
    return Summary(done, skipped, failed, present, written, training, folds)
