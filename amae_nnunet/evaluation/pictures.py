"""One axial slice of a case: its contrasts, the label, and predictions from subsets of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABEL_COLOUR = "#ffb000"
PREDICTION_COLOUR = "#00d0ff"


def save_segmentations(
    path: Path,
    images: Mapping[str, NDArray[Any]],
    label: NDArray[Any],
    predictions: Mapping[str, NDArray[Any]],
    aspect: float = 1.0,
) -> None:
    """Write a picture of the slice with the largest label.

    Args:
        path: PNG file, written through a temporary name.
        images: one (Z, Y, X) a contrast; those that are all zero are left out.
        label: (Z, Y, X), outlined on every image.
        predictions: one (Z, Y, X) a name, drawn with the label on the first image.
        aspect: height of a pixel over its width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    z = int(np.argmax((label > 0).sum(axis=(1, 2))))
    shown = {name: image[z] for name, image in images.items() if image.any()}
    columns = max(len(shown), len(predictions))
    figure = Figure(figsize=(2.4 * columns, 5.4 * aspect), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, image) in zip(axes[0], shown.items(), strict=False):
        _draw(ax, name, image, aspect)
        _outline(ax, label[z], LABEL_COLOUR)
    first = next(iter(shown.values()))
    for ax, (name, prediction) in zip(axes[1], predictions.items(), strict=False):
        _draw(ax, name, first, aspect)
        _outline(ax, label[z], LABEL_COLOUR)
        _outline(ax, prediction[z], PREDICTION_COLOUR)
    figure.suptitle("orange: label   blue: prediction from the contrasts named above", fontsize=9)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)


def _draw(ax: Any, title: str, image: NDArray[Any], aspect: float) -> None:
    low, high = np.percentile(image, [0.5, 99.5])
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect)
    ax.set_title(title, fontsize=9)


def _outline(ax: Any, mask: NDArray[Any], colour: str) -> None:
    if (mask > 0).any():
        ax.contour(mask > 0, levels=[0.5], colors=colour, linewidths=1.2)
