"""The HTML of the report: the template, and those of its parts that need no script.

Every text is escaped here; case data are drawn by the template's script, which makes text nodes
only. The page's own policy lets no other script run and nothing be loaded but pictures. Not in the
paper.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_name("report.html.in")
_CHART = (240, 84)  # width and height of a histogram's bars, in its own units
_UNITS = {"spacing": "mm", "size": "voxels"}


def render(summary: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page, from the counts of ``summarise`` and the case data for its script."""
    template = _TEMPLATE.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert script, _TEMPLATE
    parts = {
        "TITLE": escape(summary["title"]),
        "VERSION": escape(summary["converter"]),
        "SCRIPT_HASH": base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode(),
        "HEADLINE": _headline(summary["cases"]),
        "PROBLEMS": _problems(summary["codes"]),
        "PATTERNS": _patterns(summary),
        "TOGETHER": _together(summary),
        "HISTOGRAMS": _histograms(summary["histograms"]),
        "DATA": _inline_json(data),
    }
    # one pass, so that a case named like a placeholder stays what it is
    return re.sub(r"@([A-Z_]+)@", lambda found: parts[found[1]], template)


def _inline_json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in, nor begin another."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _count(number: int, one: str) -> str:
    return f"{number:,} {one}{'s' * (number != 1)}"


def _headline(cases: Mapping[str, Any]) -> str:
    shown = [
        ("converted", cases["converted"], "good"),
        ("failed", cases["failed"], "bad" if cases["failed"] else ""),
        ("with doubts", cases["doubted"], "doubt" if cases["doubted"] else ""),
        ("with a label", cases["labelled"], ""),
        ("subjects", cases["subjects"], ""),
    ]
    tiles = [
        f'<div class="{kind}"><dt>{name}</dt><dd>{number:,}</dd></div>'
        for name, number, kind in shown
    ]
    counts = [f"{escape(split)} {count:,}" for split, count in cases["splits"].items()]
    splits = f"<p>Splits: {', '.join(counts)}.</p>" if len(counts) > 1 else ""
    return f'<dl class="headline">{"".join(tiles)}</dl>{splits}'


def _problems(codes: Iterable[Mapping[str, Any]]) -> str:
    """A fold for each code; the script lists its cases when it is opened."""
    folds = [
        f'<details data-code="{escape(row["code"])}" class="{_kind(row["code"])}"><summary>'
        f"<code>{escape(row['code'])}</code> <span>{escape(row['meaning'])}</span> "
        f"<b>{_count(row['cases'], 'case')}</b></summary><ul></ul></details>"
        for row in codes
    ]
    return "".join(folds) or '<p class="fine">No case failed, and no case raises a doubt.</p>'


def _kind(code: str) -> str:
    return "bad" if code.startswith("E_") else "doubt"


def _patterns(summary: Mapping[str, Any]) -> str:
    most = max(summary["patterns"].values(), default=1)
    heads = "".join(_column(name) for name in summary["contrasts"])
    rows = []
    for pattern, count in summary["patterns"].items():
        cells = "".join(
            '<td class="present" aria-label="there">✓</td>'
            if flag == "1"
            else '<td class="absent" aria-label="absent">·</td>'
            for flag in pattern
        )
        rows.append(
            f"<tr>{cells}<td class=number>{count:,}</td>"
            f'<td class="bar"><i style="--share:{count / most:.4f}"></i></td>'
            f'<td><button type="button" data-pattern="{escape(pattern)}">show</button></td></tr>'
        )
    return (
        "<table><caption>Presence patterns</caption>"
        f"<thead><tr>{heads}<th scope=col class=number>cases</th><td></td><td></td></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _column(name: str) -> str:
    return f'<th scope="col">{escape(name)}</th>'


def _together(summary: Mapping[str, Any]) -> str:
    """Cases with both contrasts, the diagonal cases with the one; then how they got there."""
    total = max(1, summary["cases"]["converted"])
    states = ("resampled", "dropped")
    heads = "".join(map(_column, (*summary["together"], *states)))
    rows = []
    for name, others in summary["together"].items():
        cells = "".join(
            f'<td class="share number" style="--share:{count / total:.4f}">{count:,}</td>'
            for count in others.values()
        )
        found = summary["contrasts"][name]
        cells += "".join(f'<td class="first number">{found[state]:,}</td>' for state in states)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        "<table><caption>Cases with both contrasts</caption>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _histograms(histograms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    return "".join(
        _histogram(f"{key} {axis}", _UNITS[key], histogram)
        for key, axes in histograms.items()
        for axis, histogram in axes.items()
        if histogram["counts"]
    )


def _histogram(name: str, unit: str, histogram: Mapping[str, Any]) -> str:
    """One chart; a bin of a single case can still be seen."""
    width, height = _CHART
    counts, edges = histogram["counts"], histogram["edges"]
    step, top = width / len(counts), max(counts)
    bars = []
    for number, count in enumerate(counts):
        tall = max(2.0, height * count / top) if count else 0.0
        said = f"{edges[number]:.4g} to {edges[number + 1]:.4g} {unit}: {_count(count, 'case')}"
        bars.append(
            f'<rect x="{number * step:.1f}" y="{height - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{said}</title></rect>'
        )
    low, middle, high = (f"{value:.4g}" for value in histogram["range"])
    spread = f"{low} {unit} in all cases" if low == high else f"{low} to {high} {unit}"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of {name}: '
        f'{spread}, median {middle}">{"".join(bars)}</svg>'
        f"<figcaption><b>{name}</b> {spread}{f', median {middle}' * (low != high)}</figcaption>"
        "</figure>"
    )
