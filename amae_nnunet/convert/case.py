"""One case: its files read, brought to one grid and written under nnU-Net's names.

The files go into a folder that the caller publishes, so a case is there wholly or not at all.
Not in the paper, which describes no conversion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from amae_nnunet.convert.grid import (
    absent_image,
    choose_reference,
    coverage,
    make_image,
    resample,
    same_grid,
)
from amae_nnunet.convert.nifti import image_values, label_values, open_nifti
from amae_nnunet.convert.scan import RawCase
from amae_nnunet.convert.template import Template
from amae_nnunet.errors import InputError

ENDING = ".nii.gz"
LABEL_FILE = f"label{ENDING}"
_WARN_COVERAGE = 0.9
_MIN_COVERAGE = 0.5


@dataclass(frozen=True)
class CaseJob:
    """What a worker process needs to convert one case.

    Attributes:
        raw: the case's files.
        template: what they are.
        folder: an empty folder to write into.
        with_label: whether the label is read and written.
    """

    raw: RawCase
    template: Template
    folder: Path
    with_label: bool


def convert_case(job: CaseJob) -> dict[str, Any]:
    """Write ``0000.nii.gz``, ... and, if wanted and there, ``label.nii.gz`` into the job's folder.

    Returns:
        Facts of the case for the ledger: ``present`` (one ``0`` or ``1`` a channel), ``reference``,
        ``size`` and ``spacing`` (x, y, z; mm), ``contrasts``, ``label``, ``warnings``.

    Raises:
        InputError: a file is not usable, a required contrast is not, or the grids do not fit.
    """
    template, raw = job.template, job.raw
    images = {name: _read_contrast(raw.folder / file) for name, file in raw.contrasts.items()}
    label = _read_label(job)
    reference_name = _reference(images, label, raw)
    reference = images[reference_name] if label is None else label
    warnings: list[str] = []
    contrasts: dict[str, dict[str, Any]] = {}
    outputs: dict[str, sitk.Image | None] = {}
    for name, image in images.items():
        outputs[name], contrasts[name] = _place(image, reference)
        covered = contrasts[name]["coverage"]
        missing = contrasts[name]["status"] == "missing"
        if missing and name in template.required:
            raise InputError(
                f"{name} (required) covers {covered:.1%} of the grid of {reference_name}: "
                "register it first, or remove the case"
            )
        if covered < _WARN_COVERAGE:
            counted = ", it counts as missing" if missing else ""
            warnings.append(f"{name} covers {covered:.1%} of the grid of {reference_name}{counted}")
        if not missing and not sitk.GetArrayViewFromImage(outputs[name]).any():
            raise InputError(f"{name} is zero on the whole grid of {reference_name}: remove it")
    facts: dict[str, Any] = {
        "present": "".join(
            "01"[contrasts.get(name, {}).get("status", "missing") != "missing"]
            for name in template.contrasts
        ),
        "reference": reference_name,
        "size": list(reference.GetSize()),
        "spacing": [round(size, 6) for size in reference.GetSpacing()],
        "contrasts": contrasts,
    }
    for channel, name in enumerate(template.contrasts):
        image = outputs.get(name)
        image = absent_image(reference) if image is None else image
        _write(image, job, f"{channel:04d}{ENDING}", reference)
    if label is not None:
        _write(label, job, LABEL_FILE, reference)
        facts["label"] = _count(label, template)
        if not sum(list(facts["label"].values())[1:]):
            warnings.append("the label is empty")
    return {**facts, "warnings": warnings}


def _read_contrast(path: Path) -> sitk.Image:
    voxels, affine = open_nifti(path)
    return make_image(image_values(voxels, path.name), affine)


def _read_label(job: CaseJob) -> sitk.Image | None:
    if not job.with_label or job.raw.label is None:
        return None
    path = job.raw.folder / job.raw.label
    voxels, affine = open_nifti(path)
    return make_image(label_values(voxels, job.template.labels, path.name), affine)


def _reference(images: dict[str, sitk.Image], label: sitk.Image | None, raw: RawCase) -> str:
    preferred = choose_reference(list(images))
    if label is None:
        return preferred
    on_label = [name for name, image in images.items() if same_grid(image, label)]
    if not on_label:
        raise InputError(
            f"the grid of label {raw.label} is that of none of {', '.join(images)}, and a label is "
            "never resampled: draw it on one of them"
        )
    return preferred if preferred in on_label else on_label[0]


def _place(image: sitk.Image, reference: sitk.Image) -> tuple[sitk.Image | None, dict[str, Any]]:
    """The image on the reference's grid (None if too little of it is there), and its facts."""
    facts = {
        "size": list(image.GetSize()),
        "spacing": [round(size, 6) for size in image.GetSpacing()],
        "type": image.GetPixelIDTypeAsString(),
    }
    if same_grid(image, reference):
        return image, {"status": "present", "coverage": 1.0, **facts}
    covered = round(coverage(image, reference), 4)
    if covered < _MIN_COVERAGE:
        return None, {"status": "missing", "coverage": covered, **facts}
    return resample(image, reference), {"status": "resampled", "coverage": covered, **facts}


def _count(label: sitk.Image, template: Template) -> dict[str, int]:
    """Voxels of each label name, in the order of the values."""
    counts = np.bincount(sitk.GetArrayViewFromImage(label).ravel(), minlength=256)
    names = sorted(template.labels, key=lambda name: template.labels[name])
    return {name: int(counts[template.labels[name]]) for name in names}


def _write(image: sitk.Image, job: CaseJob, name: str, reference: sitk.Image) -> None:
    image.CopyInformation(reference)
    sitk.WriteImage(image, str(job.folder / name), useCompression=True)
