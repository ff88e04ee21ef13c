"""What ``amae-nnunet-evaluate`` is asked to evaluate, from its arguments to the rows of scores."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from amae_nnunet.errors import AMAEError, ConfigError
from amae_nnunet.evaluation.cases import (
    Labels,
    collect_cases,
    find_dataset_json,
    find_labels,
    find_record,
)
from amae_nnunet.evaluation.scores import Failure, Prediction, Row, score_case
from amae_nnunet.evaluation.subsets import Subset, parse_wanted, subset_name
from amae_nnunet.plans.block import channel_contrasts, required_contrasts
from amae_nnunet.plans.preprocessed import dataset_name, nnunet_folder
from amae_nnunet.prediction.inputs import InputCase, find_cases
from amae_nnunet.prediction.model import TrainedModel
from amae_nnunet.prediction.withheld import predict_withheld
from amae_nnunet.workers import ahead, reason, workers

_NAME = re.compile(r"\w[\w .+-]*")


@dataclass(frozen=True)
class Model:
    """A model by its name; ``trained``: a model folder, not one of predictions."""

    name: str
    folder: Path
    trained: bool

    def dataset_json(self) -> dict[str, Any]:
        """Of the data set that it was trained on."""
        return find_dataset_json([self.folder])


def find_models(args: argparse.Namespace) -> list[Model]:
    """The models that the arguments name.

    Raises:
        ConfigError: one is not there, or two have the same name.
    """
    if args.dataset:
        base = nnunet_folder("nnUNet_results") / dataset_name(args.dataset)
        ending = f"__{args.plans}__{args.configuration}"
        named = [("", base / f"{trainer}{ending}") for trainer in args.trainers]
    else:
        named = [_split_name(text) for text in args.models]
    short = Counter(folder.resolve().name.partition("__")[0] for _, folder in named)
    models = []
    for name, folder in named:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: give a model folder or predictions")
        whole = folder.resolve().name
        shorter = whole.partition("__")[0]
        trained = (folder / "plans.json").is_file() and any(folder.glob("fold_*"))
        models.append(Model(name or (shorter if short[shorter] == 1 else whole), folder, trained))
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            raise ConfigError(f"two models are called {name}: give names, -m NAME=FOLDER")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"model name {name!r}: use letters, digits and . _ + -")
    return models


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


class Study:
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
        self.labels = Labels.of(dataset_json, next(iter(label_files.values())))
        record = find_record(images) if images else find_record(labels)
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
        self.failed = {name: why for name, why in refused.items() if name in label_files}
        label_files = {name: file for name, file in label_files.items() if name not in refused}
        self.cases, failed = collect_cases(label_files, image_files, record, self.labels)
        self.failed.update(failed)

    def _folders(self) -> tuple[Path | None, Path]:
        args = self.args
        images, labels = args.images, args.labels
        if args.dataset and not (images and labels):
            raw = nnunet_folder("nnUNet_raw") / dataset_name(args.dataset)
            images, labels = images or raw / "imagesTs", labels or raw / "labelsTs"
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

    def _inputs(self, images: Path) -> tuple[dict[str, InputCase], dict[str, str]]:
        """The cases that have images, and why others cannot be predicted."""
        found, refused = {}, {}
        for case in find_cases(images, self.labels.ending, self.contrasts):
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
        folder = self._folder(model) / subset_name(given) if model.trained else model.folder
        return folder / f"{case}{self.labels.ending}"

    def _folder(self, model: Model) -> Path:
        output: Path = self.args.output
        return output / "predictions" / model.name

    def _predict_with(
        self, model: Model, wanted: Mapping[str, Sequence[Subset]], count: Callable[[], Any]
    ) -> dict[tuple[str, Subset], str]:
        args = self.args
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.set_num_threads((os.cpu_count() or 1) if device.type == "cpu" else 1)
        opened = TrainedModel.open(
            model.folder,
            args.folds,
            args.checkpoint,
            device,
            with_scores=False,
            tile_step_size=args.step_size,
            use_mirroring=not args.disable_tta,
            perform_everything_on_device=device.type == "cuda",
            verbose=args.verbose,
            allow_tqdm=False,
        )
        inputs = [self.inputs[case.name] for case in self.cases]
        folder = self._folder(model)
        return predict_withheld(opened, inputs, wanted, folder, args.processes, count)

    def score(
        self, predictions: Mapping[str, Sequence[Prediction]]
    ) -> tuple[list[Row], list[Failure]]:
        """Score all predictions; what cannot be read is a failure."""
        rows: list[Row] = []
        failures: list[Failure] = []
        jobs = [
            (case, score_case, (case, predictions[case.name], self.labels, self.args.tolerance))
            for case in self.cases
        ]
        processes = self.args.processes
        with (
            workers(processes) as schedule,
            tqdm(total=len(jobs), desc="score", unit="case", disable=self._silent(1)) as bar,
        ):
            for case, future in ahead(schedule, jobs, 4 * processes):
                try:
                    found, failed = future.result()
                except Exception as error:
                    found, failed = [], [Failure(case.name, "", (), reason(error))]
                rows += found
                failures += failed
                bar.update()
        return rows, failures
