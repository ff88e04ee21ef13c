"""The tables that the command prints: mean Dice, and what compares it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from amae_nnunet.evaluation.compare import ALL_LABELS
from amae_nnunet.evaluation.markup import p_value
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
    parts = [_aligned(rows)]
    pairs = [
        [f"{c.condition}: {c.second} minus {c.first}", str(c.n), f"{c.difference:+.3f}",
         p_value(c.p), p_value(c.p_holm), f"{c.effect:+.2f}"]
        for c in (*summary.comparisons, *summary.withheld) if c.metric == "dice" and c.n
    ]  # fmt: skip
    if pairs:
        heads = ["Dice", "pairs", "difference", "p", "p (Holm)", "effect"]
        parts.append(_aligned([heads, *pairs]))
    return "\n\n".join(parts)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)
