"""All numbers of an evaluation, made once for the report's page and for its twin in JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from amae_nnunet import __version__
from amae_nnunet.evaluation.compare import (
    Comparison,
    Mean,
    means,
    model_comparisons,
    withheld_comparisons,
)
from amae_nnunet.evaluation.intervals import CONFIDENCE, RESAMPLES, SEED
from amae_nnunet.evaluation.methods import (
    Method,
    MethodComparison,
    Trainings,
    method_comparisons,
    methods,
)
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.scores import NOTHING, Failure, Scores
from amae_nnunet.evaluation.shapley import Worth, worths
from amae_nnunet.evaluation.subsets import Condition, Wanted
from amae_nnunet.subsets import Subset

SCHEMA = 1


@dataclass(frozen=True)
class Group:
    """The cases that had the same contrasts, predicted from the same subset of them.

    Attributes:
        means: metric -> mean over the cases in which it is defined.
    """

    model: str
    had: Subset | None
    given: Subset
    n: int
    means: Mapping[str, float]


@dataclass(frozen=True)
class FalseAlarm:
    """What a model predicts in the ``n`` cases in which a label is empty.

    Attributes:
        alarms: in how many of them it predicts any voxel.
        mean_ml: mean volume that it predicts in all of them.
    """

    model: str
    condition: str
    label: str
    n: int
    alarms: int
    mean_ml: float


@dataclass(frozen=True)
class Summary:
    """What the report shows.

    Attributes:
        title: of the page.
        scores: of all predictions.
        wanted: what was withheld.
        contrasts: names in channel order; empty where there are no images.
        tolerance: of the surface Dice in mm.
        methods: if some method was trained several times, else none.
    """

    title: str
    scores: Scores
    wanted: Wanted
    contrasts: Subset
    tolerance: float
    failures: Sequence[Failure]
    means: Sequence[Mean]
    comparisons: Sequence[Comparison]
    withheld: Sequence[Comparison]
    by_had: Sequence[Group]
    by_given: Sequence[Group]
    worths: Sequence[Worth]
    false_alarms: Sequence[FalseAlarm]
    methods: Sequence[Method]
    method_comparisons: Sequence[MethodComparison]

    @classmethod
    def of(
        cls,
        scores: Scores,
        wanted: Wanted,
        contrasts: Subset,
        trainings: Trainings | None = None,
        **known: Any,
    ) -> Summary:
        """Compute all numbers.

        Args:
            scores: see the attributes.
            wanted: see the attributes.
            contrasts: see the attributes.
            trainings: the models of each method, if some method has several.
            known: the other attributes.
        """
        names, conditions = list(METRICS), wanted.conditions
        by_model = means(scores, conditions, names)
        by_method = methods(by_model, trainings or {})
        return cls(
            scores=scores,
            wanted=wanted,
            contrasts=contrasts,
            means=by_model,
            methods=by_method,
            method_comparisons=method_comparisons(by_method),
            comparisons=[
                found
                for condition in conditions
                for metric in names
                for found in model_comparisons(scores, condition, metric)
            ],
            withheld=[
                found
                for condition in conditions[1:]
                for metric in names
                for found in withheld_comparisons(scores, condition, metric)
            ],
            by_had=by_had(scores),
            by_given=by_given(scores, contrasts),
            worths=worths(scores, names, contrasts, wanted.fixed) if wanted.choice else [],
            false_alarms=false_alarms(scores, conditions),
            **known,
        )

    @property
    def patterns(self) -> dict[Subset, int]:
        """How many cases had which contrasts, most first."""
        counts = Counter(self.scores.had.values())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def to_json(self) -> dict[str, Any]:
        """The twin of the page; NaN is null."""
        parts = (
            "means", "comparisons", "methods", "method_comparisons", "withheld", "by_had",
            "by_given", "worths", "false_alarms",
        )  # fmt: skip
        content = {
            "schema": SCHEMA,
            "title": self.title,
            "version": __version__,
            "models": self.scores.models,
            "contrasts": self.contrasts,
            "required": self.wanted.required,
            "subsets": self.wanted.choice,
            "labels": self.scores.labels,
            "tolerance_mm": self.tolerance,
            "bootstrap": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED},
            "cases": [{"had": had, "n": n} for had, n in self.patterns.items()],
            "failures": self.failures,
            **{part: getattr(self, part) for part in parts},
        }
        plain: dict[str, Any] = _plain(content)
        return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _group(
    scores: Scores, model: str, had: Subset | None, given: Subset, cases: Sequence[str]
) -> Group:
    """Means over cases, then over labels; a label that is defined in none of them is left out."""

    def mean(values: Iterable[float]) -> float:
        defined = [value for value in values if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan

    found = {
        metric: mean(
            mean(scores.value(model, case, given, metric, [label]) for case in cases)
            for label in scores.labels
        )
        for metric in METRICS
    }
    return Group(model, had, given, len(cases), found)


def by_had(scores: Scores) -> list[Group]:
    """The cases as they are, by the contrasts that they had; those with the most first."""
    common, groups = scores.common_cases(Condition()), dict.fromkeys(scores.had.values())
    return [
        _group(scores, model, had, had, [case for case in common if scores.had[case] == had])
        for had in sorted(groups, key=lambda names: -len(names))
        for model in scores.models
        if had in {scores.had[case] for case in common}
    ]


def by_given(scores: Scores, contrasts: Subset) -> list[Group]:
    """Each subset from which every model has predicted some cases, over these; largest first."""
    given = {row.given for row in scores.rows if row.given}
    order = sorted(given, key=lambda names: (-len(names), [contrasts.index(n) for n in names]))
    found = []
    for subset in order:
        cases = [
            case
            for case in scores.cases
            if all(scores.has(model, case, subset) for model in scores.predictors)
        ]
        if cases:
            found += [_group(scores, model, None, subset, cases) for model in scores.predictors]
    return found


def false_alarms(scores: Scores, conditions: Sequence[Condition]) -> list[FalseAlarm]:
    """What is predicted where a label is empty; nothing for labels that never are."""
    found = []
    for condition in conditions:
        cases = scores.common_cases(condition)
        for label in scores.labels:
            empty = [
                case for case in cases
                if scores.value(NOTHING, case, (), "label_ml", [label]) == 0
            ]  # fmt: skip
            for model in scores.models_under(condition) if empty else ():
                ml = [
                    scores.value(
                        model, case, condition.given(scores.had[case]), "predicted_ml", [label]
                    )
                    for case in empty
                ]
                alarms, mean = sum(volume > 0 for volume in ml), sum(ml) / len(ml)
                found.append(FalseAlarm(model, condition.name, label, len(empty), alarms, mean))
    return found
