"""Models against each other: the paper's tables.

Means (Tables 1 and 2) are taken as nnU-Net takes them: over the cases in which a label's score is
defined, then over labels. Tests (Table 3) are paired by case: the two-sided Wilcoxon signed-rank
test of the paper (section 2.4), on the mean over the labels of a case. What is new is the rest: all
pairs of one table are corrected together after Holm (1979, Scand J Stat 6:65), and beside p stand
the number of pairs, the effect size and an interval of the mean difference.

Every model is asked about the same cases: those that all of them have predicted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from amae_nnunet.evaluation.intervals import Interval, mean_interval
from amae_nnunet.evaluation.scores import Scores
from amae_nnunet.evaluation.subsets import Condition

#: Differences are compared to so many decimals; beyond them they are rounding.
DECIMALS = 12

_Tested = TypeVar("_Tested", bound=Any)


@dataclass(frozen=True)
class Mean:
    """A metric of one model under one condition.

    Attributes:
        n: the cases in which it is defined.
        interval: None for fewer than two cases, and over several labels if one is undefined in
            some case, since the mean is then not one over cases.
    """

    model: str
    condition: str
    label: str
    metric: str
    n: int
    mean: float
    median: float
    interval: Interval | None


ALL_LABELS = "mean over labels"


def means(scores: Scores, conditions: Sequence[Condition], metrics: Sequence[str]) -> list[Mean]:
    """Every model, condition and metric, for each label and for the mean over labels."""
    return [
        found
        for condition in conditions
        for model in scores.models_under(condition)
        for metric in metrics
        for found in _means(scores, model, condition, metric)
    ]


def _means(scores: Scores, model: str, condition: Condition, metric: str) -> list[Mean]:
    columns = {
        label: list(scores.by_case(model, condition, metric, [label]).values())
        for label in scores.labels
    }
    found = []
    for label, column in columns.items():
        values = [value for value in column if not math.isnan(value)]
        mean, median = _mean(values), float(np.median(values)) if values else math.nan
        interval = mean_interval(values)
        found.append(
            Mean(model, condition.name, label, metric, len(values), mean, median, interval)
        )
    if len(columns) > 1:
        values = list(scores.by_case(model, condition, metric).values())
        values = [value for value in values if not math.isnan(value)]
        whole = not any(math.isnan(value) for column in columns.values() for value in column)
        found.append(
            Mean(
                model, condition.name, ALL_LABELS, metric, len(values),
                _mean([part.mean for part in found]),
                float(np.median(values)) if values else math.nan,
                mean_interval(values) if whole else None,
            )
        )  # fmt: skip
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@dataclass(frozen=True)
class Comparison:
    """Two paired samples, second minus first.

    Attributes:
        first, second: what they are of.
        n: pairs in which both are defined.
        left_out: pairs in which one is not; they take no part.
        ties: pairs without a difference, which the test discards, after Wilcoxon.
        difference: mean of the differences; ``interval`` is its 95 % interval.
        median: of the differences.
        p: of the two-sided Wilcoxon signed-rank test; exact up to 50 pairs (13 where differences
            are tied), else by the normal approximation. 1 where all pairs are ties, NaN for none.
        p_holm: p corrected for the comparisons of the same table.
        effect: matched-pairs rank-biserial correlation, -1 to 1: the share of the rank sum in
            favour of higher values of the second, minus that of the first.
    """

    metric: str
    condition: str
    first: str
    second: str
    n: int
    left_out: int
    ties: int
    difference: float
    median: float
    interval: Interval | None
    p: float
    p_holm: float
    effect: float

    @property
    def is_small(self) -> bool:
        """Whether so few pairs differ that no p below 0.05 is possible: the least is 2 / 2^n."""
        return 0 < self.n - self.ties <= 5


def compare(
    metric: str,
    condition: str,
    names: tuple[str, str],
    first: Mapping[str, float],
    second: Mapping[str, float],
) -> Comparison:
    """Compare two samples by their cases; ``p_holm`` is ``p`` until ``correct`` is called."""
    both = [case for case in first if case in second]
    pairs = np.array([(first[case], second[case]) for case in both], float).reshape(-1, 2)
    defined = pairs[~np.isnan(pairs).any(axis=1)]
    differences = np.round(defined[:, 1] - defined[:, 0], DECIMALS)
    p = _wilcoxon(differences)
    return Comparison(
        metric, condition, *names,
        n=len(defined),
        left_out=len(pairs) - len(defined),
        ties=int((differences == 0).sum()),
        difference=_mean(differences.tolist()),
        median=float(np.median(differences)) if len(differences) else math.nan,
        interval=mean_interval(differences.tolist()),
        p=p,
        p_holm=p,
        effect=rank_biserial(differences),
    )  # fmt: skip


def _wilcoxon(differences: NDArray[Any]) -> float:
    if not len(differences):
        return math.nan
    moved = differences[differences != 0]
    return float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0


def rank_biserial(differences: NDArray[Any]) -> float:
    """Matched-pairs rank-biserial correlation of differences (n,); 0 where all of them are zero.

    Kerby (2014, Comprehensive Psychology 3:11.IT.3.1): the rank sums of the absolute differences,
    those above zero minus those below, over their sum.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return 0.0 if len(differences) else math.nan
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays and counts for nothing."""
    order = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=lambda i: p[i])
    corrected = list(p)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = highest
    return corrected


def correct(comparisons: Sequence[_Tested]) -> list[_Tested]:
    """The comparisons of one table, corrected together; each has ``p``, and gets ``p_holm``."""
    corrected = holm([comparison.p for comparison in comparisons])
    return [replace(c, p_holm=p) for c, p in zip(comparisons, corrected, strict=True)]


def model_comparisons(scores: Scores, condition: Condition, metric: str) -> list[Comparison]:
    """All pairs of models under one condition (Table 3), the earlier-named one first."""
    models = scores.models_under(condition)
    by_model = {model: scores.by_case(model, condition, metric) for model in models}
    return correct(
        [
            compare(metric, condition.name, pair, by_model[pair[0]], by_model[pair[1]])
            for pair in itertools.combinations(models, 2)
        ]
    )


def withheld_comparisons(scores: Scores, condition: Condition, metric: str) -> list[Comparison]:
    """Each model with what is withheld against without it, on the cases that had it."""
    whole, found = Condition(), []
    for model in scores.predictors:
        had = [case for case, names in scores.had.items() if set(names) & set(condition.drop)]
        samples = [
            {case: value for case, value in scores.by_case(model, c, metric).items() if case in had}
            for c in (condition, whole)
        ]
        found.append(compare(metric, model, (condition.name, whole.name), samples[0], samples[1]))
    return correct(found)
