"""The charts of the report, as SVG that takes its colours from the page (not in the paper)."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amae_nnunet.evaluation.intervals import Interval
from amae_nnunet.evaluation.markup import pieces

#: Colours that matplotlib draws with -> what the page has in their place, in light and in dark.
_INK = {
    "#010203": "currentColor",
    "#010204": "var(--line)",
    "#010205": "rgb(var(--accent))",
    "#010206": "var(--good)",
    "#010207": "var(--bad)",
}
_TEXT, _LINE, _ACCENT, _GOOD, _BAD = _INK
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "amae",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
}
#: With more cases than this, their dots and lines are one picture in the SVG.
_MANY = 300
_TITLE = 28  # characters of a line above a panel
_WHOLE = (-0.03, 1.03)  # of an axis of shares, so that charts side by side compare


def box_plot(samples: Mapping[str, Sequence[float]], unit: str) -> str:
    """A box a sample, with quartiles, whiskers of 1.5 times their distance, and every case.

    Args:
        samples: name -> values from 0 to 1, NaN left out.
        unit: for the axis.

    Returns:
        SVG.
    """
    with _Figure(1.2 + 1.0 * len(samples), 3.2) as drawing:
        ax = drawing.axes()
        jitter = np.random.default_rng(0)
        for place, values in enumerate(samples.values()):
            finite = [value for value in values if not math.isnan(value)]
            ax.boxplot(
                [finite],
                positions=[place],
                widths=0.55,
                showfliers=False,
                boxprops={"color": _TEXT},
                whiskerprops={"color": _TEXT},
                capprops={"color": _TEXT},
                medianprops={"color": _ACCENT, "linewidth": 2},
            )
            at = place + jitter.uniform(-0.18, 0.18, len(finite))
            ax.scatter(
                at, finite, s=9, color=_ACCENT, alpha=0.45, linewidths=0,
                rasterized=len(finite) > _MANY,
            )  # fmt: skip
        ax.set_xticks(range(len(samples)), [_wrapped(name) for name in samples])
        ax.set_xlim(-0.6, len(samples) - 0.4)
        ax.set_ylim(*_WHOLE)
        ax.set_ylabel(unit)
        return drawing.svg()


@dataclass(frozen=True)
class Pairs:
    """Two samples of the same cases, in the same order, with their names."""

    title: str
    names: tuple[str, str]
    first: Sequence[float]
    second: Sequence[float]


def paired_dots(panels: Sequence[Pairs], unit: str) -> str:
    """A panel a comparison: each case is a line, of one colour if it rises, of another if it falls.

    Args:
        panels: what to draw, from 0 to 1; pairs with NaN are left out.
        unit: for the axis.

    Returns:
        SVG.
    """
    with _Figure(1.0 + 2.4 * len(panels), 3.2) as drawing:
        row = drawing.row(len(panels))
        for ax, pairs in zip(row, panels, strict=True):
            both = np.array([pairs.first, pairs.second], float)
            both = both[:, ~np.isnan(both).any(axis=0)]
            change = np.sign(both[1] - both[0])
            for sign, colour in ((1, _GOOD), (-1, _BAD), (0, _LINE)):
                ax.plot(
                    [0, 1], both[:, change == sign], color=colour, marker="o", markersize=3,
                    linewidth=0.9, alpha=0.6, rasterized=both.shape[1] > _MANY,
                )  # fmt: skip
            if both.shape[1]:
                ax.plot([0, 1], both.mean(axis=1), color=_TEXT, marker="D", linewidth=2)
            ax.set_xticks([0, 1], [_wrapped(name) for name in pairs.names])
            ax.set_xlim(-0.35, 1.35)
            ax.set_ylim(*_WHOLE)
            ax.set_title(_wrapped(pairs.title, _TITLE), fontsize=9)
        row[0].set_ylabel(unit)
        return drawing.svg()


def interval_bars(
    panels: Mapping[str, Mapping[str, tuple[float, Interval | None]]], unit: str
) -> str:
    """A panel per model: a bar per contrast, with its interval.

    Args:
        panels: title -> name -> value and interval.
        unit: for the axis.

    Returns:
        SVG.
    """
    most = max(len(bars) for bars in panels.values())
    with _Figure(1.0 + 2.7 * len(panels), 0.9 + 0.34 * most) as drawing:
        row = drawing.row(len(panels))
        for ax, (title, bars) in zip(row, panels.items(), strict=True):
            for place, (value, interval) in enumerate(bars.values()):
                ax.barh(place, value, 0.62, color=_ACCENT if value >= 0 else _BAD, alpha=0.75)
                if interval is not None:
                    ax.plot(interval, [place, place], color=_TEXT, linewidth=1.3)
            ax.axvline(0, color=_TEXT, linewidth=0.8)
            ax.set_yticks(range(len(bars)), list(bars))
            ax.set_title(_wrapped(title, _TITLE), fontsize=9)
            ax.set_xlabel(unit)
        row[0].invert_yaxis()
        return drawing.svg()


class _Figure:
    """A matplotlib figure in the page's style, without a screen."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure
        from matplotlib.style import context

        # whatever the user's matplotlibrc says, or nnU-Net's plot of a training before
        self._context = context(_STYLE, after_reset=True)
        self._size, self._new = (width, height), Figure

    def __enter__(self) -> _Figure:
        self._context.__enter__()
        self.figure = self._new(figsize=self._size, layout="constrained")
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def axes(self) -> Any:
        return self.row(1)[0]

    def row(self, count: int) -> Sequence[Any]:
        panels: Sequence[Any] = self.figure.subplots(1, count, sharey=True, squeeze=False)[0]
        return panels

    def svg(self) -> str:
        """The picture as an element of the page, the same bytes each time."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", dpi=150, metadata={"Date": None})
        svg = file.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        # its style would hold for the whole page
        svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
        for drawn, shown in _INK.items():
            svg = svg.replace(drawn, shown)
        return svg


def _wrapped(name: str, width: int = 14) -> str:
    """A name on lines of some ``width`` characters, broken between words or at a capital."""
    lines = [""]
    for word in pieces(name):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.strip() for line in lines)
