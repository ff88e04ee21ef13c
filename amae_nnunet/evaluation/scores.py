"""The scores of all predictions: one row a case, model, subset of contrasts and label."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amae_nnunet.errors import AMAEError, InputError
from amae_nnunet.evaluation.cases import Case, Labels
from amae_nnunet.evaluation.metrics import METRICS, score
from amae_nnunet.evaluation.place import Place
from amae_nnunet.evaluation.subsets import Condition
from amae_nnunet.intact import check_complete, said
from amae_nnunet.subsets import Subset, subset_name
from amae_nnunet.whole import write_whole

#: Stands as the model of the empty prediction, which is scored for every case.
NOTHING = ""
VOLUMES = ("label_ml", "predicted_ml")


@dataclass(frozen=True)
class Prediction:
    """A file that a model predicted for a case, and from which contrasts."""

    model: str
    given: Subset
    path: Path

    @classmethod
    def of_nothing(cls, case: Case) -> Prediction:
        """The empty prediction, on the grid of the label."""
        return cls(NOTHING, (), case.label)


@dataclass(frozen=True)
class Row:
    """One label of one prediction; ``values`` are those of ``metrics.score``."""

    case: str
    model: str
    had: Subset
    given: Subset
    label: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """What could not be scored; ``model`` is empty where it concerns the whole case."""

    case: str
    model: str
    given: Subset
    reason: str


def score_case(
    case: Case, predictions: Sequence[Prediction], labels: Labels, tolerance: float
) -> tuple[list[Row], list[Failure]]:
    """Score predictions for one case.

    A file that cannot be read or does not fit the label is a failure, not an error.
    """
    try:
        drawn, place = read_labels(case.label, labels)
    except AMAEError as error:
        return [], [Failure(case.name, NOTHING, (), f"its label: {error}")]
    rows: list[Row] = []
    failures = []
    for prediction in predictions:
        model, given = prediction.model, prediction.given
        try:
            predicted, there = read_labels(prediction.path, labels)
            there.check(place)
        except AMAEError as error:
            failures.append(Failure(case.name, model, given, str(error)))
            continue
        if model == NOTHING:
            predicted = np.zeros_like(drawn)
        rows += _rows(case, model, given, drawn, predicted, place.spacing, labels, tolerance)
    return rows, failures


def read_labels(path: Path, labels: Labels) -> tuple[NDArray[Any], Place]:
    """Voxels (Z, Y, X) of a label or prediction, and where they lie.

    Raises:
        InputError: the file is missing, damaged or cannot be read.
    """
    if not path.is_file():
        raise InputError("there is no prediction")
    check_complete(path)
    try:
        voxels, properties = labels.reader().read_seg(str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path.name} cannot be read ({said(error, path.parent)})") from None
    return voxels[0], Place.of(voxels[0], properties)


def _rows(
    case: Case,
    model: str,
    given: Subset,
    drawn: NDArray[Any],
    predicted: NDArray[Any],
    spacing: Sequence[float],
    labels: Labels,
    tolerance: float,
) -> Iterator[Row]:
    counted = np.ones(drawn.shape, bool) if labels.ignore is None else drawn != labels.ignore
    for name, values in labels.values.items():
        masks = [np.isin(voxels, values) & counted for voxels in (drawn, predicted)]
        found = score(masks[0], masks[1], spacing, tolerance)
        yield Row(case.name, model, case.had, given, name, found)


class Scores:
    """All rows, to be asked for the numbers of a model under a condition.

    Attributes:
        rows: of the models' predictions, in the order of models, cases and subsets.
        models: names, in the order in which they were given.
        predictors: those of them that predict, and not only have predicted.
        labels: names.
        had: case -> the contrasts that it had.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        models: Sequence[str],
        predictors: Sequence[str],
        labels: Sequence[str],
    ) -> None:
        self.predictors = tuple(predictors)
        every = sorted(rows, key=lambda row: (row.case, -len(row.given), row.given))
        self.models, self.labels = tuple(models), tuple(labels)
        self.rows = [row for model in models for row in every if row.model == model]
        self.had = {row.case: row.had for row in every}
        self._values: dict[tuple[str, str, Subset], dict[str, Mapping[str, float]]] = {}
        for row in every:
            self._values.setdefault((row.model, row.case, row.given), {})[row.label] = row.values

    @property
    def cases(self) -> list[str]:
        """Names of all cases that have a label."""
        return list(self.had)

    def value(
        self, model: str, case: str, given: Subset, metric: str, labels: Sequence[str]
    ) -> float:
        """A metric of one prediction, the mean over those of ``labels`` for which it is defined.

        NaN where it is defined for none, or where there is no such prediction.
        """
        found = self._values.get((model, case, given), {})
        defined = [found[label][metric] for label in labels if label in found]
        defined = [value for value in defined if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan

    def has(self, model: str, case: str, given: Subset) -> bool:
        """Whether a model's prediction of a case from these contrasts was scored."""
        return (model, case, given) in self._values

    def drawn(self, case: str) -> list[str]:
        """The labels that are not empty in a case."""
        labels = self._values[NOTHING, case, ()]
        return [name for name in self.labels if labels[name]["label_ml"] > 0]

    def models_under(self, condition: Condition) -> tuple[str, ...]:
        """The models that a condition can be asked of; of mere predictions only the first can."""
        return self.predictors if condition.drop else self.models

    def common_cases(self, condition: Condition) -> list[str]:
        """The cases that every model has predicted under a condition."""
        models = self.models_under(condition)
        return [
            case
            for case, had in self.had.items()
            if all(self.has(model, case, condition.given(had)) for model in models)
        ]

    def by_case(
        self, model: str, condition: Condition, metric: str, labels: Sequence[str] = ()
    ) -> dict[str, float]:
        """A metric of each of the common cases, the mean over labels (by default all)."""
        return {
            case: self.value(
                model, case, condition.given(self.had[case]), metric, labels or self.labels
            )
            for case in self.common_cases(condition)
        }


def write_csv(path: Path, scores: Scores) -> Path:
    """Write all rows; what is undefined is left empty."""
    text, names = io.StringIO(), [*METRICS, *VOLUMES]
    writer = csv.writer(text)
    writer.writerow(["model", "case", "had", "given", "label", *names])
    for row in scores.rows:
        values = ["" if math.isnan(row.values[name]) else row.values[name] for name in names]
        sets = [subset_name(row.had), subset_name(row.given)]
        writer.writerow([row.model, row.case, *sets, row.label, *values])
    return write_whole(path, text.getvalue())
