"""Methods that were trained several times, against the formulas of Welch's test."""

import math

import numpy as np
import pytest
from evaluation.tables import game_scores
from scipy import special

from amae_nnunet.evaluation.compare import Mean, holm
from amae_nnunet.evaluation.methods import method_comparisons, methods
from amae_nnunet.evaluation.report import write_report
from amae_nnunet.evaluation.subsets import Condition, Wanted
from amae_nnunet.evaluation.summary import Summary
from amae_nnunet.evaluation.text import tables

HAD = ("ADC", "TRACE")


def a_mean(model, value, condition="as each case is", label="infarct", metric="dice"):
    return Mean(model, condition, label, metric, 9, value, value, None)


def welch(first, second):
    """Difference, p and half width of the 95 % interval, from the formulas of 1947."""
    n, m = len(first), len(second)
    a, b = np.var(first, ddof=1) / n, np.var(second, ddof=1) / m
    difference = np.mean(second) - np.mean(first)
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    t = difference / math.sqrt(a + b)
    p = special.betainc(freedom / 2, 0.5, freedom / (freedom + t * t))
    return difference, p, special.stdtrit(freedom, 0.975) * math.sqrt(a + b)


def test_a_method_is_the_sample_of_its_trainings():
    values = {"a 1": 0.7, "a 2": 0.8, "a 3": 0.6, "b 1": 0.5}
    found = methods(
        [a_mean(m, v) for m, v in values.items()], {"a": ["a 1", "a 2", "a 3"], "b": ["b 1"]}
    )
    assert [m.method for m in found] == ["a", "b"]
    assert found[0].values == [0.7, 0.8, 0.6]
    assert found[0].mean == pytest.approx(0.7)
    assert found[0].sd == pytest.approx(0.1)  # of n - 1
    assert found[1].mean == 0.5
    assert math.isnan(found[1].sd)


def test_undefined_means_take_no_part_and_conditions_labels_metrics_stay_apart():
    trainings = {"a": ["a 1", "a 2"]}
    found = methods(
        [
            a_mean("a 1", math.nan), a_mean("a 2", 0.4),
            a_mean("a 1", 0.1, condition="without T2"), a_mean("a 1", 0.2, label="core"),
            a_mean("a 2", 0.3, metric="hd95"), a_mean("other", 0.9),
        ],
        trainings,
    )  # fmt: skip
    assert [(m.condition, m.label, m.metric, m.values) for m in found] == [
        ("as each case is", "infarct", "dice", [0.4]),
        ("without T2", "infarct", "dice", [0.1]),
        ("as each case is", "core", "dice", [0.2]),
        ("as each case is", "infarct", "hd95", [0.3]),
    ]
    assert methods([a_mean("a 1", 0.4)], {}) == []


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_methods_are_compared_by_welchs_test_and_corrected_together(seed):
    random = np.random.default_rng(seed)
    samples = {name: random.normal(0.7 + 0.02 * i, 0.03, 2 + i) for i, name in enumerate("abc")}
    trainings = {name: [f"{name} {i}" for i in range(len(s))] for name, s in samples.items()}
    found = method_comparisons(methods(
        [a_mean(f"{n} {i}", float(v)) for n, s in samples.items() for i, v in enumerate(s)],
        trainings,
    ))  # fmt: skip
    assert [(c.first, c.second) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    for comparison in found:
        expected = welch(samples[comparison.first], samples[comparison.second])
        difference, p, half = expected
        assert comparison.difference == pytest.approx(difference)
        assert comparison.p == pytest.approx(p, rel=1e-9)
        assert comparison.interval == pytest.approx((difference - half, difference + half))
    assert [c.p_holm for c in found] == holm([c.p for c in found])


@pytest.mark.parametrize(("first", "second"), [([0.5], [0.6, 0.7]), ([0.5, 0.5], [0.6, 0.6])])
def test_where_no_spread_can_be_seen_there_is_no_p(first, second):
    values = {f"a {i}": v for i, v in enumerate(first)} | {
        f"b {i}": v for i, v in enumerate(second)
    }
    trainings = {name: [m for m in values if m[0] == name] for name in "ab"}
    (found,) = method_comparisons(methods([a_mean(*item) for item in values.items()], trainings))
    assert math.isnan(found.p)
    assert found.interval is None
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))


def test_the_tables_and_the_page_compare_methods(tmp_path):
    dice = {"x 1": 0.1, "x 2": 0.12, "y 1": 0.3, "y 2": 0.31}
    games = {
        f"case_{i}": {m: lambda s, v=v, i=i: v * len(s) + 0.01 * i for m, v in dice.items()}
        for i in range(3)
    }
    scores = game_scores(games, HAD, tuple(dice))
    wanted = Wanted((Condition(), Condition(("TRACE",))), "")
    trainings = {name: [f"{name} 1", f"{name} 2"] for name in "xy"}
    summary = Summary.of(scores, wanted, HAD, trainings, title="Study", tolerance=2.0, failures=[])
    printed = tables(summary)
    assert "as each case is: x          2  0.230  0.028" in printed
    assert "without TRACE: y minus x" in printed
    assert "minus x 1" not in printed  # pairs of trainings are left to the page
    found = [c for c in summary.to_json()["method_comparisons"] if c["metric"] == "dice"]
    assert [c["condition"] for c in found] == ["as each case is", "without TRACE"]
    assert found[0]["difference"] == pytest.approx(0.39)
    page = write_report(tmp_path, summary, []).read_text()
    assert page.count("Methods, each trained several times") == 1
    assert "0.210, 0.250" in page
    assert "y 2 minus x 1" in page
