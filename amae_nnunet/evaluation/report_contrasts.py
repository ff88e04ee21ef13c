"""The sections of the report on contrasts: what a case had, what was given, what each is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from amae_nnunet.contrasts import missing_required
from amae_nnunet.evaluation.charts import interval_bars
from amae_nnunet.evaluation.markup import (
    FIRST,
    between,
    charts,
    figure_cell,
    fold,
    named,
    number,
    signed,
    table,
    text,
)
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.summary import Group, Summary
from amae_nnunet.subsets import Subset

_PANELS = 3  # side by side in a chart


def by_had(summary: Summary) -> str:
    """A heat map of the cases as they are; nothing where it is unknown what they had."""
    if not summary.contrasts or not any(group.given for group in summary.by_had):
        return ""
    return _heat_map(summary.contrasts, summary.scores.models, summary.by_had)


def by_given(summary: Summary) -> str:
    """A heat map of all subsets that were predicted; nothing where nothing was withheld."""
    if not summary.wanted.withholds or not summary.by_given:
        return ""
    note = (
        "<p>A case is predicted from a subset if it has all of it, so rows may be of different "
        "cases: compare rows of the same number. Other metrics show under the pointer.</p>"
    )
    if any(missing_required(summary.wanted.required, group.given) for group in summary.by_given):
        required = ", ".join(name.replace("|", " or ") for name in summary.wanted.required)
        note += f"<p>No training case was like a row without {escape(required)}.</p>"
    return note + _heat_map(summary.contrasts, summary.scores.predictors, summary.by_given)


def _heat_map(contrasts: Subset, models: Sequence[str], groups: Sequence[Group]) -> str:
    """A row per set of contrasts, a column per model; shaded from lowest to highest Dice."""
    rows: dict[Subset, dict[str, Group]] = {}
    for group in groups:
        rows.setdefault(group.given, {})[group.model] = group
    defined = [g.means[FIRST] for g in groups if not math.isnan(g.means[FIRST])]
    low, high = min(defined, default=0.0), max(defined, default=1.0)
    cells = [
        [
            *(_dot(contrast in names) for contrast in contrasts),
            figure_cell(f"{next(iter(found.values())).n}"),
            *(_heat_cell(found.get(model), low, high) for model in models),
        ]
        for names, found in rows.items()
    ]
    return table("mean Dice", [*contrasts, "cases", *models], cells)


def _dot(given: bool) -> str:
    if given:
        return '<td class="present" aria-label="given">●</td>'
    return '<td class="absent" aria-label="not given">·</td>'


def _heat_cell(group: Group | None, low: float, high: float) -> str:
    if group is None or math.isnan(group.means[FIRST]):
        return figure_cell("–")
    value = group.means[FIRST]
    share = (value - low) / (high - low) if high > low else 1.0
    said = ", ".join(f"{named(metric)} {number(v, metric)}" for metric, v in group.means.items())
    return (
        f'<td class="share number" style="--share:{share:.3f}" title="{escape(said)}">'
        f"{number(value)}</td>"
    )


def worth(summary: Summary) -> str:
    """Shapley values: a bar chart of the first metric, and tables of all."""
    if not summary.worths:
        return ""
    panels = {
        model: {
            f"{w.contrast} ({w.n})": (w.mean, w.interval)
            for w in summary.worths
            if w.model == model and w.metric == FIRST and w.had is None
        }
        for model in summary.scores.predictors
    }
    shown = [(model, bars) for model, bars in panels.items() if bars]
    some = any(interval for _, bars in shown for _, interval in bars.values())
    caption = f"Shapley value{' with its 95 % interval' * some}; in brackets the number of cases"
    drawn = [
        (interval_bars(dict(shown[start : start + _PANELS]), "Dice"), caption)
        for start in range(0, len(shown), _PANELS)
    ]
    groups = list(dict.fromkeys(worth.had for worth in summary.worths))
    tables = [_worth_table(summary, had) for had in groups]
    content = _worth_note(summary) + charts(drawn) + tables[0]
    return content + fold("by what the cases had", "".join(tables[1:]))


def _worth_note(summary: Summary) -> str:
    fixed = [name for name in summary.contrasts if name in summary.wanted.fixed]
    start = (
        f"{', '.join(fixed)} are always given; the values of the others sum to the score of all "
        "minus that of these alone."
        if fixed
        else "The values of a case sum to the score of all its contrasts minus that of an empty "
        "prediction."
    )
    return (
        "<p>What a contrast adds to the score, averaged over all orders in which the contrasts of "
        "a case could have been acquired, over the cases that had it and in which a label is "
        f"drawn. {escape(start)} More is always better: of HD95 and volume error it is what they "
        "fall by.</p>"
    )


def _worth_table(summary: Summary, had: Subset | None) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for worth in (worth for worth in summary.worths if worth.had == had):
        row = rows.setdefault(
            (worth.model, worth.contrast),
            [text(worth.model), text(worth.contrast), figure_cell(f"{worth.n}")],
        )
        row.append(
            figure_cell(signed(worth.mean, worth.metric) + between(worth.interval, worth.metric))
        )
    caption = "all cases" if had is None else f"cases with {', '.join(had)}"
    return table(caption, ["model", "contrast", "n", *map(named, METRICS)], rows.values())
