"""Figure 2 of the paper: original, masked and reconstructed axial slices of each contrast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save_reconstruction(
    path: Path,
    contrasts: Sequence[str],
    images: NDArray[np.float32],
    hidden: NDArray[np.bool_],
    rebuilt: NDArray[np.float32],
    aspect: float,
) -> None:
    """Write the picture: a column a present contrast, rows original, masked, reconstructed.

    Args:
        path: PNG file, written through a temporary name.
        contrasts: C names.
        images: (C, Z, Y, X), zero where a contrast is absent.
        hidden: bool (C, Z, Y, X), True at voxels of hidden tokens; shown black.
        rebuilt: (C, Z, Y, X), predicted where hidden.
        aspect: height of a pixel over its width.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = [c for c in range(len(contrasts)) if images[c].any()] or [0]
    z = images.shape[1] // 2
    height = 2.2 * aspect * images.shape[2] / images.shape[3]
    figure = Figure(figsize=(2.2 * len(present) + 0.4, 3 * height + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, len(present), squeeze=False)
    for column, c in enumerate(present):
        low, high = np.percentile(images[c, z], [0.5, 99.5])
        masked = np.where(hidden[c, z], low, images[c, z])
        for row, picture in enumerate((images[c, z], masked, rebuilt[c, z])):
            ax = axes[row, column]
            ax.imshow(picture, cmap="gray", vmin=low, vmax=high, aspect=aspect)
            ax.set(xticks=[], yticks=[])
        axes[0, column].set_title(contrasts[c])
    for row, label in enumerate(("original", "masked", "reconstructed")):
        axes[row, 0].set_ylabel(label)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)
