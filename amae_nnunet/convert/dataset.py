"""Many cases: what is to do, the processes that do it, and the tables for the user.

A case that fails is noted and the others go on; a case whose input has not changed since it was
converted is skipped. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from amae_nnunet import __version__
from amae_nnunet.convert.case import CaseJob, convert_case
from amae_nnunet.convert.output import Output
from amae_nnunet.convert.scan import RawCase, scan
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import Template
from amae_nnunet.errors import AMAEError, ConfigError, InputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """How a conversion ended.

    Attributes:
        done: cases converted now.
        skipped: cases that were converted before, from the same input.
        failed: cases that could not be converted.
        present: contrast -> how many cases of this split have it, in channel order.
    """

    done: int
    skipped: int
    failed: int
    present: dict[str, int]


def find_cases(root: Path, template: Template, split: str) -> list[RawCase]:
    """The cases of a raw folder, none of them opened; for ``train`` each must have a label.

    Raises:
        InputError: ``root`` is not a folder of folders.
    """
    cases = scan(root, template)
    if split != "train":
        return cases
    globs = ", ".join(template.label_patterns)
    problem = f"no label: add a file named like {globs}, or convert with --split unlabeled or test"
    return [raw if raw.label or raw.problem else replace(raw, problem=problem) for raw in cases]


def convert(root: Path, template: Template, target: Target, processes: int = 2) -> Summary:
    """Convert all cases of a raw folder into a target.

    Args:
        root: one folder a case.
        template: which files are what.
        target: where to; made if it is not there, added to if it is.
        processes: how many convert at the same time; 1 converts in this process.

    Raises:
        InputError: no case could be used.
        ConfigError: the target does not fit.
    """
    if target.folder.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"{target.folder} lies in the input folder {root}: write elsewhere")
    cases = find_cases(root, template, target.split)
    output = Output.open(target, template)
    skipped = done = 0
    jobs: dict[str, CaseJob] = {}
    try:
        for raw in cases:
            problem = raw.problem or output.clash(raw)
            key = "" if problem else _key(raw, template)
            if problem:
                _fail(output, raw, problem)
            elif output.is_done(raw.case, key):
                skipped += 1
            else:
                jobs[key] = CaseJob(raw, template, output.scratch(raw.case), bool(target.labels))
        for key, future in _run(jobs, processes):
            done += _take(output, jobs[key].raw, key, future)
    finally:
        output.finish()
    if not done + skipped:
        raise InputError(f"none of the {len(cases)} cases could be converted: see the lines above")
    entries = [entry for entry in output.entries.values() if entry["split"] == target.split]
    present = {
        name: sum(entry["present"][channel] == "1" for entry in entries)
        for channel, name in enumerate(template.contrasts)
    }
    return Summary(done, skipped, len(output.failures), present)


def table(cases: Sequence[RawCase], template: Template) -> str:
    """A table of case x contrast, then the files that no pattern fits, then what is wrong."""
    names = [*template.contrasts, "label"]
    width = max(len("case"), *(len(raw.case) for raw in cases))
    lines = ["  ".join(["case".ljust(width), *names])]
    for raw in cases:
        has = {**raw.contrasts, "label": raw.label}
        marks = [("x" if has.get(name) else "-").center(len(name)) for name in names]
        lines.append("  ".join([raw.case.ljust(width), *marks]).rstrip())
    for raw in cases:
        lines += [f"unmatched: {raw.folder.name}/{name}" for name in raw.unmatched]
    lines += [f"case {raw.case}: {raw.problem}" for raw in cases if raw.problem]
    return "\n".join(lines)


def _key(raw: RawCase, template: Template) -> str:
    """A hash of what a case is made from: files (name, size, time), template, version."""
    files = [*raw.contrasts.values(), *([raw.label] if raw.label else [])]
    stats = [(raw.folder / name).stat() for name in files]
    facts = [
        (name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(files, stats, strict=True)
    ]
    content = json.dumps([raw.case, facts, template.digest, __version__])
    return hashlib.sha256(content.encode()).hexdigest()


def _run(jobs: dict[str, CaseJob], processes: int) -> Iterator[tuple[str, Future[dict[str, Any]]]]:
    """Convert the jobs, and yield each one's key and result as it is ready."""
    with _executor(processes) as executor, logging_redirect_tqdm():
        futures = {executor.submit(_convert, job): key for key, job in jobs.items()}
        for future in tqdm(
            as_completed(futures), "convert", len(futures), unit="case", disable=None
        ):
            yield futures[future], future


@contextmanager
def _executor(processes: int) -> Iterator[Executor]:
    executor: Executor
    if processes == 1:
        executor = ThreadPoolExecutor(1)
    else:
        executor = ProcessPoolExecutor(
            processes,
            get_context("spawn"),
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads,
            (1,),
        )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _convert(job: CaseJob) -> dict[str, Any]:
    job.folder.mkdir(parents=True)
    return convert_case(job)


def _take(output: Output, raw: RawCase, key: str, future: Future[dict[str, Any]]) -> bool:
    """Publish a case, or note why it failed; whether it is published."""
    error = future.exception()
    if error is None:
        facts = future.result()
        for warning in facts["warnings"]:
            _log.warning("case %s: warning: %s", raw.case, warning)
        output.publish(raw, key, facts)
    elif isinstance(error, AMAEError):
        _fail(output, raw, str(error))
    elif isinstance(error, BrokenProcessPool):
        _fail(output, raw, "a process died, perhaps out of memory: run again with -np 1")
    else:
        _log.debug("case %s", raw.case, exc_info=error)
        _fail(
            output, raw, f"unexpected {type(error).__name__}: run with -v and report what it says"
        )
    return error is None


def _fail(output: Output, raw: RawCase, reason: str) -> None:
    _log.error("case %s: %s", raw.case, reason)
    output.fail(raw, reason)
