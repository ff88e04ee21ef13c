"""The folder written into: published cases, their ledger, and the files nnU-Net reads.

``cases.jsonl``, the ledger, has one line a case and is the only truth; ``contrasts.json`` and
``dataset.json`` are made from it. A case is a transaction: its files are written into
``.amae_tmp/CASE``, then moved into place, then its line is added. A temporary folder without a
line is what an interrupted run left, and is removed with whatever it had moved. Not in the paper.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

from amae_nnunet import __version__
from amae_nnunet.contrasts import SCHEMA, ContrastRecord
from amae_nnunet.convert.case import ENDING, LABEL_FILE
from amae_nnunet.convert.scan import RawCase
from amae_nnunet.convert.target import LAYOUT, Target
from amae_nnunet.convert.template import Template
from amae_nnunet.errors import ConfigError, InputError

LEDGER = "cases.jsonl"
FAILURES = "failures.jsonl"
_TEMPORARY = ".amae_tmp"
_log = logging.getLogger(__name__)


@dataclass
class Output:
    """An opened target; ``open`` makes one, ``finish`` must end it.

    Attributes:
        target: where cases go.
        template: what their files are.
        entries: the ledger, case -> its line.
        failures: the failures of this run, in order.
    """

    target: Target
    template: Template
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    _taken: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, target: Target, template: Template) -> Output:
        """Open or make the folder, and clear what an interrupted run left.

        Raises:
            ConfigError: the folder is not ours, or is of other contrasts, labels or splits.
            InputError: its ledger or record cannot be read.
        """
        output = cls(target, template)
        if target.folder.exists() and not target.folder.is_dir():
            raise ConfigError(f"{target.folder} is a file: choose a folder")
        if target.folder.is_dir() and any(target.folder.iterdir()):
            output._check_existing()
        for line in _read_lines(target.folder / LEDGER):
            output.entries.pop(line["case"], None)
            if line["key"]:
                output.entries[line["case"]] = line
        output._taken = {case.casefold(): entry for case, entry in output.entries.items()}
        splits = {entry["split"] for entry in output.entries.values()} | {target.split}
        if {"train", "unlabeled"} <= splits:
            raise ConfigError(
                f"{target.folder.name} would hold train and unlabeled cases: give the unlabeled "
                "ones a data set of their own (-d, -n)"
            )
        target.images.mkdir(parents=True, exist_ok=True)
        left = target.folder / _TEMPORARY
        for case in os.listdir(left) if left.is_dir() else ():
            if case not in output.entries:
                output._remove_files(case)
        shutil.rmtree(left, ignore_errors=True)
        output._write_records()
        return output

    def scratch(self, case: str) -> Path:
        """The temporary folder of a case."""
        return self.target.folder / _TEMPORARY / case

    def clash(self, raw: RawCase) -> str:
        """Why the case's name cannot be used here, empty if it can."""
        entry = self._taken.get(raw.case.casefold())
        if entry and entry["source"] != raw.folder.name:
            return f"folder {raw.folder.name} gets the same name as {entry['source']}: rename it"
        if entry and entry["split"] != self.target.split:
            return f"it is in the data set already, in split {entry['split']}: rename one"
        return ""

    def is_done(self, case: str, key: str) -> bool:
        """Whether the case was converted from the same input, and its files are still there."""
        entry = self.entries.get(case, {})
        return entry.get("key") == key and all(
            path.is_file() for path in self._paths(case, "label" in entry).values()
        )

    def publish(self, raw: RawCase, key: str, facts: Mapping[str, Any]) -> None:
        """Move the files of a converted case into place, and add its line."""
        case, scratch = raw.case, self.scratch(raw.case)
        self._withdraw(case)
        for name, path in self._paths(case, "label" in facts).items():
            path.parent.mkdir(exist_ok=True)
            os.replace(scratch / name, path)
        entry = {"case": case, "source": raw.folder.name, "split": self.target.split, "key": key}
        self.entries[case] = {**entry, **facts}
        _append_line(self.target.folder / LEDGER, self.entries[case])
        shutil.rmtree(scratch)

    def fail(self, raw: RawCase, reason: str) -> None:
        """Note that a case failed; what an earlier version of its files gave is removed."""
        failure = {"case": raw.case, "source": raw.folder.name, "split": self.target.split}
        self.failures.append({**failure, "error": reason})
        entry = self.entries.get(raw.case, {})
        if entry.get("source") == raw.folder.name and entry["split"] == self.target.split:
            self.scratch(raw.case).mkdir(parents=True, exist_ok=True)
            self._withdraw(raw.case)
        shutil.rmtree(self.scratch(raw.case), ignore_errors=True)

    def finish(self) -> None:
        """Write ledger, failures, ``contrasts.json`` and ``dataset.json`` as they now are."""
        path = self.target.folder / FAILURES
        kept = [line for line in _read_lines(path) if line["split"] != self.target.split]
        _write_lines(path, kept + self.failures)
        self._write_records()
        shutil.rmtree(self.target.folder / _TEMPORARY, ignore_errors=True)

    def _check_existing(self) -> None:
        folder, template = self.target.folder, self.template
        described = folder / "dataset.json"
        if not (folder / LEDGER).is_file() or described.is_file() != bool(self.target.dataset):
            raise ConfigError(
                f"{folder} holds files that were not written this way: choose an empty folder"
            )
        recorded = ContrastRecord.read(folder).contrasts
        if recorded != tuple(template.contrasts):
            raise ConfigError(
                f"{folder.name} has the contrasts {', '.join(recorded)}, template {template.name} "
                f"has {', '.join(template.contrasts)}: choose another data set or template"
            )
        if described.is_file():
            labels = json.loads(described.read_text(encoding="utf-8"))["labels"]
            if labels != template.labels:
                raise ConfigError(
                    f"{folder.name} has the labels {labels}, template {template.name} has "
                    f"{dict(template.labels)}: choose another data set or template"
                )

    def _paths(self, case: str, label: bool) -> dict[str, Path]:
        """Scratch file name -> published path."""
        channels = [f"{channel:04d}{ENDING}" for channel in range(len(self.template.contrasts))]
        paths = {name: self.target.images / f"{case}_{name}" for name in channels}
        if label and self.target.labels:
            paths[LABEL_FILE] = self.target.labels / f"{case}{ENDING}"
        return paths

    def _withdraw(self, case: str) -> None:
        """Take an old version of a case back, line first."""
        if self.entries.pop(case, None):
            _append_line(self.target.folder / LEDGER, {"case": case, "key": ""})
            self._remove_files(case)

    def _remove_files(self, case: str) -> None:
        for images, labels in LAYOUT.values() if self.target.dataset else [("", None)]:
            for channel in range(len(self.template.contrasts)):
                path = self.target.folder / images / f"{case}_{channel:04d}{ENDING}"
                path.unlink(missing_ok=True)
            if labels:
                (self.target.folder / labels / f"{case}{ENDING}").unlink(missing_ok=True)

    def _write_records(self) -> None:
        folder, template = self.target.folder, self.template
        entries = [self.entries[case] for case in sorted(self.entries)]
        _write_lines(folder / LEDGER, entries)
        record = ContrastRecord(tuple(template.contrasts), template.required)
        for entry in entries:
            flags = [flag == "1" for flag in entry["present"]]
            record.add(entry["case"], flags, entry["split"], subject=entry["case"])
        record.write(folder)
        if self.target.dataset:
            self._write_dataset_json(self.target.dataset)

    def _write_dataset_json(self, dataset: str) -> None:
        training = self.target.folder / LAYOUT["train"][0]
        first = f"_0000{ENDING}"
        found = {path.name.removesuffix(first) for path in training.glob(f"*{first}")}
        for case in sorted(found - set(self.entries)):
            _log.warning(
                "warning: %s has case %s, which is not in %s: remove it",
                training.name,
                case,
                LEDGER,
            )
        scratch = self.scratch("dataset")
        scratch.mkdir(parents=True, exist_ok=True)
        generate_dataset_json(
            str(scratch),
            channel_names={str(index): name for index, name in enumerate(self.template.contrasts)},
            labels=dict(self.template.labels),
            num_training_cases=len(found),
            file_ending=ENDING,
            dataset_name=dataset,
            description=self.template.description,
            license="not given",
            converted_by=f"amae-nnunet-convert {__version__}",
            amae={
                "schema": SCHEMA,
                "contrasts": list(self.template.contrasts),
                "required": list(self.template.required),
            },
        )
        os.replace(scratch / "dataset.json", self.target.folder / "dataset.json")
        shutil.rmtree(scratch)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, but for a last line that was interrupted."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise InputError(f"{path} is not a JSON-lines file: remove the whole folder") from None


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".jsonl.tmp")
    temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def _append_line(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(line)}\n")
