"""Methods that were trained several times: do they differ by more than their own trainings do?

The tests of ``compare`` hold for trained models. nnU-Net fixes no seed, and two trainings with the
same settings differ, too. Here a method is a sample of trainings, each with its mean over cases,
and two methods are compared by Welch's t-test (1947, Biometrika 34:28), corrected after Holm. The
cases are taken as they are. Not in the paper, which trains each model once.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from amae_nnunet.evaluation.compare import Mean, correct
from amae_nnunet.evaluation.intervals import CONFIDENCE, Interval

#: Method -> the names of its trained models.
Trainings = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Method:
    """A metric of one method under one condition, for one label.

    Attributes:
        values: the mean over cases of each training for which it is defined.
        sd: standard deviation of these, NaN for fewer than two.
    """

    method: str
    condition: str
    label: str
    metric: str
    values: Sequence[float]
    mean: float
    sd: float


@dataclass(frozen=True)
class MethodComparison:
    """Two methods, second minus first.

    Attributes:
        difference: of the means over trainings; ``interval`` is its 95 % interval.
        p: of Welch's two-sided t-test; NaN where a method has fewer than two trainings.
        p_holm: p corrected for all pairs of methods under the same condition and label.
    """

    metric: str
    condition: str
    label: str
    first: str
    second: str
    difference: float
    interval: Interval | None
    p: float
    p_holm: float


def methods(means: Sequence[Mean], trainings: Trainings) -> list[Method]:
    """The methods for each condition, label and metric, in the order of ``means``.

    Args:
        means: of all trained models.
        trainings: of each method.
    """
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for mean in means:
        key = (mean.condition, mean.label, mean.metric)
        found.setdefault(key, {})[mean.model] = mean.mean
    return [
        _method(name, key, [by_model[model] for model in models if model in by_model])
        for key, by_model in found.items()
        for name, models in trainings.items()
    ]


def _method(name: str, key: tuple[str, str, str], values: Sequence[float]) -> Method:
    defined = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(defined) if defined else math.nan
    sd = statistics.stdev(defined) if len(defined) > 1 else math.nan
    return Method(name, *key, defined, mean, sd)


def method_comparisons(found: Sequence[Method]) -> list[MethodComparison]:
    """All pairs of methods under each condition, for each label and metric."""
    tables: dict[tuple[str, str, str], list[Method]] = {}
    for method in found:
        tables.setdefault((method.condition, method.label, method.metric), []).append(method)
    return [
        comparison
        for table in tables.values()
        for comparison in correct([_welch(*pair) for pair in itertools.combinations(table, 2)])
    ]


def _welch(first: Method, second: Method) -> MethodComparison:
    p, interval = math.nan, None
    if first.sd + second.sd > 0:  # two trainings of each, and not all the same
        test = stats.ttest_ind(second.values, first.values, equal_var=False)
        ends = test.confidence_interval(CONFIDENCE)
        p, interval = float(test.pvalue), (float(ends.low), float(ends.high))
    return MethodComparison(
        first.metric, first.condition, first.label, first.method, second.method,
        second.mean - first.mean, interval, p, p,
    )  # fmt: skip
