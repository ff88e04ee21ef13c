"""Whole synthetic studies, in memory and as one NIfTI folder a case.

Not in the paper. Case k of a seed is the same whatever the number of cases, the contrasts asked
for and their order. The label is the acute infarct, which in the paper's data was drawn where the
trace image is bright and ADC is not; distractors see to it that one of the two does not suffice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.errors import ConfigError
from amae_nnunet.phantom.anatomy import TISSUES, FloatArray, Labels, make_head
from amae_nnunet.phantom.signal import make_images

#: Probability that a case has a contrast. The paper requires ADC and trace; the rest is chosen.
AVAILABILITY: Mapping[str, float] = MappingProxyType(
    {"ADC": 1.0, "TRACE": 1.0, "T2": 0.7, "GRE": 0.5, "SWI": 0.4, "T1": 0.8, "FLAIR": 0.8}
)
SHAPE = (24, 64, 64)
SPACING = (6.0, 3.0, 3.0)
_SMALLEST = 16


@dataclass(frozen=True)
class Study:
    """One synthetic case; all arrays are (z, y, x), running to superior, posterior and left.

    Attributes:
        images: float32 by contrast; ADC in 1e-6 mm^2/s, the others in arbitrary units.
        label: uint8, 1 where more than half of the voxel is acute infarct.
        tissue: uint8, index into `TISSUES` of the tissue that fills most of the voxel.
        spacing: size of a voxel in mm, (z, y, x).
    """

    images: dict[str, FloatArray]
    label: Labels
    tissue: Labels
    spacing: tuple[float, float, float]


def make_study(
    seed: int,
    index: int,
    contrasts: Sequence[str] = PAPER_CONTRASTS,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
) -> Study:
    """Make case ``index`` of ``seed`` with all of ``contrasts``.

    Args:
        seed: seed of the data set, 0 or more.
        index: number of the case, 0 or more.
        contrasts: names among `PAPER_CONTRASTS`.
        shape: number of voxels, (z, y, x), each 16 or more.
        spacing: size of a voxel in mm, (z, y, x).

    Raises:
        ConfigError: a value that cannot work.
    """
    _check_case(seed, index, contrasts)
    _check_grid(shape, spacing)
    anatomy, imaging, _ = _streams(seed, index)
    fractions = make_head(anatomy, shape, spacing)
    infarct = fractions[TISSUES.index("infarct")]
    return Study(
        images=make_images(imaging, fractions, contrasts),
        label=(infarct > 0.5).astype(np.uint8),
        tissue=fractions.argmax(0).astype(np.uint8),
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


def available_contrasts(
    seed: int,
    index: int,
    contrasts: Sequence[str] = PAPER_CONTRASTS,
    availability: Mapping[str, float] = AVAILABILITY,
) -> tuple[str, ...]:
    """Draw which of ``contrasts`` case ``index`` has; at least the likeliest one.

    Args:
        seed: seed of the data set.
        index: number of the case.
        contrasts: names among `PAPER_CONTRASTS`.
        availability: probability of each of them.

    Raises:
        ConfigError: a value that cannot work.
    """
    _check_case(seed, index, contrasts)
    for name in contrasts:
        if not 0 <= availability.get(name, -1) <= 1:
            raise ConfigError(
                f"availability of {name} is {availability.get(name)}: give a probability, 0 to 1"
            )
    uniform = _streams(seed, index)[2].random(len(PAPER_CONTRASTS))
    draws = dict(zip(PAPER_CONTRASTS, uniform, strict=True))
    names = tuple(name for name in contrasts if draws[name] < availability[name])
    return names or (max(contrasts, key=availability.__getitem__),)


def write_studies(
    folder: str | os.PathLike[str],
    num_cases: int,
    seed: int = 0,
    contrasts: Sequence[str] = PAPER_CONTRASTS,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    availability: Mapping[str, float] = AVAILABILITY,
    first_case: int = 0,
    prefix: str = "case",
) -> list[Path]:
    """Write ``prefix_000/ADC.nii.gz``, ..., ``prefix_000/seg.nii.gz`` and so on into ``folder``.

    Only the contrasts that a case has are written. A case appears at once and whole.

    Args:
        folder: where to write; made if missing.
        num_cases: how many cases.
        seed: seed of the data set.
        contrasts: names among `PAPER_CONTRASTS`.
        shape: number of voxels, (z, y, x).
        spacing: size of a voxel in mm, (z, y, x).
        availability: probability that a case has a contrast, by name.
        first_case: number of the first case.
        prefix: first part of the cases' names.

    Returns:
        The folders of the cases.

    Raises:
        ConfigError: a value that cannot work, or a case that is already there.
    """
    if num_cases < 1:
        raise ConfigError(f"num_cases is {num_cases}: write at least 1 case")
    if not prefix or Path(prefix).name != prefix:
        raise ConfigError(f"prefix {prefix!r} is not a file name: use letters, digits, '_' and '-'")
    _check_grid(shape, spacing)
    numbers = range(first_case, first_case + num_cases)
    cases = [Path(folder) / f"{prefix}_{number:03d}" for number in numbers]
    for case in cases:
        if case.exists():
            raise ConfigError(f"{case} exists: choose another folder, prefix or first_case")
    present = [available_contrasts(seed, number, contrasts, availability) for number in numbers]
    Path(folder).mkdir(parents=True, exist_ok=True)
    work = tqdm(zip(numbers, cases, present, strict=True), "phantom", num_cases, unit="case")
    for number, case, names in work:
        _write_case(case, make_study(seed, number, names, shape, spacing))
    return cases


def _write_case(case: Path, study: Study) -> None:
    temporary = case.with_name(f".{case.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, image in study.images.items():
        _write_nifti(temporary / f"{name}.nii.gz", np.rint(image).astype(np.int16), study.spacing)
    _write_nifti(temporary / "seg.nii.gz", study.label, study.spacing)
    temporary.replace(case)


def _write_nifti(
    path: Path, image: npt.NDArray[np.generic], spacing: tuple[float, float, float]
) -> None:
    """Write a (z, y, x) array as (x, y, z) with an LPS affine that centres it at 0 mm."""
    steps = np.array([-spacing[2], -spacing[1], spacing[0]])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(image.shape[::-1]) - 1) / 2
    nifti = nib.Nifti1Image(image.transpose(2, 1, 0), affine)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(affine, code="scanner")
    nifti.set_sform(affine, code="scanner")
    nib.save(nifti, path)


def _streams(seed: int, index: int) -> list[np.random.Generator]:
    """Independent streams of one case: anatomy, imaging, availability."""
    return np.random.default_rng([seed, index]).spawn(3)


def _check_case(seed: int, index: int, contrasts: Sequence[str]) -> None:
    if seed < 0 or index < 0:
        raise ConfigError(f"seed {seed}, case {index}: both must be 0 or more")
    unknown = [name for name in contrasts if name not in PAPER_CONTRASTS]
    if unknown or not contrasts or len(set(contrasts)) != len(contrasts):
        raise ConfigError(
            f"contrasts {list(contrasts)}: name at least one of {' '.join(PAPER_CONTRASTS)}, "
            "each at most once"
        )


def _check_grid(shape: Sequence[int], spacing: Sequence[float]) -> None:
    if len(shape) != 3 or min(shape) < _SMALLEST:
        raise ConfigError(f"shape {tuple(shape)}: give (z, y, x), each {_SMALLEST} or more")
    if len(spacing) != 3 or not all(0 < step < np.inf for step in spacing):
        raise ConfigError(f"spacing {tuple(spacing)}: give (z, y, x) in mm, each above 0")
