"""The tables that the command prints: mean Dice, and what compares it.

Where a method was trained several times, methods are compared and the pairs of its models are left
to the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from amae_nnunet.evaluation.compare import ALL_LABELS
from amae_nnunet.evaluation.markup import number, p_value, signed, tested
from amae_nnunet.evaluation.summary import Summary


def tables(summary: Summary) -> str:
    """Mean Dice of each model under each condition, then the pairs of models (Tables 1 to 3)."""
    scores, conditions = summary.scores, summary.wanted.conditions
    label = scores.labels[0] if len(scores.labels) == 1 else ALL_LABELS
    found = {(m.model, m.condition): m for m in summary.means
             if m.metric == "dice" and m.label == label}  # fmt: skip
    rows = [["mean Dice", "cases", *scores.models]]
    for condition in conditions:
        means = [found.get((model, condition.name)) for model in scores.models]
        cases = str(len(scores.common_cases(condition)))
        rows.append([condition.name, cases, *(_number(m.mean if m else math.nan) for m in means)])
    compared = _of_methods(summary, label) if summary.methods else [_of_models(summary)]
    parts = [rows, *(table for table in compared if len(table) > 1)]
    return "\n\n".join(map(_aligned, parts))


def _of_models(summary: Summary) -> list[list[str]]:
    """All pairs of models, and each with and without what is withheld."""
    pairs = [
        [f"{c.condition}: {c.second} minus {c.first}", str(c.n), _typed(signed(c.difference)),
         *map(_typed, tested(c))]
        for c in (*summary.comparisons, *summary.withheld) if c.metric == "dice" and c.n
    ]  # fmt: skip
    return [["Dice", "pairs", "difference", "p", "p (Holm)", "effect"], *pairs]


def _of_methods(summary: Summary, label: str) -> list[list[list[str]]]:
    """The methods over their trainings, and all pairs of them."""
    means = [
        [f"{m.condition}: {m.method}", str(len(m.values)), _number(m.mean), _number(m.sd)]
        for m in summary.methods if m.metric == "dice" and m.label == label
    ]  # fmt: skip
    pairs = [
        [f"{c.condition}: {c.second} minus {c.first}", _typed(signed(c.difference)),
         _typed(p_value(c.p)), _typed(p_value(c.p_holm))]
        for c in summary.method_comparisons if c.metric == "dice" and c.label == label
    ]  # fmt: skip
    return [
        [["Dice", "trainings", "mean", "SD"], *means],
        [["Dice", "difference", "p", "p (Holm)"], *pairs],
    ]


def _number(value: float) -> str:
    return _typed(number(value))


def _typed(shown: str) -> str:
    """A number of the page with the signs that a keyboard has."""
    return shown.replace("−", "-").replace("–", "-")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
