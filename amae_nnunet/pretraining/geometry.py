"""Preprocessed volumes as NIfTI files that lie where the original images lie.

nnU-Net permutes the axes of an image, crops it and resamples it. Its resampling keeps the outer
edges of the volume in place, so along each axis voxel p of the result lies at voxel
``start + (p + 1/2) * before / after - 1/2`` of the original. Not in the paper.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from amae_nnunet.errors import InputError
from amae_nnunet.pretraining.files import durable_file


def original_affine(properties: Mapping[str, Any]) -> NDArray[np.float64]:
    """Voxel (x, y, z) of the image that nnU-Net read, to RAS millimetres.

    Args:
        properties: of a preprocessed case, from nnU-Net's SimpleITK or nibabel readers.

    Raises:
        InputError: another reader, which keeps no geometry.
    """
    if "sitk_stuff" in properties:
        facts = properties["sitk_stuff"]
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(facts["direction"], (3, 3)) * np.asarray(facts["spacing"])
        affine[:3, 3] = facts["origin"]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
    facts = properties.get("nibabel_stuff", {})
    for key in ("reoriented_affine", "original_affine"):
        if key in facts:
            return np.asarray(facts[key], dtype=np.float64)
    raise InputError("this case keeps no geometry: it was not read from NIfTI files")


def preprocessed_affine(
    properties: Mapping[str, Any], shape: Sequence[int], transpose_forward: Sequence[int]
) -> NDArray[np.float64]:
    """Voxel (x, y, z) of the preprocessed volume, its axes put back, to RAS millimetres.

    Args:
        properties: of the case.
        shape: of the preprocessed volume, its axes as they are.
        transpose_forward: of the plans.
    """
    before = properties["shape_after_cropping_and_before_resampling"]
    inner = np.eye(4)
    for axis, original in enumerate(transpose_forward):
        scale = before[axis] / shape[axis]
        xyz = 2 - original
        inner[xyz, xyz] = scale
        inner[xyz, 3] = properties["bbox_used_for_cropping"][axis][0] + 0.5 * scale - 0.5
    return original_affine(properties) @ inner


def save_nifti(
    path: Path,
    volume: NDArray[np.float32],
    properties: Mapping[str, Any],
    transpose_forward: Sequence[int],
) -> None:
    """Write a preprocessed volume (Z, Y, X, as permuted) as ``.nii.gz``.

    Raises:
        AMAEError: the disk is full.
    """
    affine = preprocessed_affine(properties, volume.shape, transpose_forward)
    array = volume.transpose(np.argsort(transpose_forward)).transpose(2, 1, 0)
    image = nibabel.Nifti1Image(np.ascontiguousarray(array, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    with durable_file(path) as temporary, gzip.open(temporary, "wb") as file:
        file.write(image.to_bytes())
