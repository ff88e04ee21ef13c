"""The section of the report on methods that were trained several times."""

from __future__ import annotations

from amae_nnunet.evaluation.markup import (
    FIRST,
    between,
    figure_cell,
    fold,
    named,
    number,
    p_value,
    signed,
    table,
    text,
)
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.summary import Summary

_MEANING = (
    "A method is a sample of trainings, each with its mean over the cases; p is that of Welch's "
    "t-test between two such samples. It says whether methods differ by more than their trainings "
    "do, on these cases."
)


def by_method(summary: Summary) -> str:
    """What each method scored over its trainings, and the pairs of methods."""
    if not summary.methods:
        return ""
    tables = {metric: _means(summary, metric) + _pairs(summary, metric) for metric in METRICS}
    others = [content for metric, content in tables.items() if metric != FIRST]
    return f"<p>{_MEANING}</p>{tables[FIRST]}{fold('other metrics', ''.join(others))}"


def _means(summary: Summary, metric: str) -> str:
    rows = [
        [
            text(found.condition),
            text(found.method),
            text(found.label),
            figure_cell(f"<b>{number(found.mean, metric)}</b>"),
            figure_cell(number(found.sd, metric)),
            figure_cell(", ".join(number(value, metric) for value in sorted(found.values))),
        ]
        for found in summary.methods
        if found.metric == metric
    ]
    heads = ["given", "method", "label", "mean", "SD", "its trainings"]
    return table(named(metric), heads, rows)


def _pairs(summary: Summary, metric: str) -> str:
    rows = [
        [
            text(c.condition),
            text(f"{c.second} minus {c.first}"),
            text(c.label),
            figure_cell(signed(c.difference, metric) + between(c.interval, metric)),
            figure_cell(p_value(c.p)),
            figure_cell(p_value(c.p_holm)),
        ]
        for c in summary.method_comparisons
        if c.metric == metric
    ]
    heads = ["given", "compared", "label", "difference", "p", "p (Holm)"]
    return table(named(metric), heads, rows) if rows else ""
