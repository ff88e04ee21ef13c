"""Predictions back on the scanner's grid, so that they overlay voxel by voxel on its images.

A case's grid is that of one of its images, flipped and permuted to LPS. The way back flips and
permutes too, so no voxel changes, and the affine is the image's own. For a NIfTI image that is the
file as it came; for DICOM it is the volume as it was read from its slices. Not in the paper.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from amae_nnunet.convert.case import ENDING
from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.grid import make_image, place, same_grid
from amae_nnunet.convert.ledger import read_lines
from amae_nnunet.convert.nifti import open_nifti
from amae_nnunet.convert.output import LEDGER
from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.whole import whole_file

_SCANNER = 1  # the code of an affine in scanner coordinates


def to_native(segmentation: sitk.Image, native: Mapping[str, Any]) -> np.ndarray:
    """The voxels ``(x, y, z)`` of a segmentation in the order of the scanner's image.

    Args:
        segmentation: labels on the case's grid.
        native: of the case's ledger line, made by ``native_geometry``.

    Raises:
        CaseError: the segmentation does not lie on the case's grid.
    """
    scanner = place(np.zeros(native["size"], np.uint8), np.array(native["affine"]))
    axes = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(scanner.GetDirection())
    turned = sitk.DICOMOrient(segmentation, axes)
    if not same_grid(turned, scanner):
        raise CaseError(
            "E_PREDICTION_GRID", "it does not lie on the grid of its case: predict it again"
        )
    return sitk.GetArrayFromImage(turned).transpose()


def restore(predictions: Path, inputs: Path, output: Path) -> tuple[int, list[str]]:
    """Write every ``CASE.nii.gz`` of a folder on the scanner's grid.

    A file appears at once and whole, with the time of its prediction. One that has it already is
    not written again; one whose prediction cannot be used any more is removed.

    Args:
        predictions: what ``nnUNetv2_predict`` wrote; probabilities and other files are left alone.
        inputs: what it read: the converter's folder, with the ledger.
        output: where to; made if it is not there.

    Returns:
        How many are there now, and a line for each that could not be written.

    Raises:
        InputError: there is no ledger, or no prediction.
        ConfigError: the output would mix with predictions or inputs, or cannot be written.
    """
    if not (inputs / LEDGER).is_file():
        raise InputError(
            f"{inputs} has no {LEDGER}: give the folder that amae-nnunet-convert wrote"
        )
    paths = sorted(path for path in predictions.glob(f"*{ENDING}") if path.name[0] != ".")
    if not paths:
        raise InputError(f"{predictions} holds no {ENDING} file: give what nnUNetv2_predict wrote")
    if output.resolve() in (predictions.resolve(), inputs.resolve()):
        raise ConfigError(f"-o {output} is in use: write elsewhere")
    natives = {line["case"]: line.get("native") for line in read_lines(inputs / LEDGER)}
    failures = []
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in tqdm(paths, "native", unit="case", disable=None):
            case, goal = path.name.removesuffix(ENDING), output / path.name
            try:
                _restore_one(path, natives.get(case), goal)
            except CaseError as error:
                goal.unlink(missing_ok=True)
                failures.append(f"case {case}: {error.message} [{error.code}]")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written ({error.strerror}): run it again") from None
    return len(paths) - len(failures), failures


def _restore_one(path: Path, native: Mapping[str, Any] | None, goal: Path) -> None:
    if native is None:
        raise CaseError("E_PREDICTION_CASE", "it is no case of the inputs: give its own with -i")
    if not path.is_file():
        raise CaseError("E_DAMAGED", f"{path.name} is not a file: predict it again")
    time = path.stat().st_mtime_ns
    if goal.is_file() and goal.stat().st_mtime_ns == time:
        return
    voxels = to_native(make_image(*open_nifti(path, path.name)), native)
    affine = np.array(native["affine"])
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.set_sform(affine, _SCANNER)
    image.set_qform(affine, _SCANNER)
    image.header.set_xyzt_units("mm")
    with whole_file(goal) as temporary:
        nib.save(image, temporary)
        os.utime(temporary, ns=(time, time))
