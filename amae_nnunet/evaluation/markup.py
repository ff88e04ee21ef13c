"""The pieces of HTML that the report is made of. Every text is escaped here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from amae_nnunet.evaluation.compare import Comparison
from amae_nnunet.evaluation.intervals import Interval
from amae_nnunet.evaluation.metrics import UNITS

#: The metric of the charts and of what stands open; the paper's.
FIRST = "dice"
_NAMES = {
    "dice": "Dice",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "surface_dice": "surface Dice",
    "lesion_f1": "lesion F1",
    "hd95": "HD95",
    "volume_error": "volume error",
}


def named(metric: str) -> str:
    """``hd95`` -> ``HD95, mm``."""
    unit = f", {UNITS[metric]}" if metric in UNITS else ""
    return f"{_NAMES[metric]}{unit}"


def number(value: float, metric: str = FIRST) -> str:
    """A value of a metric; a dash where it is undefined. Zero has no sign."""
    if math.isnan(value):
        return "–"
    digits = 1 if metric in UNITS else 3
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float, metric: str = FIRST) -> str:
    """A difference of two values; zero has no sign."""
    shown = number(value, metric)
    return f"+{shown}" if value > 0 and shown.strip("0.") else shown


def between(interval: Interval | None, metric: str) -> str:
    """An interval beside its mean, nothing where there is none."""
    if interval is None:
        return ""
    low, high = (number(end, metric) for end in interval)
    return f' <span class="dim">[{low}, {high}]</span>'


def p_value(value: float) -> str:
    """A p-value to three digits."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def tested(comparison: Comparison) -> tuple[str, str, str]:
    """p, corrected p and effect; dashes for one pair, which can say nothing of them."""
    if comparison.n < 2:
        return ("–",) * 3
    return p_value(comparison.p), p_value(comparison.p_holm), signed(comparison.effect)


def pieces(name: str) -> list[str]:
    """What a name may be broken into where it is too long: words, and parts of a long word."""
    return re.split(r"(?<=[ +_-])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", name)


def _breakable(name: str) -> str:
    return "<wbr>".join(map(escape, pieces(name))).replace(" <wbr>", " ")


def text(content: str) -> str:
    """A cell of text."""
    return f"<td>{_breakable(content)}</td>"


def figure_cell(content: str) -> str:
    """A cell of numbers, HTML."""
    return f'<td class="number">{content}</td>'


def table(caption: str, heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells, which are HTML, under heads, which are text; it has at least a row."""
    lines = [list(cells) for cells in rows]
    kinds = ['class="number"' * ("number" in cell.partition(">")[0]) for cell in lines[0]]
    head = "".join(
        f'<th scope="col" {kind}>{_breakable(name)}</th>'
        for name, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in lines)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def section(title: str, content: str) -> str:
    """A card of the page, nothing where it has no content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def fold(title: str, content: str) -> str:
    """What is shown on demand."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def charts(drawn: Iterable[tuple[str, str]]) -> str:
    """Charts side by side: SVG and caption of each."""
    figures = [
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in drawn
    ]
    return f'<div class="charts">{"".join(figures)}</div>'
