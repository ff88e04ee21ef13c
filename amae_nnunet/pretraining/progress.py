"""``progress.png``: how a run goes, drawn anew every minute as nnU-Net draws its own.

Not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amae_nnunet.pretraining.files import durable_file

PROGRESS_NAME = "progress.png"
_SKILLS = ("skill_mean", "skill_linear")


def save_progress(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the lines of ``metrics.jsonl``: losses, skills, learning rate and epoch duration.

    Raises:
        AMAEError: the disk is full.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 15), layout="constrained")
    FigureCanvasAgg(figure)
    loss, skill, rate, duration = figure.subplots(4, 1, sharex=True, height_ratios=(3, 3, 1.3, 1.3))
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 40 else None
    loss.plot(epochs, _values(rows, "loss"), "k", linewidth=2.5, marker=marker, label="all")
    for number, name in enumerate(rows[0]["contrast_loss"]):
        style: dict[str, Any] = {"color": f"C{number}", "marker": marker, "markersize": 4}
        loss.plot(epochs, _values(rows, "contrast_loss", name), label=name, **style)
        skill.plot(epochs, _values(rows, "skill_mean", name), label=f"{name}, mean", **style)
        skill.plot(
            epochs, _values(rows, "skill_linear", name), "--", label=f"{name}, linear", **style
        )
    skill.axhline(0, color="k", linewidth=1)
    below = _scale_skills(skill, rows)
    rate.plot(epochs, _values(rows, "lr"), "k", marker=marker)
    duration.plot(epochs, _values(rows, "seconds"), "k", marker=marker)
    duration.set_ylim(bottom=0)
    titles = {
        loss: "mean squared error of hidden voxels",
        skill: f"skill: error saved against a baseline (0: none, 1: all{below})",
        rate: "learning rate",
        duration: "epoch duration in s",
    }
    for ax, title in titles.items():
        ax.set_title(title, loc="left")
        ax.grid(alpha=0.3)
    for ax in (loss, skill):
        ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.5)
    duration.set_xlabel("epoch")
    duration.xaxis.set_major_locator(MaxNLocator(integer=True))
    with durable_file(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _scale_skills(ax: Any, rows: Sequence[dict[str, Any]]) -> str:
    """An axis from -1 to 1 or, in powers of ten, as far down as skills go; what to say of it."""
    found = [v for row in rows for key in _SKILLS for v in row.get(key, {}).values()]
    lowest = min((value for value in found if value is not None), default=0.0)
    if lowest >= -1:
        ax.set_ylim(-1, 1)
        return ""
    ax.set_yscale("symlog", linthresh=1, linscale=2)
    ax.set_ylim(1.2 * lowest, 1)
    powers = [-(10.0**power) for power in range(1, 1 + int(math.log10(-1.2 * lowest)))]
    ticks = [*reversed(powers), -1, -0.5, 0, 0.5, 1]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_yticks([], minor=True)
    return "; below -1 in powers of ten"


def _values(rows: Sequence[dict[str, Any]], key: str, name: str | None = None) -> list[float]:
    """One value an epoch, NaN where there is none."""
    found = [row.get(key) if name is None else row.get(key, {}).get(name) for row in rows]
    return [np.nan if value is None else value for value in found]
