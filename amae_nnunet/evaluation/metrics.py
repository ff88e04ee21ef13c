"""What a segmentation is worth: seven numbers for one label of one case.

============== ===== ==========================================================================
``dice``       1     overlap, as nnU-Net computes it (the paper's measure, section 2.4)
``sensitivity`` 1    share of the label's voxels that are found
``precision``  1     share of the predicted voxels that are right
``surface_dice`` 1   share of both surfaces that lies within the tolerance of the other one
``lesion_f1``  1     of connected components (26 neighbours), found where one voxel overlaps
``hd95``       0 mm  larger one of the two directed 95th percentiles of surface distances
``volume_error`` 0 mL  predicted minus drawn volume, without its sign
============== ===== ==========================================================================

(The second column is the best value.) Where the label is empty or nothing is predicted, one rule
holds for all of them. An empty prediction of a label that is there has the worst value: 0, for
``hd95`` the diagonal of the image, for ``volume_error`` the volume of the label. A prediction where
the label is empty has the worst value too (``volume_error``: its volume), but its sensitivity is
undefined (NaN). Where both are empty all are undefined, as nnU-Net's Dice is, and ``volume_error``
is 0.

Surfaces are the voxels of a mask that touch its outside with a face, at their centres; a voxel at
the border of the image touches its outside. Distances are those of MONAI's
``compute_hausdorff_distance`` and ``compute_surface_dice``; the lesion-wise F1 is that of the
ISLES'22 challenge (Hernandez Petzsche et al., 2022, Scientific Data 9:762); the surface Dice that
of Nikolov et al. (2021, J Med Internet Res 23:e26151), over voxels. Not in the paper, but for Dice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]

#: Name of each metric -> whether more of it is better.
METRICS = {
    "dice": True,
    "sensitivity": True,
    "precision": True,
    "surface_dice": True,
    "lesion_f1": True,
    "hd95": False,
    "volume_error": False,
}
#: Raised whenever the same masks give other numbers.
VERSION = 2
#: Of a distance: a NIfTI file has its spacing in float32, 0.4 mm as 0.40000000596.
_ROUNDING = 1e-6
#: Units of the metrics that have one.
UNITS = {"hd95": "mm", "volume_error": "mL"}


def score(
    label: Mask, prediction: Mask, spacing: Sequence[float], tolerance: float
) -> dict[str, float]:
    """The metrics of one label, and its volumes.

    Args:
        label: where it is drawn (Z, Y, X); what is to be ignored is False here and below.
        prediction: where it is predicted (Z, Y, X).
        spacing: of the voxels (z, y, x) in mm.
        tolerance: of the surface Dice in mm.

    Returns:
        The entries of ``METRICS``, NaN where undefined, and ``label_ml`` and ``predicted_ml``.
    """
    drawn, predicted, right = (
        int(np.count_nonzero(mask)) for mask in (label, prediction, label & prediction)
    )
    ml = math.prod(spacing) / 1000
    distances = surface_distances(label, prediction, spacing)
    return {
        "dice": _share(2 * right, drawn + predicted),
        "sensitivity": _share(right, drawn),
        "precision": _share(right, predicted) if predicted or not drawn else 0.0,
        "surface_dice": _surface_dice(distances, tolerance),
        "lesion_f1": lesion_f1(label, prediction),
        "hd95": _hd95(distances, math.dist((0, 0, 0), np.multiply(label.shape, spacing))),
        "volume_error": abs(predicted - drawn) * ml,
        "label_ml": drawn * ml,
        "predicted_ml": predicted * ml,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def surface(mask: Mask) -> Mask:
    """The voxels of a mask (Z, Y, X) that touch its outside with a face."""
    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    label: Mask, prediction: Mask, spacing: Sequence[float]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each surface voxel its distance in mm to the other mask's surface.

    Returns:
        Distances of the label's surface voxels, and of the prediction's; infinite where the other
        mask is empty.
    """
    masks = _cropped(label, prediction)
    points = [np.argwhere(surface(mask)) * np.asarray(spacing, float) for mask in masks]
    return _nearest(points[0], points[1]), _nearest(points[1], points[0])


def _cropped(label: Mask, prediction: Mask) -> tuple[Mask, Mask]:
    """Both masks in the box that holds them, with a voxel of outside on each side."""
    boxes = ndimage.find_objects((label | prediction).astype(np.uint8))
    box = boxes[0] if boxes else tuple(slice(0, 0) for _ in label.shape)
    return np.pad(label[box], 1), np.pad(prediction[box], 1)


def _nearest(points: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    if not len(others) or not len(points):
        return np.full(len(points), np.inf)
    return np.asarray(KDTree(others).query(points)[0])


def _surface_dice(distances: tuple[NDArray[Any], NDArray[Any]], tolerance: float) -> float:
    both = np.concatenate(distances)
    within = both <= tolerance * (1 + _ROUNDING)
    return _share(int(np.count_nonzero(within)), len(both))


def _hd95(distances: tuple[NDArray[Any], NDArray[Any]], worst: float) -> float:
    """In mm; ``worst`` where one of the masks is empty."""
    sizes = [len(found) for found in distances]
    if not any(sizes):
        return math.nan
    if not all(sizes):
        return worst
    return float(max(np.percentile(found, 95) for found in distances))


def lesion_f1(label: Mask, prediction: Mask) -> float:
    """F1 over connected components: TP / (TP + (FP + FN) / 2).

    TP are the label's components that overlap the prediction, FN those that do not, FP the
    prediction's components that do not overlap the label.
    """
    drawn, found = _overlapping(label, prediction)
    predicted, right = _overlapping(prediction, label)
    return _share(2 * found, 2 * found + (predicted - right) + (drawn - found))


def _overlapping(mask: Mask, other: Mask) -> tuple[int, int]:
    """How many connected components a mask has, and how many of them overlap the other mask."""
    components, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return count, len(np.unique(components[mask & other]))
