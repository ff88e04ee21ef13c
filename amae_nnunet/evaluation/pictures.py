"""One axial slice of a case: its contrasts, the label, and predictions from subsets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from amae_nnunet.whole import whole_file

LABEL_COLOUR = "#ffb000"
PREDICTION_COLOUR = "#00d0ff"
_MOST = 6  # pictures in one row; more are in two, contrasts above
_WIDTH, _LINE, _DPI = 2.4, 0.2, 110  # inches a picture and a line of text, dots an inch


def save_segmentations(
    target: Path | IO[bytes],
    images: Mapping[str, NDArray[Any]],
    label: NDArray[Any],
    predictions: Mapping[str, NDArray[Any]],
    aspect: float = 1.0,
    heading: str = "",
) -> None:
    """Write a picture of the slice with the largest label, or prediction where there is no label.

    Args:
        target: PNG file, written through a temporary name, or a stream.
        images: one (Z, Y, X) a contrast; those that are all zero are left out.
        label: (Z, Y, X), outlined on every image.
        predictions: one (Z, Y, X) a title, drawn with the label on the first image.
        aspect: height of a pixel over its width.
        heading: of the picture, to which the number of the slice is added.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    z = _slice(label, predictions)
    shown = {name: image[z] for name, image in images.items() if image.any()}
    box = _box([*shown.values(), label[z]])
    both = len(shown) + len(predictions)
    rows, columns = (1, both) if both <= _MOST else (2, max(len(shown), len(predictions)))
    height, width = label[z][box].shape
    lines = 3 + rows + max((title.count("\n") for title in predictions), default=0)
    size = (_WIDTH * columns, rows * aspect * height / width * _WIDTH + lines * _LINE)
    figure = Figure(figsize=size, layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    below = axes[1] if rows == 2 else axes[0][len(shown) :]
    for ax, (name, image) in zip(axes[0], shown.items(), strict=False):
        _draw(ax, name, image[box], aspect)
        _outline(ax, label[z][box], LABEL_COLOUR)
    first = next(iter(shown.values()))
    for ax, (name, prediction) in zip(below, predictions.items(), strict=False):
        _draw(ax, name, first[box], aspect)
        _outline(ax, label[z][box], LABEL_COLOUR)
        _outline(ax, prediction[z][box], PREDICTION_COLOUR)
    said = f"slice {z + 1} of {len(label)}"
    figure.suptitle(f"{heading}, {said}" if heading else said, fontsize=10, color="w")
    _name_colours(figure)
    if not isinstance(target, Path):
        figure.savefig(target, dpi=_DPI, format="png")
        return
    with whole_file(target) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _name_colours(figure: Any) -> None:
    """A legend in one line below the pictures."""
    from matplotlib.lines import Line2D

    colours = {"label": LABEL_COLOUR, "prediction": PREDICTION_COLOUR}
    figure.legend(
        [Line2D([], [], color=colour) for colour in colours.values()],
        colours,
        loc="outside lower center",
        ncols=len(colours),
        fontsize=9,
        labelcolor="w",
        frameon=False,
    )


def _slice(label: NDArray[Any], predictions: Mapping[str, NDArray[Any]]) -> int:
    extents = [(mask > 0).sum(axis=(1, 2)) for mask in (label, *predictions.values())]
    return int(np.argmax(extents[0] if extents[0].any() else sum(extents)))


def _box(images: Sequence[NDArray[Any]]) -> tuple[slice, slice]:
    """What is not black in any of the images (Y, X), and a pixel around it."""
    filled = sum(image > 0.05 * np.max(image, initial=1e-6) for image in images)
    rows, columns = (np.flatnonzero(filled.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, len(images[0])), slice(0, len(images[0][0]))
    y, x = (slice(max(0, int(at[0]) - 1), int(at[-1]) + 2) for at in (rows, columns))
    return y, x


def _draw(ax: Any, title: str, image: NDArray[Any], aspect: float) -> None:
    low, high = np.percentile(image, [0.5, 99.5])
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect)
    ax.set_title(title, fontsize=9, color="w")


def _outline(ax: Any, mask: NDArray[Any], colour: str) -> None:
    if (mask > 0).any():
        ax.contour(mask > 0, levels=[0.5], colors=colour, linewidths=1.0)
