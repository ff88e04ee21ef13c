"""The folder written into: published cases, and the ledger that says which they are.

``cases.jsonl``, the ledger, has one line a case and is the only truth; all other records are made
from it. A case is a transaction: its files are written and checked in ``.amae_tmp/CASE``, then
moved into place, then its line is added. A temporary folder without a line is what an interrupted
run left, and is removed with whatever it had moved. A part of a run (``parts.py``) keeps its
ledger in a folder of its own; whoever opens the whole target takes all parts in. Not in the paper.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.convert import parts
from amae_nnunet.convert.case import ENDING, LABEL_FILE, MONTAGE_FILE
from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.ledger import append_line, read_lines, write_lines
from amae_nnunet.convert.parts import Part
from amae_nnunet.convert.records import DESCRIPTION, write_records
from amae_nnunet.convert.report import write_report
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.subjects import mark_shared
from amae_nnunet.convert.target import LAYOUT, Target
from amae_nnunet.convert.template import Template
from amae_nnunet.convert.worker import DISK_FULL, Converted
from amae_nnunet.errors import CannotWrite, ConfigError, InputError
from amae_nnunet.lock import locked
from amae_nnunet.parse import parse_json

LEDGER = "cases.jsonl"
FAILURES = "failures.jsonl"
MONTAGES = "report"
_TEMPORARY = ".amae_tmp"
_LOCK = ".amae_lock"
_CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_log = logging.getLogger(__name__)


@contextmanager
def opened(
    target: Target, template: Template, cases: Sequence[RawCase], part: Part | None = None
) -> Iterator[Output]:
    """Open or make a target, clear what an interrupted run left, and leave true records.

    Args:
        target: where cases go.
        template: what their files are.
        cases: those of this run with all its parts.
        part: which part of the run this is; None takes in what parts have done.

    Raises:
        ConfigError: the folder is not ours, is in use by another run, is of other contrasts,
            labels or splits, or its cases are named another way.
        CannotWrite: its disk is full.
        InputError: its ledger, its record or its description cannot be read.
    """
    _check_folder(target)
    with ExitStack() as stack:
        stack.enter_context(_full_disk_explained(target.folder))
        target.folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(target.folder / _LOCK, shared=part is not None))
        if part:
            part.folder(target.folder).mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(part.folder(target.folder) / _LOCK))
        splits = frozenset(target.split_of(raw) for raw in cases)
        output = Output(target, template, splits, frozenset(raw.id_key for raw in cases), part)
        output.begin()
        ended = False
        try:
            yield output
            ended = True
        finally:
            output.finish(ended)


@dataclass
class Output:
    """An opened target; ``opened`` makes one.

    Attributes:
        target: where cases go.
        template: what their files are.
        splits: those that the run may write.
        id_keys: marks of the keys that the run's cases are named with.
        part: which part of the run this is.
        entries: the ledger, case -> its line.
        failures: the failures of this run.
    """

    target: Target
    template: Template
    splits: frozenset[str]
    id_keys: frozenset[str]
    part: Part | None = None
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    _taken: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def begin(self) -> None:
        """Read what is there, and clear what an interrupted run left."""
        self._check_existing()
        shards = [self._journal] if self.part else parts.part_folders(self._folder)
        for folder in dict.fromkeys([self._folder, *shards]):
            for line in read_lines(folder / LEDGER):
                self.entries.pop(line["case"], None)
                if line["key"]:
                    self.entries[line["case"]] = line
        self._check_splits()
        self._check_names()
        if self.part:
            digest, splits = self.template.digest, sorted(self.splits)
            parts.enter(self.part, self._folder, digest, splits, sorted(self.id_keys))
        self._taken = {
            case.casefold(): (case, entry["source"], entry["split"])
            for case, entry in self.entries.items()
        }
        for folder in {self._journal, *shards}:
            self._clear(folder / _TEMPORARY)
        if self.part:  # a last line may be half
            write_lines(self._journal / LEDGER, read_lines(self._journal / LEDGER))
        else:
            self._take_in(shards)

    def finish(self, ended: bool) -> None:
        """Write failures and records as they now are.

        Args:
            ended: whether all cases were tried; if not, what failed before still counts.
        """
        self._clear(self._journal / _TEMPORARY)
        tried = {failure["source"] for failure in self.failures}
        kept = [
            line
            for line in read_lines(self._journal / FAILURES)
            if line["split"] not in self.splits
            or not (ended or line["source"] in tried or line["case"] in self.entries)
        ]
        write_lines(self._journal / FAILURES, _in_order(kept + self.failures))
        if not self.part:
            for line in self._write_records():
                _log.warning("warning: %s", line)
            write_report(
                self._folder,
                self._folder.name,
                list(self.template.contrasts),
                [self.entries[case] for case in sorted(self.entries)],
                read_lines(self._folder / FAILURES),
                MONTAGES,
            )
        elif ended:
            parts.leave(self.part, self._folder)

    def scratch(self, case: str) -> Path:
        """The temporary folder of a case."""
        return self._journal / _TEMPORARY / case

    def claim(self, raw: RawCase) -> RawCase:
        """Take a case's name.

        Returns:
            The case; if a table calls it as an earlier run did, from the same source as then.

        Raises:
            CaseError: it cannot be used, or another case has it.
        """
        if not _CASE.fullmatch(raw.case):
            raise CaseError("E_NAME", f"{raw.case!r} cannot be a file's name: rename it")
        split = self.target.split_of(raw)
        case, source, other = self._taken.setdefault(
            raw.case.casefold(), (raw.case, raw.source, split)
        )
        if source != raw.source and not (raw.named and raw.case == case):
            raise CaseError("E_NAME", f"{raw.source} gets the same name as {source}: rename it")
        if other != split:
            raise CaseError(
                "E_NAME",
                f"it is there already, in split {other}: leave it out, or rename it if it is "
                "another patient",
            )
        return replace(raw, source=source)

    def is_done(self, case: str, key: str) -> bool:
        """Whether the case was converted from the same input, and its files are still there."""
        entry = self.entries.get(case, {})
        return entry.get("key") == key and all(
            path.is_file() for path in self._paths(case, entry).values()
        )

    def publish(self, raw: RawCase, key: str, converted: Converted) -> None:
        """Move the files of a converted case into place, and add its line."""
        line = {
            "case": raw.case,
            "source": raw.source,
            "subject": raw.subject,
            "split": self.target.split_of(raw),
            "id_key": raw.id_key,
            "key": key,
            **converted.facts,
        }
        self._withdraw(raw.case)
        for name, path in self._paths(raw.case, line).items():
            path.parent.mkdir(exist_ok=True)
            os.replace(converted.folder / name, path)
        append_line(self._journal / LEDGER, line)
        self.entries[raw.case] = line
        shutil.rmtree(self.scratch(raw.case), ignore_errors=True)

    def fail(self, raw: RawCase, code: str, reason: str) -> None:
        """Note that a case failed; what an earlier version of its files gave is removed.

        It stays where the failure says nothing of the files: a name, or a forgotten ``--labels``.
        """
        split = self.target.split_of(raw)
        failure = {"case": raw.case, "source": raw.source, "split": split}
        self.failures.append({**failure, "code": code, "error": reason})
        entry = self.entries.get(raw.case)
        same = entry and (entry["source"], entry["split"]) == (raw.source, split)
        if same and code not in ("E_NAME", "E_NO_LABEL"):
            _log.warning("case %s: warning: its earlier conversion is removed", raw.case)
            self.scratch(raw.case).mkdir(parents=True, exist_ok=True)
            self._withdraw(raw.case)
        if _CASE.fullmatch(raw.case):
            shutil.rmtree(self.scratch(raw.case), ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return self.target.folder

    @property
    def _journal(self) -> Path:
        """Where this run keeps ledger, failures and scratch."""
        return self.part.folder(self._folder) if self.part else self._folder

    def _check_existing(self) -> None:
        folder, template = self._folder, self.template
        described = folder / DESCRIPTION
        if described.is_file() and not self.target.dataset:
            raise ConfigError(f"{folder} is a data set: choose another folder for -o")
        if not (folder / LEDGER).is_file():
            return  # an earlier run was stopped before it had written anything
        if self.target.dataset and not described.is_file():
            raise ConfigError(f"{folder} holds inference inputs: choose another data set")
        recorded = ContrastRecord.read(folder).contrasts
        if recorded != tuple(template.contrasts):
            raise ConfigError(
                f"{folder.name} has the contrasts {', '.join(recorded)}, template {template.name} "
                f"has {', '.join(template.contrasts)}: choose another data set or template"
            )
        if described.is_file():
            try:
                labels = parse_json(described.read_text(encoding="utf-8"))["labels"]
            except (ValueError, LookupError, TypeError):
                raise InputError(
                    f"{described} is damaged: restore it, or remove {folder.name} and convert anew"
                ) from None
            if labels != template.labels:
                raise ConfigError(
                    f"{folder.name} has the labels {labels}, template {template.name} has "
                    f"{dict(template.labels)}: choose another data set or template"
                )

    def _check_splits(self) -> None:
        """Refuse labelled and unlabelled cases side by side in ``imagesTr``."""
        there = {entry["split"] for entry in self.entries.values()}
        if not {"train", "unlabeled"} <= there | self.splits:
            return
        name = self._folder.name
        if "unlabeled" in there:
            raise ConfigError(
                f"{name} holds unlabeled cases: convert the labelled ones into another data set "
                f"(-d, -n) and pre-train there with --unlabeled {name}; or, if all have labels "
                f"now, remove {name} and convert them anew"
            )
        raise ConfigError(
            f"{name} would hold train and unlabeled cases: convert the unlabeled ones into "
            f"another data set (-d, -n) and pre-train on {name} with --unlabeled and its number"
        )

    def _check_names(self) -> None:
        """Refuse names by hashes of two keys, or hashed and plain ones."""
        there, name = recorded_keys(self._folder), self._folder.name
        if len(there | self.id_keys) < 2:
            return
        if "" in self.id_keys:
            said = "has hashed names: give --ids hash, and --key as before"
        elif "" in there:
            said = "has plain names, and these would be hashes: choose another data set"
        else:
            said = "has names hashed with another key: give the key file used so far with --key"
        raise ConfigError(f"{name} {said}")

    def _take_in(self, shards: list[Path]) -> None:
        """Make ledger and failures of the parts the target's own; then the parts are forgotten."""
        abouts = [parts.read_about(folder) for folder in shards]
        if any(about["template"] != self.template.digest for about in abouts):
            raise ConfigError(
                f"{self._folder.name} holds parts of another template than {self.template.name}: "
                "merge them with that one"
            )
        replaced = {split for about in abouts for split in about["splits"]}
        lines = [
            line for line in read_lines(self._folder / FAILURES) if line["split"] not in replaced
        ]
        for folder in shards:
            lines += read_lines(folder / FAILURES)
        write_lines(self._folder / FAILURES, _in_order(lines))
        self._write_records()
        if shards:
            scratch = self._folder / _TEMPORARY
            scratch.mkdir(exist_ok=True)
            os.rename(self._folder / parts.PARTS, scratch / parts.PARTS)  # all of them at once
            shutil.rmtree(scratch, ignore_errors=True)

    def _write_records(self) -> list[str]:
        """Write the ledger and, from it, what nnU-Net and a reader need; the ledger comes last.

        Returns:
            Lines about what is not as it should be.
        """
        entries = [self.entries[case] for case in sorted(self.entries)]
        for case in mark_shared(entries):
            _log.warning("case %s: warning: %s", case, self.entries[case]["warnings"][-1])
        scratch = self._folder / _TEMPORARY
        doubts = write_records(self.target, self.template, entries, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
        write_lines(self._folder / LEDGER, entries)
        return doubts

    def _paths(self, case: str, entry: Mapping[str, Any]) -> dict[str, Path]:
        """Scratch file name -> published path."""
        images, labels = self.target.images(entry["split"]), self.target.labels(entry["split"])
        channels = [f"{channel:04d}{ENDING}" for channel in range(len(self.template.contrasts))]
        paths = {name: images / f"{case}_{name}" for name in channels}
        if "label" in entry and labels:
            paths[LABEL_FILE] = labels / f"{case}{ENDING}"
        if entry["montage"]:
            paths[MONTAGE_FILE] = self._montage(case)
        return paths

    def _montage(self, case: str) -> Path:
        return self._folder / MONTAGES / f"{case}.webp"

    def _withdraw(self, case: str) -> None:
        """Take an old version of a case back, line first."""
        if self.entries.pop(case, None):
            append_line(self._journal / LEDGER, {"case": case, "key": ""})
            self._remove_files(case)

    def _remove_files(self, case: str) -> None:
        self._montage(case).unlink(missing_ok=True)
        for images, labels in LAYOUT.values() if self.target.dataset else [("", None)]:
            for channel in range(len(self.template.contrasts)):
                path = self._folder / images / f"{case}_{channel:04d}{ENDING}"
                path.unlink(missing_ok=True)
            if labels:
                (self._folder / labels / f"{case}{ENDING}").unlink(missing_ok=True)

    def _clear(self, scratch: Path) -> None:
        """Remove a temporary folder, and what was moved out of it for cases without a line."""
        for case in os.listdir(scratch) if scratch.is_dir() else ():
            if case not in self.entries:
                self._remove_files(case)
        shutil.rmtree(scratch, ignore_errors=True)


def recorded_keys(folder: Path) -> set[str]:
    """How the cases of a target are named so far: marks of keys, and empty for names kept."""
    parts_of_it = parts.part_folders(folder)
    lines = [line for path in (folder, *parts_of_it) for line in read_lines(path / LEDGER)]
    named = {line["id_key"] for line in lines if "id_key" in line}
    return named.union(*(parts.read_about(path)["id_keys"] for path in parts_of_it))


def _check_folder(target: Target) -> None:
    folder = target.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).is_file():
        raise ConfigError(
            f"{folder} holds files that were not written this way: choose an empty folder"
        )


def _in_order(failures: list[dict[str, str]]) -> list[dict[str, str]]:
    """Failures in an order that says nothing of the run."""
    return sorted(failures, key=lambda line: (line["case"], line["source"], line["split"]))


@contextmanager
def _full_disk_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise CannotWrite.of(folder, error) from None
