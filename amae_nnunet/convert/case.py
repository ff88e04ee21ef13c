"""One case: its sources read, brought to one grid and written under nnU-Net's names.

The files go into a folder that the caller publishes, so a case is there wholly or not at all. An
optional contrast that cannot be used is dropped, that is, it counts as absent, and the ledger says
why; a required one ends the case. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from amae_nnunet.convert.codes import CaseError, warning
from amae_nnunet.convert.grid import (
    absent_image,
    choose_reference,
    coverage,
    make_image,
    native_geometry,
    resample,
    same_grid,
)
from amae_nnunet.convert.montage import montage, save_montage
from amae_nnunet.convert.nifti import check_one_place, image_values, label_values
from amae_nnunet.convert.registration import IN_PLACE, register
from amae_nnunet.convert.source import NiftiFile, RawCase, Source
from amae_nnunet.convert.template import Template

ENDING = ".nii.gz"
LABEL_FILE = f"label{ENDING}"
MONTAGE_FILE = "montage.webp"
_WARN_COVERAGE = 0.9
_MIN_COVERAGE = 0.5


@dataclass(frozen=True)
class Options:
    """What the user chose for all cases.

    Attributes:
        register: move each contrast onto the reference, rigidly, where the grids differ.
        strict: end a case for what would otherwise be a contrast left out, or a doubt about
            where a file lies.
        montages: draw a picture of each case for the report.
    """

    register: bool = False
    strict: bool = False
    montages: bool = True


@dataclass(frozen=True)
class CaseJob:
    """What a worker process needs to convert one case.

    Attributes:
        raw: the case's sources.
        template: what they are.
        folder: an empty folder to write into.
        with_label: whether the label is read and written.
        options: the user's.
    """

    raw: RawCase
    template: Template
    folder: Path
    with_label: bool
    options: Options = field(default_factory=Options)


@dataclass
class _Findings:
    """What is learnt of a case's contrasts on the way."""

    job: CaseJob
    images: dict[str, sitk.Image] = field(default_factory=dict)
    native: dict[str, dict[str, Any]] = field(default_factory=dict)
    contrasts: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def drop(self, name: str, error: CaseError) -> None:
        """Count a contrast as absent, or end the case if it cannot do without.

        Raises:
            CaseError: the contrast is required, or the last one, or the user is strict.
        """
        self.images.pop(name, None)
        self.contrasts[name] |= {"status": "dropped", "code": error.code}
        left = [key for key, facts in self.contrasts.items() if facts["status"] != "dropped"]
        if self.job.options.strict or not left:
            raise error
        if self.job.template.missing_required(left):
            raise CaseError(error.code, f"{name} (required): {error.message}")
        text = f"{name} is dropped ({error.code}): {error.message}"
        self.warnings.append(warning("W_DROPPED", text))


def convert_case(job: CaseJob) -> dict[str, Any]:
    """Write ``0000.nii.gz``, ... and, if wanted and there, ``label.nii.gz`` into the job's folder.

    Returns:
        Facts of the case for the ledger: ``present`` (one ``0`` or ``1`` a channel), ``reference``,
        ``size`` and ``spacing`` (x, y, z; mm), ``native`` (the reference's own geometry),
        ``contrasts``, ``montage`` (whether there is one), ``label``, ``warnings``.

    Raises:
        CaseError: a required contrast or the label is not usable, or the grids do not fit.
    """
    found = _read_contrasts(job)
    label = _read_label(found)
    reference_name = _reference(found, label)
    reference = found.images[reference_name] if label is None else label
    for name in list(found.images):
        try:
            found.images[name] = _place(name, found, reference, reference_name)
        except CaseError as error:
            found.drop(name, error)
    facts: dict[str, Any] = {
        "present": "".join("01"[name in found.images] for name in job.template.contrasts),
        "reference": reference_name,
        "size": list(reference.GetSize()),
        "spacing": [round(size, 6) for size in reference.GetSpacing()],
        "native": found.native[reference_name],
        "contrasts": found.contrasts,
        "montage": job.options.montages,
    }
    if label is not None:
        facts["label"] = _count(label, job.template)
        if not sum(list(facts["label"].values())[1:]):
            found.warnings.append(warning("W_EMPTY_LABEL", "the label is empty"))
    _write_files(found, label, reference)
    return {**facts, "warnings": found.warnings}


def _read_contrasts(job: CaseJob) -> _Findings:
    """The images of all contrasts that can be read, in LPS."""
    found = _Findings(job, warnings=list(job.raw.warnings))
    errors: dict[str, CaseError] = {}
    for name, source in job.raw.contrasts.items():
        found.contrasts[name] = {"status": "present", **source.facts}
        found.warnings += source.warnings
        try:
            voxels, affine = source.read(job.folder)  # there it is cleared after a kill, too
            found.images[name] = make_image(image_values(voxels, source.name), affine)
            found.warnings += _doubts_about_place(source, job.options)
            found.native[name] = native_geometry(voxels.shape, affine)
        except CaseError as error:
            errors[name] = error
    for name in errors:
        found.drop(name, errors[name])
    return found


def _read_label(found: _Findings) -> sitk.Image | None:
    """The label in LPS."""
    job = found.job
    source, template = job.raw.label, job.template
    if not job.with_label or source is None:
        return None
    voxels, affine = source.read(job.folder)
    found.warnings += _doubts_about_place(source, job.options)
    values = label_values(
        voxels, template.labels, source.name, template.label_map, template.all_mapped
    )
    return make_image(values, affine)


def _doubts_about_place(source: Source, options: Options) -> list[str]:
    """What is doubtful about where a NIfTI file says that it lies.

    Raises:
        CaseError: there is a doubt, and the user is strict.
    """
    try:
        if isinstance(source, NiftiFile):
            check_one_place(source.path, source.name)
    except CaseError as error:
        if options.strict:
            raise
        return [warning("W_AFFINE", error.message)]
    return []


def _reference(found: _Findings, label: sitk.Image | None) -> str:
    """The contrast whose grid the case takes; with a label, one that lies on the label's grid."""
    preferred = choose_reference(list(found.images))
    if label is None:
        return preferred
    on_label = [name for name, image in found.images.items() if same_grid(image, label)]
    if not on_label:
        shown = found.job.raw.label.name if found.job.raw.label else "the label"
        raise CaseError(
            "E_LABEL_GRID",
            f"{shown} lies on the grid of none of {', '.join(found.images)}, and a label is never "
            "resampled: draw it on one of them",
        )
    return preferred if preferred in on_label else on_label[0]


def _place(name: str, found: _Findings, reference: sitk.Image, reference_name: str) -> sitk.Image:
    """The contrast on the reference's grid; its facts and doubts are noted.

    Raises:
        CaseError: too little of it is there.
    """
    image, facts = found.images[name], found.contrasts[name]
    facts |= {
        "size": list(image.GetSize()),
        "spacing": [round(size, 6) for size in image.GetSpacing()],
        "type": image.GetPixelIDTypeAsString(),
        "coverage": 1.0,
    }
    transform = None
    if found.job.options.register and name != reference_name:
        transform = _register(name, found, found.images[reference_name])
    if transform is None and same_grid(image, reference):
        return image
    covered = facts["coverage"] = round(coverage(image, reference, transform), 4)
    said = f"{name} covers {covered:.1%} of the grid of {reference_name}"
    if covered < _MIN_COVERAGE:
        raise CaseError("E_COVERAGE", f"{said}: register it first, or remove it")
    moved = resample(image, reference, transform)
    if not sitk.GetArrayViewFromImage(moved).any():
        raise CaseError("E_EMPTY", f"{name} is zero on the whole grid of {reference_name}")
    if covered < _WARN_COVERAGE:
        found.warnings.append(warning("W_COVERAGE", said))
    facts["status"] = "resampled"
    return moved


def _register(name: str, found: _Findings, fixed: sitk.Image) -> sitk.Transform | None:
    """The rigid motion of one contrast onto the reference; None if it stays where it is."""
    result = register(found.images[name], fixed)
    found.contrasts[name]["registration"] = result.facts()
    if result.accepted:
        return result.transform()
    if not result.reason.startswith(IN_PLACE):
        found.warnings.append(warning("W_REGISTRATION", f"{name} stays in place: {result.reason}"))
    return None


def _count(label: sitk.Image, template: Template) -> dict[str, int]:
    """Voxels of each label name, in the order of the values."""
    counts = np.bincount(sitk.GetArrayViewFromImage(label).ravel(), minlength=256)
    names = sorted(template.labels, key=lambda name: template.labels[name])
    return {name: int(counts[template.labels[name]]) for name in names}


def _write_files(found: _Findings, label: sitk.Image | None, reference: sitk.Image) -> None:
    """All channel files, zeros for what is absent, the label, and the picture."""
    job = found.job
    for channel, name in enumerate(job.template.contrasts):
        image = found.images.get(name)
        image = absent_image(reference) if image is None else image
        _write(image, job, f"{channel:04d}{ENDING}", reference)
    if label is not None:
        _write(label, job, LABEL_FILE, reference)
    if job.options.montages:
        picture = montage(
            {name: _array(found.images.get(name)) for name in job.template.contrasts},
            _array(label),
            reference.GetSpacing(),
        )
        save_montage(picture, job.folder / MONTAGE_FILE)


def _array(image: sitk.Image | None) -> np.ndarray | None:
    return None if image is None else sitk.GetArrayViewFromImage(image)


def _write(image: sitk.Image, job: CaseJob, name: str, reference: sitk.Image) -> None:
    image.CopyInformation(reference)
    sitk.WriteImage(image, str(job.folder / name), useCompression=True)
