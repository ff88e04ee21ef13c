"""What a contrast is worth: its Shapley value, exactly, over all subsets of contrasts.

A case is a game in which its contrasts are the players, and the value of a subset is the score of
the model's prediction from that subset alone. The value of the empty subset is the score of an
empty prediction. A contrast's Shapley value is what it adds to the score, averaged over all orders
in which the contrasts could have been acquired, so the values of a case sum to the score of all its
contrasts minus that of none (Shapley, 1953). Scores of which less is better are taken negative: a
positive value is always a gain.

Where required contrasts are never withheld they are no players, and the game starts from their
score instead. Only cases count in which a label is drawn, and only labels that are drawn: of
others an empty prediction has no score. A case of which one subset could not be predicted is left
out. Not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amae_nnunet.evaluation.intervals import Interval, mean_interval
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.scores import NOTHING, Scores
from amae_nnunet.subsets import Subset


def shapley_values(values: NDArray[Any]) -> NDArray[Any]:
    """The Shapley values of ``k`` players.

    Args:
        values: (..., 2 ** k) of the subsets; bit ``i`` of the last index says whether player ``i``
            takes part.

    Returns:
        (..., k); they sum to ``values[..., -1] - values[..., 0]``.
    """
    players = values.shape[-1].bit_length() - 1
    masks = np.arange(values.shape[-1])
    sizes = np.array([mask.bit_count() for mask in masks.tolist()])
    found = np.zeros((*values.shape[:-1], players))
    for player in range(players):
        without = masks[masks & (1 << player) == 0]
        weights = [
            math.factorial(size) * math.factorial(players - 1 - size) / math.factorial(players)
            for size in sizes[without].tolist()
        ]
        gains = values[..., without | (1 << player)] - values[..., without]
        found[..., player] = gains @ np.array(weights)
    return found


@dataclass(frozen=True)
class Game:
    """The game of one case.

    Attributes:
        players: contrasts that may be withheld.
        worth: the Shapley value of each of them.
        none, all: the value without and with all of them.
    """

    case: str
    players: Subset
    worth: dict[str, float]
    none: float
    all: float


def play(scores: Scores, model: str, case: str, metric: str, fixed: Collection[str]) -> Game | None:
    """The game of one case, None where a subset has no score.

    Args:
        scores: of all predictions.
        model: whose predictions.
        case: which.
        metric: the value.
        fixed: contrasts that are never withheld.
    """
    had, labels = scores.had[case], scores.drawn(case)
    players = tuple(name for name in had if name not in fixed)
    if not labels or not players:
        return None
    sign = 1 if METRICS[metric] else -1
    values = []
    for mask in range(2 ** len(players)):
        chosen = {name for i, name in enumerate(players) if mask >> i & 1}
        given = tuple(name for name in had if name in fixed or name in chosen)
        author = model if given else NOTHING
        values.append(sign * scores.value(author, case, given, metric, labels))
    if any(math.isnan(value) for value in values):
        return None
    worth = shapley_values(np.array(values)).tolist()
    return Game(case, players, dict(zip(players, worth, strict=True)), values[0], values[-1])


@dataclass(frozen=True)
class Worth:
    """The mean Shapley value of a contrast over the cases that had it, with its 95 % interval.

    Only cases that every model has predicted from every subset count.

    Attributes:
        had: the contrasts that the cases had, of a row for one group of cases; None over all.
    """

    model: str
    metric: str
    contrast: str
    had: Subset | None
    n: int
    mean: float
    interval: Interval | None


def worths(
    scores: Scores, metrics: Sequence[str], contrasts: Sequence[str], fixed: Collection[str]
) -> list[Worth]:
    """Every model, metric and contrast, over the cases of all models and by what the cases had."""
    games = {
        (model, metric): [play(scores, model, case, metric, fixed) for case in scores.cases]
        for model in scores.predictors
        for metric in metrics
    }
    found = []
    for (model, metric), own in games.items():
        tables = zip(*(games[other, metric] for other in scores.predictors), strict=True)
        common = [all(game is not None for game in table) for table in tables]
        played = [game for game, everyones in zip(own, common, strict=True) if game and everyones]
        for had in (None, *dict.fromkeys(scores.had[game.case] for game in played)):
            group = [game for game in played if had in (None, scores.had[game.case])]
            for contrast in contrasts:
                values = [game.worth[contrast] for game in group if contrast in game.players]
                if values:
                    mean, interval = sum(values) / len(values), mean_interval(values)
                    found.append(Worth(model, metric, contrast, had, len(values), mean, interval))
    return found
