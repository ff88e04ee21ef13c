"""Opening one NIfTI file of a user, and refusing what would be misread without a word.

SimpleITK, which nnU-Net reads with, takes a truncated file, NaN voxels or a file without geometry
and says nothing, so nibabel opens the file here, and its checksum is verified. Only voxels and
affine are taken: no text of a header gets any further. Not in the paper.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.unpack import nifti_class, open_plain, read_nifti

_SPACING_RANGE = (0.05, 20.0)  # mm: outside of it the unit is not millimetres
_MAX_SHEAR = 1e-3  # cosine between two axes of the grid
_SAME_PLACE = 0.1  # voxels between the two affines of a header: less is rounding
_MAX_LABEL_ERROR = 1e-3
_INT16 = np.iinfo(np.int16)


def open_nifti(path: Path, name: str, volume: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one volume.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        name: what errors call it.
        volume: which volume of a 4-D file, from 0; None for a file that has only one.

    Returns:
        The voxels ``(x, y, z)``, a real type, all finite; the affine
        ``(4, 4)``, voxel index to RAS+ position in mm.

    Raises:
        CaseError: the file is damaged, not one real 3-D volume, or its geometry is not usable.
    """
    try:
        content = read_nifti(path)
        image = nifti_class(content).from_bytes(content)
        voxels = _read_voxels(image, name, volume)
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError) as error:
        reason = " ".join(str(error.args[-1] if error.args else error).split())
        raise CaseError(
            "E_DAMAGED", f"{name} is damaged or not NIfTI ({reason}): copy it again"
        ) from None
    return voxels, _check_affine(image, name)


def check_one_place(path: Path, name: str) -> None:
    """Check that the two affines of a file, if both are there, put its voxels into one place.

    A header may hold two, each with a code that says of what kind it is; 0 is none. Software
    differs in which one it takes: here, as in nibabel and FSL, it is the sform.

    Args:
        path: a file that ``open_nifti`` has read.
        name: what errors call it.

    Raises:
        CaseError: sform and qform put a corner of the grid more than 0.1 voxel apart.
    """
    with open_plain(path) as file:
        start = file.read(nib.Nifti2Header.template_dtype.itemsize)
    header_class = nifti_class(start).header_class
    header = header_class(start[: header_class.template_dtype.itemsize], check=False)
    if not (header["sform_code"] and header["qform_code"]):
        return
    sizes = header.get_data_shape()[:3]
    corners = np.transpose([[*corner, 1] for corner in product(*((0, n - 1) for n in sizes))])
    sform = header.get_sform()
    shifts = _qform(header) @ corners - sform @ corners  # mm
    if not np.abs(np.linalg.solve(sform, shifts)).max() <= _SAME_PLACE:
        apart = np.linalg.norm(shifts, axis=0).max()
        how = f"are {apart:.1f} mm apart at a corner" if np.isfinite(apart) else "contradict"
        raise CaseError(
            "E_AFFINE",
            f"sform and qform of {name} {how}; the sform counts: if it is right, set the qform to "
            "it, else export the file again",
        )


def image_values(voxels: np.ndarray, name: str) -> np.ndarray:
    """The voxels of a contrast as int16 if they are whole numbers that fit, else as float32.

    Raises:
        CaseError: all voxels are the same, or a value is too large for float32.
    """
    low, high = voxels.min(), voxels.max()
    if low == high:
        raise CaseError(
            "E_EMPTY", f"{name} has the value {low} everywhere, which says nothing: remove the file"
        )
    if voxels.dtype.kind in "iub" and low >= _INT16.min and high <= _INT16.max:
        return voxels.astype(np.int16)
    with np.errstate(over="ignore"):
        values = voxels.astype(np.float32)
    if not np.isfinite(values).all() or values.min() == values.max():
        raise CaseError(
            "E_TYPE", f"{name}: values {low:g} to {high:g} do not fit 32 bits: rescale the file"
        )
    return values


def label_values(
    voxels: np.ndarray,
    labels: Mapping[str, int],
    name: str,
    label_map: Mapping[int, int] | None = None,
    all_mapped: bool = False,
) -> np.ndarray:
    """The voxels of a label as uint8; values within 0.001 of a whole number are rounded.

    Args:
        voxels: as ``open_nifti`` gives them.
        labels: name -> value that the result may have.
        name: what errors call the file.
        label_map: value in the file -> value of ``labels``, where the two differ.
        all_mapped: whether the file may have no value but 0 that is not in ``label_map``.

    Raises:
        CaseError: a value is not one of the template's.
    """
    rounded = np.rint(voxels)
    values = rounded.copy()
    for old, new in (label_map or {}).items():
        values[rounded == old] = new
    unknown = ~np.isin(values, list(labels.values()))
    if all_mapped:
        unknown |= ~np.isin(rounded, [0, *(label_map or {})])
    if voxels.dtype.kind == "f":
        unknown |= np.abs(voxels - rounded) > _MAX_LABEL_ERROR
    if unknown.any():
        strange = np.unique(voxels[unknown])
        listed = ", ".join(f"{value:g}" for value in strange[:5]) + ", ..." * (len(strange) > 5)
        known = ", ".join(f"{key} {value}" for key, value in labels.items())
        raise CaseError(
            "E_LABEL_VALUES",
            f"{name} has label values {listed} that the template does not know ({known}): "
            "correct the label, or give the template a map",
        )
    return values.astype(np.uint8)


def _qform(header: Any) -> np.ndarray:
    """The affine of the qform, NaN if it is none."""
    try:
        return np.asarray(header.get_qform())
    except (ValueError, HeaderDataError):
        return np.full((4, 4), np.nan)


def _read_voxels(image: Any, name: str, volume: int | None) -> np.ndarray:
    if image.get_data_dtype().kind not in "iuf":
        raise CaseError(
            "E_TYPE",
            f"{name} has colour or complex voxels ({image.header.get_value_label('datatype')}): "
            "give the magnitude image",
        )
    shape = image.shape
    shown = " x ".join(map(str, shape))
    if volume is not None and not (len(shape) == 4 and min(shape) >= 1 and volume < shape[3]):
        raise CaseError(
            "E_4D", f"{name} is {shown} and has no volume {volume}: count the volumes from 0"
        )
    single = len(shape) >= 3 and min(shape) >= 1 and all(size == 1 for size in shape[3:])
    if volume is None and not single:
        raise CaseError(
            "E_4D",
            f"{name} is {shown}, not one 3-D volume: extract the volume you need, or name it in a "
            f"table as {name}[0]",
        )
    part = image.dataobj if volume is None else image.dataobj[..., volume]
    voxels = np.asanyarray(part).reshape(shape[:3])
    bad = voxels.size - int(np.isfinite(voxels).sum()) if voxels.dtype.kind == "f" else 0
    if bad:
        raise CaseError("E_NONFINITE", f"{name} has {bad} NaN or infinite voxels: replace them")
    return voxels


def _check_affine(image: Any, name: str) -> np.ndarray:
    affine = np.asarray(image.affine, dtype=np.float64)
    if not image.header["sform_code"] and not image.header["qform_code"]:
        raise CaseError(
            "E_NO_GEOMETRY",
            f"{name} has no position in the scanner (sform and qform): export it again",
        )
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise CaseError(
            "E_NO_GEOMETRY", f"{name} has an affine that cannot be inverted: export it again"
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    shown = " x ".join(f"{size:g}" for size in spacing)
    if spacing.min() < _SPACING_RANGE[0] or spacing.max() > _SPACING_RANGE[1]:
        raise CaseError(
            "E_UNITS", f"{name} has voxels of {shown} mm: is its unit millimetres? export it again"
        )
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > _MAX_SHEAR:
        raise CaseError(
            "E_SHEAR", f"{name} has a sheared affine: resample it to a rectangular grid"
        )
    return affine
