"""Where the voxels of a label or a prediction lie (not in the paper).

Two files may have the same size and spacing and still be flipped or moved against each other: then
equal indices are not equal places, and every score is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amae_nnunet.errors import InputError

#: Voxels. Headers of one grid differ by rounding; a flip or a shift that matters is larger.
_MOST_SHIFT = 0.5


@dataclass(frozen=True)
class Place:
    """The grid of a file as nnU-Net's readers tell it.

    Attributes:
        shape: voxels (Z, Y, X).
        spacing: mm (Z, Y, X).
        affine: of voxels (x, y, z) to mm, (4, 4); None where the format has none.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: NDArray[Any] | None

    @classmethod
    def of(cls, voxels: NDArray[Any], properties: Mapping[str, Any]) -> Place:
        """The place of what ``read_seg`` gives, without its first axis."""
        spacing = tuple(map(float, properties["spacing"]))
        return cls(voxels.shape, spacing, _affine(properties))

    def check(self, label: Place) -> None:
        """Raise InputError unless a prediction here has the voxels of a label."""
        same = self.shape == label.shape and np.allclose(self.spacing, label.spacing, rtol=1e-3)
        if not same:
            raise InputError(
                f"the prediction has {_by(self.shape)} voxels of {_by(self.spacing)} mm, the label "
                f"{_by(label.shape)} of {_by(label.spacing)} mm: predict on the label's grid"
            )
        shift = self._shift(label)
        if shift > _MOST_SHIFT:
            raise InputError(
                "the prediction and the label have the same size, but their headers place them "
                f"elsewhere (a corner is {shift:.3g} voxels away): predict on the label's grid, or "
                "correct the header that is wrong"
            )

    def _shift(self, other: Place) -> float:
        """The largest distance of equal corners along an axis, in voxels; 0 where unknown."""
        if self.affine is None or other.affine is None:
            return 0.0
        outer = [(-0.5, size - 0.5) for size in reversed(self.shape)]
        corners = np.array([[*corner, 1.0] for corner in product(*outer)])
        away = corners @ (self.affine - other.affine).T
        return float(np.abs(away @ np.linalg.inv(other.affine).T).max())


def _affine(properties: Mapping[str, Any]) -> NDArray[Any] | None:
    if stuff := properties.get("nibabel_stuff"):
        return np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)
    stuff = properties.get("sitk_stuff", {})
    if len(stuff.get("direction", ())) != 9:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(stuff["direction"], (3, 3)) * stuff["spacing"]
    affine[:3, 3] = stuff["origin"]
    return affine


def _by(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
