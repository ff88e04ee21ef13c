"""The sections of the report in which two samples meet: models, and what was withheld."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from amae_nnunet.evaluation.charts import Pairs, paired_dots
from amae_nnunet.evaluation.compare import Comparison
from amae_nnunet.evaluation.markup import (
    FIRST,
    between,
    charts,
    figure_cell,
    fold,
    named,
    signed,
    table,
    tested,
    text,
)
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.subsets import Condition
from amae_nnunet.evaluation.summary import Summary

_PANELS = 4  # side by side in a chart
_MEANING = (
    "p says whether these trained models differ on cases like these. Another training with the "
    "same settings is another model, and may differ by as much: train several to compare methods."
)
_SMALL = (
    "Of n pairs that differ (n less ties), p is never below 2/2ⁿ: with 5 or fewer no p below 0.05 "
    "is possible, whatever the models are like."
)
_CAPTION = "one line per case: green rises, red falls; thick the mean"


def against_each_other(summary: Summary) -> str:
    """All pairs of models, under each condition."""
    content = []
    for condition in summary.wanted.conditions:
        found = [c for c in summary.comparisons if c.condition == condition.name]
        if found:
            content.append(f"<h3>{escape(condition.name)}</h3>")
            content.append(_charts(_model_pairs(summary, condition, found)))
            content.append(_tables(found, "{second} minus {first}"))
    return f"<p>{_MEANING}</p>{''.join(content)}" if content else ""


def _model_pairs(
    summary: Summary, condition: Condition, found: Sequence[Comparison]
) -> list[Pairs]:
    values = {
        model: list(summary.scores.by_case(model, condition, FIRST).values())
        for model in summary.scores.models_under(condition)
    }
    return [
        Pairs("", (c.first, c.second), values[c.first], values[c.second])
        for c in found
        if c.metric == FIRST
    ]


def withheld(summary: Summary) -> str:
    """Each model without and with what a condition withholds."""
    content = []
    for condition in summary.wanted.conditions[1:]:
        drop = ", ".join(condition.drop)
        found = [c for c in summary.withheld if c.first == condition.name]
        content.append(f"<h3>{escape(drop)}</h3><p>In the cases that had it.</p>")
        content.append(_charts(_withheld_pairs(summary, condition)))
        content.append(_tables(found, f"{{condition}}: with {drop} minus without"))
    return "".join(content)


def _withheld_pairs(summary: Summary, condition: Condition) -> list[Pairs]:
    scores, pairs = summary.scores, []
    names = (condition.name, f"with {', '.join(condition.drop)}")
    had = [case for case, given in scores.had.items() if set(given) & set(condition.drop)]
    for model in scores.predictors:
        samples = [scores.by_case(model, c, FIRST) for c in (condition, Condition())]
        both = [case for case in had if all(case in sample for sample in samples)]
        first, second = ([sample[case] for case in both] for sample in samples)
        pairs.append(Pairs(model, names, first, second))
    return pairs


def _charts(pairs: Sequence[Pairs]) -> str:
    chunks = [pairs[start : start + _PANELS] for start in range(0, len(pairs), _PANELS)]
    return charts((paired_dots(chunk, "Dice"), _CAPTION) for chunk in chunks)


def _tables(found: Sequence[Comparison], what: str) -> str:
    """The first metric open, the others behind a fold."""
    tables = {
        metric: _table(named(metric), what, [c for c in found if c.metric == metric])
        for metric in METRICS
    }
    others = [content for metric, content in tables.items() if metric != FIRST]
    note = f"<p>{_SMALL}</p>" if any(comparison.is_small for comparison in found) else ""
    return note + tables[FIRST] + fold("other metrics", "".join(others))


def _table(caption: str, what: str, found: Sequence[Comparison]) -> str:
    rows = [
        [
            text(what.format(first=c.first, second=c.second, condition=c.condition)),
            figure_cell(f"{c.n}"),
            figure_cell(f"{c.ties}"),
            figure_cell(f"{c.left_out}"),
            figure_cell(signed(c.difference, c.metric) + between(c.interval, c.metric)),
            *map(figure_cell, tested(c)),
        ]
        for c in found
    ]
    heads = ["compared", "n", "ties", "left out", "mean difference", "p", "p (Holm)", "effect"]
    return table(caption, heads, rows)
