"""Predict case after case; what goes wrong with one is told, and the others go on.

Preprocessing and export run in processes of their own, ahead of the network and behind it. The
files of a case are written into a hidden folder and moved into place when all are complete,
``CASE.json`` last: a case that has it is done. Not in the paper.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits

from amae_nnunet.errors import AMAEError
from amae_nnunet.prediction.expected import Expected, read_record
from amae_nnunet.prediction.inputs import RESERVED, InputCase, preprocess
from amae_nnunet.prediction.model import TrainedModel
from amae_nnunet.whole import write_json
from amae_nnunet.workers import Job, Schedule, ahead, reason, workers

log = logging.getLogger(__name__)

SCRATCH = ".amae_tmp"


@dataclass(frozen=True)
class Options:
    """How to predict, in nnU-Net's words."""

    output: Path
    save_probabilities: bool = False
    continue_prediction: bool = False
    npp: int = 3
    nps: int = 3


@dataclass
class Outcome:
    """What became of the cases.

    Attributes:
        done: predicted now.
        skipped: predicted by an earlier run.
        failed: those that could not be predicted, and why.
        lacking: those predicted, now or earlier, without a required contrast.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)


class Run:
    """One run over the cases of a folder."""

    def __init__(self, model: TrainedModel, options: Options) -> None:
        self.model, self.options = model, options
        self.outcome = Outcome()
        self.keys: dict[str, str] = {}
        self.endings = [model.facts.dataset_json["file_ending"]]
        if options.save_probabilities:
            self.endings += [".npz", ".pkl"]

    def predict(self, cases: Sequence[InputCase], schedule: Schedule | None = None) -> Outcome:
        """Predict all cases that are not predicted yet, and report each as it is done.

        Args:
            cases: of the input folder.
            schedule: of ``workers`` that serve several runs; by default this one has its own.
        """
        output = self.options.output
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "dataset.json", self.model.facts.dataset_json)  # as stock nnU-Net,
        write_json(output / "plans.json", self.model.facts.plans.plans)  # for its later commands
        pending = [case for case in cases if not self._is_done(case)]
        npp, nps = self.options.npp, self.options.nps
        try:
            with nullcontext(schedule) if schedule else workers(npp + nps) as scheduled:
                reads = ahead(scheduled, self._reads(pending), npp)
                exports = ahead(scheduled, self._exports(reads), nps)
                for expected, future in exports:
                    self._finish(expected, future, len(pending))
        finally:
            for case in cases:
                shutil.rmtree(self._scratch(case.name), ignore_errors=True)
            with suppress(OSError):  # another part has files in it, or removed it
                (output / SCRATCH).rmdir()
        return self.outcome

    def _scratch(self, case: str) -> Path:
        return self.options.output / SCRATCH / case

    def _files(self, folder: Path, case: str) -> list[Path]:
        """The files of a case, the one that says that it is done at the end."""
        return [folder / f"{case}{ending}" for ending in [*self.endings, ".json"]]

    def _is_done(self, case: InputCase) -> bool:
        """Whether an earlier run of the same model and settings predicted a case as it is now."""
        files = self._files(self.options.output, case.name)
        if not self.options.continue_prediction or not all(map(Path.is_file, files)):
            return False
        record, names = read_record(files[-1]), self.model.names
        theirs = record.get("model")  # earlier versions told less of it
        if not isinstance(theirs, dict) or {**names, **theirs} != names:
            log.warning(
                "warning: case %s was predicted by another model or with other settings: it is "
                "predicted again",
                case.name,
            )
            return False
        if record.get("key", case.key) != case.key:
            log.warning(
                "warning: the images of case %s are not those that were predicted: it is "
                "predicted again",
                case.name,
            )
            return False
        self.outcome.skipped.append(case.name)
        if record["required_absent"]:
            self.outcome.lacking.append(case.name)
        return True

    def _remove(self, case: str) -> None:
        """Remove the results of an earlier run, whatever it was to write."""
        for ending in (".json", ".npz", ".pkl", self.endings[0]):
            (self.options.output / f"{case}{ending}").unlink(missing_ok=True)
        shutil.rmtree(self._scratch(case), ignore_errors=True)

    def _reads(self, cases: Iterable[InputCase]) -> Iterator[Job]:
        """What is to be preprocessed; first the results of an earlier run are removed."""
        for case in cases:
            if case.name not in RESERVED:
                self._remove(case.name)
            try:
                case.check(self.model.contrasts)
            except AMAEError as error:
                self._fail(case.name, error)
                continue
            self.keys[case.name] = case.key  # of what is read now
            yield case, preprocess, (case, self.model.facts, self._scratch(case.name))

    def _exports(self, reads: Iterable[tuple[InputCase, Future[Any]]]) -> Iterator[Job]:
        """What is to be exported: each case that could be read goes through the network."""
        model, facts = self.model, self.model.facts
        for case, future in reads:
            try:
                data, properties, flags = future.result()
                if model.predictor.allow_tqdm:  # nnU-Net's bar of windows names no case
                    log.info("predicting case %s", case.name)
                logits = model.predictor.predict_logits_from_preprocessed_data(
                    torch.from_numpy(data)
                )
            except Exception as error:
                self._fail(case.name, error)
                continue
            expected = Expected.of(
                case.name,
                flags,
                model.contrasts,
                model.required,
                model.scores,
                model.names["checkpoint"],
            )
            scratch = self._scratch(case.name)
            try:
                scratch.mkdir(parents=True, exist_ok=True)
                record = expected.to_json(model.names, self.keys[case.name])
                write_json(scratch / f"{case.name}.json", record)
            except OSError as error:
                self._fail(case.name, error)
                continue
            arguments = (
                logits.cpu().numpy(), properties, facts.configuration, facts.plans,
                facts.dataset_json, str(scratch / case.name), self.options.save_probabilities,
            )  # fmt: skip
            yield expected, export_prediction_from_logits, arguments

    def _finish(self, expected: Expected, future: Future[Any], total: int) -> None:
        """Move the files of a case into place, and say what to expect of it."""
        case = expected.case
        try:
            future.result()
            for path in self._files(self._scratch(case), case):
                path.replace(self.options.output / path.name)
            shutil.rmtree(self._scratch(case))
        except Exception as error:
            self._fail(case, error)
            return
        self.outcome.done.append(case)
        self.tell(expected, total)
        if expected.required_absent:
            self.outcome.lacking.append(case)

    def tell(self, expected: Expected, total: int) -> None:
        """Say that a case is done, and what to expect of it."""
        print(f"[{len(self.outcome.done)}/{total}] {expected}", flush=True)
        for warning in expected.warnings:
            log.warning("warning: case %s: %s", expected.case, warning)

    def _fail(self, case: str, error: BaseException) -> None:
        self.outcome.failed[case] = reason(error)
        log.error("case %s failed: %s", case, self.outcome.failed[case])
