"""Figure 2 of the paper: original, masked and reconstructed axial slices of each contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from amae_nnunet.pretraining.files import durable_file
from amae_nnunet.pretraining.rebuild import Rebuilt

ROWS = ("original", "masked", "reconstructed")
_WIDTH = 1.9  # inches of a slice
_HIDDEN = "steelblue"  # no grey of an image


def axial_slice(volume: Tensor, transpose_forward: Sequence[int]) -> NDArray[Any]:
    """The middle axial slice (Y, X) of a preprocessed volume (Z, Y, X).

    nnU-Net may have permuted the axes; ``transpose_forward`` of the plans says how.
    """
    original = volume.numpy().transpose(np.argsort(transpose_forward))
    return original[original.shape[0] // 2]


def save_reconstruction(
    path: Path,
    contrasts: Sequence[str],
    studies: Mapping[str, Rebuilt],
    spacing: Sequence[float],
    transpose_forward: Sequence[int],
) -> None:
    """Write the picture: a column per contrast; rows original, masked, reconstructed per study.

    Args:
        path: PNG file.
        contrasts: C names.
        studies: by the name that is written beside them.
        spacing: mm along the axes of the volumes.
        transpose_forward: of the plans.

    Raises:
        AMAEError: the disk is full.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [
        c for c in range(len(contrasts)) if any(study.present[c] for study in studies.values())
    ]
    steps = np.asarray(spacing)[np.argsort(transpose_forward)]
    aspect = steps[1] / steps[2]
    height, width = axial_slice(next(iter(studies.values())).images[0], transpose_forward).shape
    count = len(ROWS) * len(studies)
    size = (_WIDTH * len(shown) + 0.5, _WIDTH * aspect * height / width * count + 0.4)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, len(shown), squeeze=False)
    for number, (name, study) in enumerate(studies.items()):
        block = axes[len(ROWS) * number : len(ROWS) * (number + 1)]
        for column, c in enumerate(shown):
            _draw_contrast(block[:, column], study, c, transpose_forward, aspect)
        for row, label in enumerate(ROWS):
            block[row, 0].set_ylabel(f"{name}\n{label}" if row == 1 and name else label)
    for column, c in enumerate(shown):
        axes[0, column].set_title(contrasts[c])
    with durable_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_contrast(
    axes: NDArray[Any], study: Rebuilt, c: int, transpose_forward: Sequence[int], aspect: float
) -> None:
    """The three slices of one contrast, or empty frames where the study has not got it."""
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    if not study.present[c]:
        axes[1].text(0.5, 0.5, "absent", ha="center", va="center", transform=axes[1].transAxes)
        return
    image, hidden, rebuilt = (
        axial_slice(part[c], transpose_forward)
        for part in (study.images, study.hidden, study.rebuilt)
    )
    low, high = np.percentile(image, [0.5, 99.5])
    for ax, picture in zip(axes, (image, np.ma.masked_array(image, hidden), rebuilt), strict=True):
        ax.set_facecolor(_HIDDEN)
        ax.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
