"""What ``amae-nnunet-evaluate`` is asked to evaluate, from its arguments to the rows of scores."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from amae_nnunet.cli.command import device_kind
from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import AMAEError, ConfigError, InputError
from amae_nnunet.evaluation.cases import (
    Labels,
    collect_cases,
    find_dataset_json,
    find_labels,
)
from amae_nnunet.evaluation.crossval import judging_folds
from amae_nnunet.evaluation.kept import KeptScores
from amae_nnunet.evaluation.scores import Failure, Prediction, Row, score_case
from amae_nnunet.evaluation.subsets import parse_wanted
from amae_nnunet.folders import nnunet_folder
from amae_nnunet.plans.block import channel_contrasts, required_contrasts
from amae_nnunet.plans.preprocessed import dataset_name
from amae_nnunet.prediction.folder import beside, model_folder, trained_folds
from amae_nnunet.prediction.inputs import InputCase, find_cases
from amae_nnunet.subsets import Subset, subset_name
from amae_nnunet.workers import Job, ahead, reason, workers

if TYPE_CHECKING:
    from amae_nnunet.prediction.model import TrainedModel

_NAME = re.compile(r"\w[\w .+-]*")


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        name: of its own.
        folder: of the model, or of its predictions.
        trained: it is a model folder.
        method: the name that it was given, which other trainings of the method may have as well.
    """

    name: str
    folder: Path
    trained: bool
    method: str

    def dataset_json(self) -> dict[str, Any]:
        """Of the data set that it was trained on."""
        return find_dataset_json([self.folder])


def find_models(args: argparse.Namespace) -> list[Model]:
    """The models that the arguments name.

    Raises:
        ConfigError: one is not there or given twice, or its name cannot be.
    """
    if args.dataset:
        named = [
            ("", model_folder(args.dataset, trainer, args.plans, args.configuration))
            for trainer in args.trainers
        ]
    else:
        named = [_split_name(text) for text in args.models]
    short = Counter(folder.resolve().name.partition("__")[0] for _, folder in named)
    given, numbers = Counter(name for name, _ in named), Counter[str]()
    models = []
    for name, folder in named:
        if not folder.is_dir():
            advice = beside(folder, "plans.json") or "give a model folder or predictions"
            raise ConfigError(f"{folder} is not a folder: {advice}")
        whole = folder.resolve().name
        shorter = whole.partition("__")[0]
        trained = (folder / "plans.json").is_file() and any(folder.glob("fold_*"))
        method = name or (shorter if short[shorter] == 1 else whole)
        numbers[name] += 1
        several = name and given[name] > 1
        models.append(
            Model(f"{name} {numbers[name]}" if several else method, folder, trained, method)
        )
    _check_names(models)
    return models


def _check_names(models: Sequence[Model]) -> None:
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            raise ConfigError(f"two models are called {name}: give names, -m NAME=FOLDER")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"model name {name!r}: use letters, digits and . _ + -")
    places = Counter((model.method, model.folder.resolve()) for model in models)
    (method, folder), count = places.most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{folder} is given twice as a training of {method}: give each once")


def _split_name(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    return (name, Path(folder)) if equals and not Path(text).exists() else ("", Path(text))


def common_contrasts(models: Sequence[Model]) -> Subset:
    """The contrasts that all models take, in channel order.

    Raises:
        ConfigError: two take others.
    """
    found = {model.name: channel_contrasts(model.dataset_json()) for model in models}
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise ConfigError(
                f"{first} takes {', '.join(found[first])} but {other} {', '.join(found[other])}: "
                "evaluate them apart, and give their predictions to compare them"
            )
    return found[first]


def find_trainings(models: Sequence[Model]) -> dict[str, list[str]]:
    """The models of each method, if some method has several."""
    found: dict[str, list[str]] = {}
    for model in models:
        found.setdefault(model.method, []).append(model.name)
    return found if len(found) < len(models) else {}


class Evaluation:
    """The models and the cases, checked against each other before anything is predicted.

    Raises:
        AMAEError: something is missing or does not fit.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.models = find_models(args)
        self.trained = [model for model in self.models if model.trained]
        images, labels = self._folders()
        places = [*(model.folder for model in self.models), labels, *([images] if images else [])]
        dataset_json = find_dataset_json([args.djfile] if args.djfile else places)
        label_files = find_labels(labels, dataset_json["file_ending"])
        self.judges = self._judges() if args.crossval else {}
        unlabelled = sorted(set(self.judges) - set(label_files))
        if self.judges:
            label_files = {name: label_files[name] for name in self.judges if name in label_files}
        if not label_files:
            raise InputError(f"{labels} has no label of {unlabelled[0]}, nor of any judged case")
        self.labels = Labels.of(dataset_json, next(iter(label_files.values())))
        record = ContrastRecord.beside(images or labels)
        if self.trained:
            self.contrasts = common_contrasts(self.trained)
            required: tuple[str, ...] = required_contrasts(self.trained[0].dataset_json())
        elif record is not None:
            self.contrasts, required = record.contrasts, record.required
        else:
            self.contrasts = channel_contrasts(dataset_json) if images else ()
            required = required_contrasts(dataset_json)
        self.wanted = parse_wanted(args.drop, args.subsets, self.contrasts, required)
        self.inputs, refused = self._inputs(images) if images else ({}, {})
        image_files = {
            name: {self.contrasts[n]: case.files[n] for n in sorted(case.files)}
            for name, case in self.inputs.items()
        }
        self.failed = dict.fromkeys(unlabelled, "it is judged by a fold and has no label")
        self.failed |= {name: why for name, why in refused.items() if name in label_files}
        label_files = {name: file for name, file in label_files.items() if name not in refused}
        self.cases, failed = collect_cases(label_files, image_files, record, self.labels)
        self.failed.update(failed)

    def _folders(self) -> tuple[Path | None, Path]:
        args = self.args
        images, labels = args.images, args.labels
        if args.dataset and not (images and labels):
            raw = nnunet_folder("nnUNet_raw") / dataset_name(args.dataset)
            part = "Tr" if args.crossval else "Ts"
            images, labels = images or raw / f"images{part}", labels or raw / f"labels{part}"
        if self.trained and images is None:
            raise ConfigError(f"{self.trained[0].name} is a model to predict with: give images, -i")
        if args.djfile and not args.djfile.is_file():
            raise ConfigError(f"{args.djfile} is not a file: give dataset.json with -djfile")
        if not self.trained and (args.drop or args.subsets):
            raise ConfigError("--drop and --subsets predict: give a model folder, not predictions")
        for folder in filter(None, (images, labels)):
            if not folder.is_dir():
                raise ConfigError(f"{folder} is not a folder: give -i and -gt")
        return images, labels

    def _judges(self) -> dict[str, str]:
        """In a cross-validation the fold of each case, by default of the folds of all models."""
        args = self.args
        if len(self.trained) < len(self.models):
            others = [model.folder for model in self.models if not model.trained]
            raise ConfigError(f"{others[0]} is no model folder: train it with nnUNetv2_train")
        trained = [trained_folds(model.folder, args.checkpoint) for model in self.trained]
        common = [fold for fold in trained[0] if all(fold in folds for folds in trained)]
        return judging_folds(dataset_name(args.dataset), args.folds or common)

    def _inputs(self, images: Path) -> tuple[dict[str, InputCase], dict[str, str]]:
        """The cases that have images, and why others cannot be predicted."""
        found, refused = {}, {}
        model = self.trained[0].folder if self.trained else Path("MODEL")
        for case in find_cases(images, self.labels.ending, self.contrasts, model):
            try:
                case.check(self.contrasts)
                found[case.name] = case
            except AMAEError as error:
                refused[case.name] = str(error)
        return found, refused

    def predict(self) -> tuple[dict[str, list[Prediction]], list[Failure]]:
        """Predict what is not predicted yet.

        Returns:
            The predictions of each case, and what could not be predicted.
        """
        wanted = {case.name: self.wanted.of_case(case.had) for case in self.cases}
        total = len(self.trained) * sum(map(len, wanted.values()))
        failures: list[Failure] = []
        with tqdm(total=total, desc="predict", unit="case", disable=self._silent(total)) as bar:
            for model in self.trained:
                bar.set_postfix_str(model.name)
                failed = self._predict_with(model, wanted, bar.update)
                failures += [
                    Failure(c, model.name, given, why) for (c, given), why in failed.items()
                ]
        lost = {(failure.case, failure.model, failure.given) for failure in failures}
        predictions = {
            case.name: [
                Prediction(model.name, given, self._path(model, case.name, given))
                for model in self.models
                for given in (wanted[case.name] if model.trained else [case.had])
                if (case.name, model.name, given) not in lost
            ]
            for case in self.cases
        }
        return predictions, failures

    def _silent(self, total: int) -> bool:
        return bool(self.args.disable_progress_bar) or not total

    def _path(self, model: Model, case: str, given: Subset) -> Path:
        folder = model.folder
        if model.trained:
            folder = self._folder(model, self.judges.get(case, "")) / subset_name(given)
        return folder / f"{case}{self.labels.ending}"

    def _folder(self, model: Model, judge: str) -> Path:
        """Of the predictions of a model, or of one of its folds in a cross-validation."""
        output: Path = self.args.output
        return output / "predictions" / model.name / (f"fold_{judge}" if judge else "")

    def _predict_with(
        self, model: Model, wanted: Mapping[str, Sequence[Subset]], count: Callable[[], Any]
    ) -> dict[tuple[str, Subset], str]:
        from amae_nnunet.prediction.withheld import predict_withheld

        failed: dict[tuple[str, Subset], str] = {}
        for judge in sorted(set(self.judges.values())) or [""]:
            opened = self._open(model, [judge] if judge else self.args.folds)
            inputs = [
                self.inputs[case.name]
                for case in self.cases
                if self.judges.get(case.name, "") == judge
            ]
            folder = self._folder(model, judge)
            failed |= predict_withheld(opened, inputs, wanted, folder, self.args.processes, count)
        return failed

    def _open(self, model: Model, folds: Sequence[str]) -> TrainedModel:
        import torch

        from amae_nnunet.prediction.model import TrainedModel

        args = self.args
        device = torch.device(device_kind(args.device))
        torch.set_num_threads((os.cpu_count() or 1) if device.type == "cpu" else 1)
        return TrainedModel.open(
            model.folder,
            folds,
            args.checkpoint,
            device,
            with_scores=False,
            tile_step_size=args.step_size,
            use_mirroring=not args.disable_tta,
            perform_everything_on_device=device.type == "cuda",
            verbose=args.verbose,
            allow_tqdm=False,
        )

    def score(
        self, predictions: Mapping[str, Sequence[Prediction]]
    ) -> tuple[list[Row], list[Failure]]:
        """Score what is not scored yet of the predictions; what cannot be read is a failure."""
        rows: list[Row] = []
        failures: list[Failure] = []
        kept = KeptScores(self.args.output / "scores.jsonl", self.labels, self.args.tolerance)
        jobs: list[Job] = []
        for case in self.cases:
            known, left = kept.split(case, [Prediction.of_nothing(case), *predictions[case.name]])
            rows += known
            if left:
                what = (case, left, self.labels, self.args.tolerance)
                jobs.append(((case, left), score_case, what))
        processes = self.args.processes
        with (
            workers(processes) as schedule,
            tqdm(
                total=len(jobs), desc="score", unit="case", disable=self._silent(len(jobs))
            ) as bar,
        ):
            for (case, left), future in ahead(schedule, jobs, 4 * processes):
                try:
                    found, failed = future.result()
                except Exception as error:
                    found, failed = [], [Failure(case.name, "", (), reason(error))]
                kept.add(case, left, found)
                rows += found
                failures += failed
                bar.update()
        return rows, failures
