"""One grid a case: orientation, choice of the reference, resampling, overlap.

Every image is first flipped and permuted, without loss, to the axes nearest to LPS. The label's
grid wins, since moving a label loses small lesions; otherwise the first contrast of
``REFERENCE_ORDER``. The others are moved by their scanner coordinates, linearly (a spline would
turn exact zeros into ringing). Not in the paper, whose studies were registered beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import SimpleITK as sitk

#: Diffusion first: a lesion is drawn there, and it is the coarsest grid.
REFERENCE_ORDER = ("TRACE", "ADC", "FLAIR", "T2", "T1", "GRE", "SWI")

_SAME_GRID = 0.01  # voxels; float32 headers of one grid differ by less
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_INT16 = np.iinfo(np.int16)


def make_image(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """An image in LPS from voxels ``(x, y, z)`` and a shear-free RAS+ affine ``(4, 4)`` in mm."""
    image = sitk.GetImageFromArray(voxels.transpose())
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(_RAS_TO_LPS @ affine[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin((_RAS_TO_LPS @ affine[:3, 3]).tolist())
    return sitk.DICOMOrient(image, "LPS")


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether both have the same size, and the same place of every corner to 0.01 voxel."""
    if one.GetSize() != other.GetSize():
        return False
    corners = product(*((0, size - 1) for size in one.GetSize()))
    shifts = [
        np.subtract(one.TransformIndexToPhysicalPoint(c), other.TransformIndexToPhysicalPoint(c))
        for c in corners
    ]
    return float(np.abs(shifts).max()) <= _SAME_GRID * min(one.GetSpacing())


def choose_reference(contrasts: Sequence[str]) -> str:
    """The contrast whose grid a case without a label takes; ``contrasts`` in channel order."""
    return next((name for name in REFERENCE_ORDER if name in contrasts), contrasts[0])


def coverage(image: sitk.Image, reference: sitk.Image) -> float:
    """The share of the reference's voxels that lie in the field of view of ``image``, 0 to 1."""
    inside = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    inside.CopyInformation(image)
    moved = sitk.Resample(inside, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return float(sitk.GetArrayViewFromImage(moved).mean())


def resample(image: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """Move an int16 or float32 image to the reference's grid, linearly; 0 outside, type kept."""
    moved = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, 0, sitk.sitkFloat32)
    if image.GetPixelID() == sitk.sitkFloat32:
        return moved
    values = np.rint(sitk.GetArrayViewFromImage(moved)).clip(_INT16.min, _INT16.max)
    rounded = sitk.GetImageFromArray(values.astype(np.int16))
    rounded.CopyInformation(reference)
    return rounded


def absent_image(reference: sitk.Image) -> sitk.Image:
    """The image of an absent contrast: uint8, exactly zero, on the reference's grid."""
    image = sitk.Image(reference.GetSize(), sitk.sitkUInt8)
    image.CopyInformation(reference)
    return image
