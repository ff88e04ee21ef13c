"""Bootstrap intervals of a mean."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 0

Interval = tuple[float, float]


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean over cases, by resampling cases with a fixed seed.

    Bias-corrected and accelerated (``scipy.stats.bootstrap``); by percentiles where that is not
    defined, as it may be for a handful of cases. None for fewer than two values. Values that are
    all the same have an interval without width.
    """
    if len(values) < 2:
        return None
    data = np.asarray(values, float)
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(
                (data,),
                np.mean,
                confidence_level=CONFIDENCE,
                n_resamples=RESAMPLES,
                batch=1000,
                method=method,
                random_state=np.random.default_rng(SEED),
            ).confidence_interval
        if np.isfinite(interval).all():
            break
    return float(interval.low), float(interval.high)
