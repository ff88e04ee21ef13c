"""The page of the report: the template and its sections, those on subsets apart."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from amae_nnunet import __version__
from amae_nnunet.evaluation.charts import box_plot
from amae_nnunet.evaluation.compare import Mean
from amae_nnunet.evaluation.markup import (
    FIRST,
    between,
    charts,
    figure_cell,
    named,
    number,
    section,
    table,
    text,
)
from amae_nnunet.evaluation.metrics import METRICS
from amae_nnunet.evaluation.report_contrasts import by_given, by_had, worth
from amae_nnunet.evaluation.report_methods import by_method
from amae_nnunet.evaluation.report_pairs import against_each_other, withheld
from amae_nnunet.evaluation.subsets import Condition
from amae_nnunet.evaluation.summary import Summary
from amae_nnunet.evaluation.worst import Worst
from amae_nnunet.subsets import subset_name

_TEMPLATE = Path(__file__).with_name("report.html.in")
_INTERVALS = (
    "<dt>intervals</dt><dd>95 %, bootstrap over cases (bias-corrected and accelerated, 9,999 "
    "resamples, fixed seed). They say nothing about what another training run would give.</dd>"
)


def render(summary: Summary, worst: Sequence[Worst]) -> str:
    """The page, from all numbers and the pictures of the worst cases."""
    parts = {
        "TITLE": escape(summary.title),
        "VERSION": escape(__version__),
        "HEADLINE": _headline(summary),
        "FAILURES": _failures(summary),
        "MEANS": section("How the models score", _means(summary)),
        "BOXES": section("Dice of each case", _boxes(summary)),
        "METHODS": section("Methods, each trained several times", by_method(summary)),
        "COMPARISONS": section("Models against each other", against_each_other(summary)),
        "WITHHELD": section("What is lost without it", withheld(summary)),
        "HAD": section("By what each case had", by_had(summary)),
        "GIVEN": section("From each subset of the contrasts", by_given(summary)),
        "WORTH": section("What each contrast is worth", worth(summary)),
        "ALARMS": section("Where a label is empty", _alarms(summary)),
        "WORST": section("The lowest Dice of each model", _worst(summary, worst)),
        "INTERVALS": _INTERVALS if any(mean.interval for mean in summary.means) else "",
        "TOLERANCE": f"{summary.tolerance:g}",
    }
    template = _TEMPLATE.read_text(encoding="utf-8")
    # one pass, so that a case named like a placeholder stays what it is
    return re.sub(r"@([A-Z_]+)@", lambda found: parts[found[1]], template)


def _headline(summary: Summary) -> str:
    scores = summary.scores
    shown = [
        ("cases", len(scores.cases), "good"),
        ("models", len(scores.models), ""),
        ("predictions", len({(r.model, r.case, r.given) for r in scores.rows}), ""),
        ("failures", len(summary.failures), "bad" if summary.failures else ""),
    ]
    tiles = [
        f'<div class="{kind}"><dt>{name}</dt><dd>{count:,}</dd></div>'
        for name, count, kind in shown
    ]
    return f'<dl class="headline">{"".join(tiles)}</dl>'


def _failures(summary: Summary) -> str:
    if not summary.failures:
        return ""
    items = []
    for failure in summary.failures:
        where = escape(" ".join(filter(None, (failure.model, subset_name(failure.given)))))
        items.append(
            f"<li><code>{escape(failure.case)}</code> {where}: {escape(failure.reason)}</li>"
        )
    note = "<p>A case takes part in a table only if all of its models have predicted it.</p>"
    return section("What failed", f'{note}<ul class="problems">{"".join(items)}</ul>')


def _means(summary: Summary) -> str:
    """One table per condition: a row per model and label, a column per metric."""
    tables = []
    for condition in summary.wanted.conditions:
        rows: dict[tuple[str, str], dict[str, Mean]] = {}
        for mean in summary.means:
            if mean.condition == condition.name:
                rows.setdefault((mean.model, mean.label), {})[mean.metric] = mean
        best = _best(rows)
        cells = [
            [
                text(model),
                text(label),
                figure_cell(f"{found[FIRST].n}"),
                *(
                    _mean_cell(found[metric], (model, label) in best[metric, label])
                    for metric in METRICS
                ),
            ]
            for (model, label), found in rows.items()
        ]
        heads = ["model", "label", "n", *map(named, METRICS)]
        tables.append(table(_caption(summary, condition), heads, cells))
    return "".join(tables)


def _caption(summary: Summary, condition: Condition) -> str:
    count = len(summary.scores.common_cases(condition))
    shown = any(mean.interval for mean in summary.means if mean.condition == condition.name)
    cases = "values of 1 case" if count == 1 else f"means of {count} cases"
    return f"{condition.name}: {cases}{' with 95 % intervals' * shown}; n has a Dice"


def _mean_cell(mean: Mean, best: bool) -> str:
    value = number(mean.mean, mean.metric)
    shown = f"<b>{value}</b>" if best else value
    return figure_cell(shown + between(mean.interval, mean.metric))


def _best(
    rows: Mapping[tuple[str, str], Mapping[str, Mean]],
) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """(metric, label) -> the rows that show the best mean of it, none if there is one model."""
    found = {}
    for metric, more_is_better in METRICS.items():
        for label in {label for _, label in rows}:
            means = {key: row[metric].mean for key, row in rows.items() if key[1] == label}
            means = {key: value for key, value in means.items() if not math.isnan(value)}
            top = (max if more_is_better else min)(means.values(), default=math.nan)
            shown = number(top, metric)
            chosen = {key for key, value in means.items() if number(value, metric) == shown}
            found[metric, label] = chosen if len(means) > 1 else set()
    return found


def _boxes(summary: Summary) -> str:
    drawn = []
    for condition in summary.wanted.conditions:
        samples = {
            model: list(summary.scores.by_case(model, condition, FIRST).values())
            for model in summary.scores.models_under(condition)
        }
        drawn.append((box_plot(samples, "Dice"), condition.name))
    return charts(drawn)


def _alarms(summary: Summary) -> str:
    rows = [
        [
            text(found.condition),
            text(found.model),
            text(found.label),
            figure_cell(f"{found.alarms} of {found.n}"),
            figure_cell(f"{found.mean_ml:.2f}"),
        ]
        for found in summary.false_alarms
    ]
    heads = ["given", "model", "label", "predicted in", "mean volume, mL"]
    return table("Cases in which a label is not drawn", heads, rows) if rows else ""


def _worst(summary: Summary, worst: Sequence[Worst]) -> str:
    figures = []
    for found in worst:
        had = ", ".join(summary.scores.had[found.case])
        said = f"Dice {number(found.dice)} of {found.model}" + f"; it had {had}" * bool(had)
        image = (
            f'<img src="data:image/png;base64,{found.picture}" alt="{escape(said)}">'
            if found.picture
            else ""
        )
        figures.append(
            f'<figure class="worst">{image}<figcaption><b>{escape(found.case)}</b> '
            f"{escape(said)}</figcaption></figure>"
        )
    return "".join(figures)
