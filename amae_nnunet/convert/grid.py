"""One grid a case: orientation, choice of the reference, resampling, overlap.

Every image is first flipped and permuted, without loss, to the axes nearest to LPS. The label's
grid wins, since moving a label loses small lesions; otherwise the first contrast of
``REFERENCE_ORDER``. The others are moved by their scanner coordinates, linearly (a spline would
turn exact zeros into ringing). Not in the paper, whose studies were registered beforehand.

The field of view of an image is the box of its voxels, from the outer faces of the first to those
of the last. In the rim, the half voxel outside the outermost centres, the value is that of the
nearest centre: nothing is extrapolated, and a single slice fills its own thickness. On the face
itself the lower side counts as inside, the upper as outside. Everything outside is exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk

#: Diffusion first: a lesion is drawn there, and it is the coarsest grid.
REFERENCE_ORDER = ("TRACE", "ADC", "FLAIR", "T2", "T1", "GRE", "SWI")

#: Voxels. Headers of one grid differ by rounding: 0.001 mm in the spacing of 44 slices was seen.
_SAME_GRID = 0.05
_LEVELS = 256  # fewer grey levels, rounded after interpolation, would show as steps
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def make_image(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An image in LPS from voxels ``(x, y, z)`` and a shear-free RAS+ affine ``(4, 4)`` in mm."""
    return sitk.DICOMOrient(place(voxels, affine), "LPS")


def place(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """The same in the order of the voxels as they are."""
    image = sitk.GetImageFromArray(voxels.transpose())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(_RAS_TO_LPS @ affine[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin((_RAS_TO_LPS @ affine[:3, 3]).tolist())
    return image


def native_geometry(shape: Sequence[int], affine: np.ndarray) -> dict[str, Any]:
    """The grid of a volume ``(x, y, z)`` as it came, in plain numbers: size, RAS+ affine in mm.

    The affine is kept as it is, not as spacing and direction, so that it can be given back to the
    last digit, even where the header's axes are not quite perpendicular.
    """
    return {"size": list(shape), "affine": affine.tolist()}


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether both have the same size, and every corner at the same place to 0.05 voxel."""
    if one.GetSize() != other.GetSize():
        return False
    corners = product(*((-0.5, size - 0.5) for size in one.GetSize()))
    shifts = [
        np.subtract(
            one.TransformPhysicalPointToContinuousIndex(
                other.TransformContinuousIndexToPhysicalPoint(corner)
            ),
            corner,
        )
        for corner in corners
    ]
    return float(np.abs(shifts).max()) <= _SAME_GRID


def choose_reference(contrasts: Sequence[str]) -> str:
    """The contrast whose grid a case without a label takes; ``contrasts`` in channel order."""
    return next((name for name in REFERENCE_ORDER if name in contrasts), contrasts[0])


def coverage(
    image: sitk.Image, reference: sitk.Image, transform: sitk.Transform | None = None
) -> float:
    """The share of the reference's voxels that lie in the field of view of ``image``, 0 to 1.

    ``transform`` maps points (mm, LPS) of the reference to points of ``image``; None: none.
    """
    inside = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    inside.CopyInformation(image)
    motion = transform or sitk.Transform()
    moved = sitk.Resample(inside, reference, motion, sitk.sitkNearestNeighbor, 0)
    return float(sitk.GetArrayViewFromImage(moved).mean())


def resample(
    image: sitk.Image, reference: sitk.Image, transform: sitk.Transform | None = None
) -> sitk.Image:
    """Move an int16 or float32 image to the reference's grid, linearly; exactly 0 outside.

    An int16 image is rounded back to int16 if that leaves 256 grey levels, else it is float32:
    rounding never turns a faint contrast into steps, or into nothing. Linear values lie between
    those they come from, so int16 cannot overflow.

    Args:
        image: what is moved.
        reference: whose grid it gets.
        transform: maps points (mm, LPS) of the reference to points of ``image``; None: none.
    """
    motion = transform or sitk.Transform()
    moved = sitk.Resample(image, reference, motion, sitk.sitkLinear, 0, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(moved)
    inside = values[values != 0]
    if image.GetPixelID() == sitk.sitkInt16 and inside.size and np.ptp(inside) >= _LEVELS:
        return sitk.Cast(sitk.Round(moved), sitk.sitkInt16)
    return moved


def absent_image(reference: sitk.Image) -> sitk.Image:
    """The image of an absent contrast: uint8, exactly zero, on the reference's grid."""
    image = sitk.Image(reference.GetSize(), sitk.sitkUInt8)
    image.CopyInformation(reference)
    return image
