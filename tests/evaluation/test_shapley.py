"""Shapley values against all orders of the players, their axioms, and a model that needs one."""

import itertools
import math

import numpy as np
import pytest
from evaluation.tables import game_scores, row
from hypothesis import given, settings
from hypothesis import strategies as st

from amae_nnunet.evaluation.scores import NOTHING, Scores
from amae_nnunet.evaluation.shapley import play, shapley_values, worths

HAD = ("ADC", "TRACE", "T2")


def reference(values, players):
    """The mean gain over all orders in which the players may come."""
    orders = list(itertools.permutations(range(players)))
    total = [0.0] * players
    for order in orders:
        mask = 0
        for player in order:
            total[player] += values[mask | 1 << player] - values[mask]
            mask |= 1 << player
    return [gain / len(orders) for gain in total]


games = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.floats(-1, 1), min_size=2**k, max_size=2**k).map(np.array)
)


@settings(max_examples=80, deadline=None)
@given(games)
def test_values_are_the_mean_over_all_orders(values):
    players = len(values).bit_length() - 1
    found = shapley_values(values)
    np.testing.assert_allclose(found, reference(values.tolist(), players), atol=1e-12)
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-12)  # efficiency


@settings(max_examples=40, deadline=None)
@given(games, games)
def test_values_are_linear_and_do_not_depend_on_the_others(one, other):
    size = min(len(one), len(other))
    one, other = one[:size], other[:size]
    both = shapley_values(np.stack([one, other]))
    np.testing.assert_allclose(both[0], shapley_values(one), atol=1e-12)
    np.testing.assert_allclose(both.sum(axis=0), shapley_values(one + other), atol=1e-12)


def overall(scores, metric="dice", fixed=()):
    return {w.contrast: w for w in worths(scores, [metric], HAD, fixed) if w.had is None}


def test_a_model_that_needs_one_contrast_gives_it_all_the_worth():
    found = overall(game_scores({"a": {"M": lambda s: 0.8 * ("ADC" in s)}}, HAD))
    assert {name: w.mean for name, w in found.items()} == pytest.approx(
        {"ADC": 0.8, "TRACE": 0, "T2": 0}
    )


def test_what_only_a_pair_tells_is_shared_by_the_pair():
    pair = {"a": {"M": lambda s: 0.9 * ({"ADC", "TRACE"} <= set(s))}}
    found = overall(game_scores(pair, HAD))
    assert {name: w.mean for name, w in found.items()} == pytest.approx(
        {"ADC": 0.45, "TRACE": 0.45, "T2": 0}
    )


def test_a_gain_is_positive_for_metrics_of_which_less_is_better():
    scores = game_scores({"a": {"M": lambda s: 0.8 * ("T2" in s)}}, HAD)
    game = play(scores, "M", "a", "hd95", ())
    assert (game.none, game.all) == (-99, -(9 - 0.8))
    assert sum(game.worth.values()) == pytest.approx(game.all - game.none)
    assert game.worth["T2"] - game.worth["ADC"] == pytest.approx(0.8)


def test_contrasts_that_always_stay_are_no_players_and_the_start_is_their_score():
    dice = {"a": {"M": lambda s: 0.5 * ("ADC" in s) + 0.1 * ("T2" in s) + 0.2 * ("TRACE" in s)}}
    game = play(game_scores(dice, HAD), "M", "a", "dice", {"ADC", "GRE"})
    assert game.players == ("TRACE", "T2")
    assert game.none == pytest.approx(0.5)
    assert game.worth == pytest.approx({"TRACE": 0.2, "T2": 0.1})


def test_worth_is_the_mean_over_cases_with_an_interval_and_by_what_they_had():
    effects = {f"case_{i}": 0.1 * i for i in range(5)}
    games = {
        case: {"M": lambda s, e=e: e * ("T2" in s) + 0.2 * ("ADC" in s)}
        for case, e in effects.items()
    }
    scores = game_scores(games, HAD)
    fewer = game_scores({"case_9": {"M": lambda s: 0.4 * ("ADC" in s)}}, ("ADC", "TRACE"))
    nothing = [row(case, NOTHING, had, ()) for case, had in {**scores.had, **fewer.had}.items()]
    together = Scores([*nothing, *scores.rows, *fewer.rows], ["M"], ["M"], ["infarct"])
    found = overall(together)
    assert found["T2"].n == 5
    assert found["T2"].mean == pytest.approx(0.2)
    low, high = found["T2"].interval
    assert 0 < low < 0.2 < high < 0.4
    assert found["ADC"].n == 6
    assert found["ADC"].mean == pytest.approx((5 * 0.2 + 0.4) / 6)
    groups = {w.had for w in worths(together, ["dice"], HAD, ())}
    assert groups == {None, HAD, ("ADC", "TRACE")}


def test_cases_without_a_drawn_label_or_with_a_subset_that_failed_take_no_part():
    dice = {"a": {"M": lambda s: 0.5}}
    empty = game_scores(dice, HAD, drawn=0.0)
    assert play(empty, "M", "a", "dice", ()) is None
    whole = game_scores(dice, HAD)
    rows = [r for r in whole.rows if r.given != ("T2",)]
    partial = Scores([*rows, row("a", NOTHING, HAD, ())], ["M"], ["M"], ["infarct"])
    assert play(partial, "M", "a", "dice", ()) is None
    assert worths(partial, ["dice"], HAD, ()) == []
    assert not math.isnan(play(whole, "M", "a", "dice", ()).none)
