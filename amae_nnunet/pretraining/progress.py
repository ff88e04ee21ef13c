"""``progress.png``: how a run goes, drawn anew every minute as nnU-Net draws its own.

Not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amae_nnunet.pretraining.files import whole_file

PROGRESS_NAME = "progress.png"


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
    skill.set_ylim(-1, 1)
    rate.plot(epochs, _values(rows, "lr"), "k", marker=marker)
    duration.plot(epochs, _values(rows, "seconds"), "k", marker=marker)
    duration.set_ylim(bottom=0)
    titles = {
        loss: "mean squared error of hidden voxels",
        skill: "skill: error saved against a baseline (0: none, 1: all)",
        rate: "learning rate",
        duration: "epoch duration in s",
    }
    for ax, title in titles.items():
        ax.set_title(title, loc="left")
        ax.grid(alpha=0.3)
    for ax in (loss, skill):
        ax.legend(fontsize=8, ncols=2)
    duration.set_xlabel("epoch")
    duration.xaxis.set_major_locator(MaxNLocator(integer=True))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _values(rows: Sequence[dict[str, Any]], key: str, name: str | None = None) -> list[float]:
    """One value an epoch, NaN where there is none."""
    found = [row.get(key) if name is None else row.get(key, {}).get(name) for row in rows]
    return [np.nan if value is None else value for value in found]
