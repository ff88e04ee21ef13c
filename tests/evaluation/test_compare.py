"""Statistics against enumeration, SciPy on hand-made cases, and their own definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amae_nnunet.evaluation.compare import compare, correct, holm, rank_biserial
from amae_nnunet.evaluation.intervals import mean_interval


def samples(first, second):
    named = [{f"case_{i}": value for i, value in enumerate(v)} for v in (first, second)]
    return compare("dice", "as each case is", ("A", "B"), *named)


def reference_ranks(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def reference_wilcoxon(differences):
    """Two-sided p by all signs that the differences could have had."""
    moved = [d for d in differences if d]
    ranks = reference_ranks([abs(d) for d in moved])
    observed = sum(rank for rank, d in zip(ranks, moved, strict=True) if d > 0)
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(moved))
    ]
    below = sum(total <= observed for total in sums) / len(sums)
    above = sum(total >= observed for total in sums) / len(sums)
    return min(1.0, 2 * min(below, above))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
def test_p_is_exact_for_few_pairs(seed, n):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, n))
    found = samples(first, second)
    assert found.p == pytest.approx(reference_wilcoxon(second - first), abs=1e-12)
    assert (found.n, found.ties, found.left_out) == (n, 0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_exact_with_ties_among_the_differences_and_without_differences(seed):
    differences = np.append(np.random.default_rng(seed).integers(-3, 4, 10), 0) / 4
    found = samples(np.full(11, 0.5), 0.5 + differences)
    assert found.p == pytest.approx(reference_wilcoxon(differences), abs=1e-12)
    assert found.ties == (differences == 0).sum() > 0


def test_p_of_many_pairs_is_close_to_that_of_random_signs():
    rng = np.random.default_rng(1)
    differences = np.round(rng.normal(0.03, 0.15, 120), 2)
    found = samples(np.zeros(120), differences)
    moved = differences[differences != 0]
    ranks = np.array(reference_ranks(np.abs(moved).tolist()))
    observed = abs((ranks * np.sign(moved)).sum())
    signs = rng.choice((-1, 1), (200_000, len(moved)))
    assert found.p == pytest.approx((np.abs(signs @ ranks) >= observed).mean(), abs=0.003)


def test_rounding_is_no_difference():
    found = samples([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert (found.ties, found.p, found.effect, found.difference) == (2, 1.0, 0.0, 0.0)


def test_undefined_pairs_are_left_out_and_counted():
    found = samples([0.5, math.nan, 0.2, 0.1], [0.6, 0.9, math.nan, 0.4])
    assert (found.n, found.left_out) == (2, 2)
    assert found.difference == pytest.approx(0.2)
    nothing = samples([math.nan], [0.1])
    assert nothing.n == 0
    assert math.isnan(nothing.p)
    assert math.isnan(nothing.effect)
    assert nothing.interval is None


def test_cases_are_paired_by_name():
    found = compare("dice", "", ("A", "B"), {"x": 0.1, "y": 0.5, "z": 0}, {"y": 0.6, "x": 0.4})
    assert found.n == 2
    assert found.difference == pytest.approx(0.2)
    assert found.effect == 1


def test_the_effect_is_the_difference_of_the_rank_sums():
    differences = np.array([0.5, -0.1, 0.2, 0.0, -0.3])
    ranks = {0.5: 4, -0.1: 1, 0.2: 2, -0.3: 3}
    up = sum(rank for d, rank in ranks.items() if d > 0)
    down = sum(rank for d, rank in ranks.items() if d < 0)
    assert rank_biserial(differences) == pytest.approx((up - down) / (up + down))
    assert rank_biserial(-differences) == pytest.approx((down - up) / (up + down))


def reference_holm(p):
    """By the definition: the smallest level at which the step-down procedure rejects."""
    adjusted = [0.0] * len(p)
    for level in sorted({min(1.0, value * k) for value in p for k in range(1, len(p) + 1)}):
        rejected = set()
        for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - rank) > level:
                break
            rejected.add(i)
        for i in rejected:
            adjusted[i] = adjusted[i] or level
    return [value or 1.0 for value in adjusted]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=7, unique=True))
def test_holm_is_the_step_down_procedure(p):
    assert holm(p) == pytest.approx(reference_holm(p))


def test_holm_leaves_out_what_has_no_p():
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    found = correct([samples([0.1] * 6, np.arange(6)), samples([0.1] * 6, np.arange(6) + 1)])
    assert [c.p for c in found] == [2 / 32, 1 / 32]
    assert [c.p_holm for c in found] == [2 / 32, 2 / 32]


def test_the_interval_is_that_of_resampled_cases():
    values = np.random.default_rng(3).normal(0.1, 0.2, 60)
    low, high = mean_interval(values)
    rng = np.random.default_rng(99)
    means = rng.choice(values, (40_000, 60)).mean(axis=1)
    np.testing.assert_allclose((low, high), np.quantile(means, (0.025, 0.975)), atol=0.004)
    assert mean_interval(values) == (low, high)  # the seed is fixed


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [low <= 0.5 <= high for low, high in (mean_interval(rng.random(25)) for _ in range(100))]
    assert 88 <= sum(hits) <= 99


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([0.3], None), ([0.3, 0.3, 0.3], (0.3, 0.3))]
)
def test_the_interval_of_next_to_nothing(values, expected):
    assert mean_interval(values) == expected


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0] * 9 + [1.0], [1, 1, 1e9]])
def test_the_interval_of_few_and_odd_values_is_finite_and_holds_the_mean(values):
    low, high = mean_interval(values)
    assert low <= np.mean(values) <= high
    assert math.isfinite(high - low)
