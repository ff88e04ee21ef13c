"""Whole synthetic studies, in memory and as one NIfTI folder a case.

Not in the paper. Case k of a seed is the same whatever the number of cases, of processes, the
contrasts asked for and their order. The label is the acute infarct, which in the paper's data was
drawn where the trace image is bright and ADC is not; distractors see to it that one of the two
does not suffice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pebble import ProcessExpired
from tqdm import tqdm

from amae_nnunet.contrasts import PAPER_CONTRASTS
from amae_nnunet.errors import AMAEError, ConfigError
from amae_nnunet.lock import locked
from amae_nnunet.phantom.anatomy import make_head
from amae_nnunet.phantom.fields import FloatArray
from amae_nnunet.phantom.scanner import MOTION, SITES, make_images
from amae_nnunet.phantom.tissues import CODE, TISSUES, Labels
from amae_nnunet.workers import ahead, reason, workers

#: Probability that a case has a contrast. The paper requires ADC and trace; the rest is chosen.
AVAILABILITY: Mapping[str, float] = MappingProxyType(
    {"ADC": 1.0, "TRACE": 1.0, "T2": 0.7, "GRE": 0.5, "SWI": 0.4, "T1": 0.8, "FLAIR": 0.8}
)
#: Number of voxels and their size in mm by name, both (z, y, x).
SIZES: Mapping[str, tuple[tuple[int, int, int], tuple[float, float, float]]] = MappingProxyType(
    {
        "tiny": ((16, 32, 32), (9.0, 6.5, 6.5)),
        "small": ((24, 64, 64), (6.0, 3.3, 3.3)),
        "medium": ((26, 128, 128), (5.5, 1.7, 1.7)),
        "large": ((28, 192, 192), (5.0, 1.1, 1.1)),
    }
)
SHAPE, SPACING = SIZES["small"]
VERSION = 2  # of the phantom: raised whenever the same seed gives another study
_SMALLEST = 16
_FACTS = "study.json"


@dataclass(frozen=True)
class Split:
    """What the cases of a part of the benchmark are.

    Attributes:
        first_case: number of the first; parts have no number in common.
        most: cases that there can be; the next part begins after them.
        labels: whether the label is given.
        infarct: probability that a case has acute infarcts. The paper's labelled cases all do.
    """

    first_case: int
    most: float
    labels: bool
    infarct: float


SPLITS: Mapping[str, Split] = MappingProxyType(
    {
        "train": Split(0, 100_000, True, 1.0),
        "test": Split(100_000, 100_000, True, 1.0),
        "unlabeled": Split(200_000, np.inf, False, 0.5),
    }
)


@dataclass(frozen=True)
class Study:
    """One synthetic case; all arrays are (z, y, x), running to superior, posterior and left.

    Attributes:
        images: float32 by contrast; ADC in 1e-6 mm^2/s, the others in arbitrary units.
        label: uint8, 1 where more than half of the voxel is of the labelled tissue.
        tissue: uint8, index into `TISSUES` of the tissue that fills most of the voxel.
        spacing: size of a voxel in mm, (z, y, x).
        site: name of the scanner among `SITES`.
    """

    images: dict[str, FloatArray]
    label: Labels
    tissue: Labels
    spacing: tuple[float, float, float]
    site: str


@dataclass(frozen=True)
class _Recipe:
    """All that a case depends on, except for its number."""

    seed: int
    contrasts: tuple[str, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    availability: dict[str, float]
    sites: tuple[str, ...]
    motion: float
    infarct: float
    labels: bool = True
    label: str = "infarct"

    def make(self, index: int, contrasts: Sequence[str]) -> Study:
        """The case of a number, with all of ``contrasts``."""
        anatomy, imaging, _ = _streams(self.seed, index)
        fractions = make_head(anatomy, self.shape, self.spacing, self.infarct)
        site = self.sites[int(imaging.random() * len(self.sites))]
        images = make_images(imaging, fractions, self.spacing, contrasts, SITES[site], self.motion)
        return Study(
            images=images,
            label=(fractions[CODE[self.label]] > 0.5).astype(np.uint8),
            tissue=fractions.argmax(0).astype(np.uint8),
            spacing=(float(self.spacing[0]), float(self.spacing[1]), float(self.spacing[2])),
            site=site,
        )

    def facts(self) -> dict[str, Any]:
        """As JSON gives it back."""
        facts: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"phantom": VERSION, **facts}


def make_study(
    seed: int,
    index: int,
    contrasts: Sequence[str] = PAPER_CONTRASTS,
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    *,
    sites: Sequence[str] = tuple(SITES),
    motion: float = MOTION,
    infarct: float = 1.0,
    label: str = "infarct",
) -> Study:
    """Make case ``index`` of ``seed`` with all of ``contrasts``.

    Args:
        seed: seed of the data set, 0 or more.
        index: number of the case, 0 or more.
        contrasts: names among `PAPER_CONTRASTS`.
        shape: number of voxels, (z, y, x), each 16 or more.
        spacing: size of a voxel in mm, (z, y, x).
        sites: names among `SITES`, each as likely as the others.
        motion: probability that the head moves in a scan.
        infarct: probability of acute infarcts.
        label: the tissue of `TISSUES` that is labelled.

    Raises:
        ConfigError: a value that cannot work.
    """
    recipe = _Recipe(
        seed, tuple(contrasts), tuple(shape), tuple(spacing), {}, tuple(sites), motion, infarct,
        label=label,
    )  # fmt: skip
    _check(recipe, index)
    return recipe.make(index, contrasts)


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
    unknown = [name for name in availability if name not in PAPER_CONTRASTS]
    if unknown:
        raise ConfigError(f"availability of {unknown[0]}: name {' '.join(PAPER_CONTRASTS)}")
    for name in dict.fromkeys([*contrasts, *availability]):
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
    *,
    sites: Sequence[str] = tuple(SITES),
    motion: float = MOTION,
    infarct: float = 1.0,
    labels: bool = True,
    label: str = "infarct",
    num_processes: int = 1,
    resume: bool = False,
) -> list[Path]:
    """Write ``prefix_000/ADC.nii.gz``, ..., ``prefix_000/seg.nii.gz`` and so on into ``folder``.

    ``study.json`` says how a case was made and how large its label is; it appears whole or not.

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
        sites: names among `SITES`.
        motion: probability that the head moves in a scan.
        infarct: probability of acute infarcts.
        labels: whether to write the label.
        label: the tissue of `TISSUES` that is labelled.
        num_processes: how many cases to make at once.
        resume: skip the cases that are there and were made in the same way.

    Returns:
        The folders of the cases.

    Raises:
        ConfigError: a value cannot work, a case is there already, or another run writes there.
        AMAEError: a process died; the cases that are written stay.
    """
    _check_request(num_cases, num_processes, prefix)
    recipe = _Recipe(seed, tuple(contrasts), tuple(shape), tuple(spacing), dict(availability),
                     tuple(sites), motion, infarct, labels, label)  # fmt: skip
    _check(recipe, first_case)
    available_contrasts(seed, first_case, contrasts, availability)  # or it says what is wrong
    numbers = range(first_case, first_case + num_cases)
    cases = {number: Path(folder) / f"{prefix}_{number:03d}" for number in numbers}
    Path(folder).mkdir(parents=True, exist_ok=True)
    with locked(Path(folder)):
        todo = {n: case for n, case in cases.items() if not _done(case, recipe, resume)}
        _write_cases(todo, recipe, num_processes, len(cases))
    return list(cases.values())


def _write_cases(todo: Mapping[int, Path], recipe: _Recipe, num_processes: int, total: int) -> None:
    """Write cases with a progress bar over ``total``, those that are there already included."""
    jobs = ((case, _write_case, (case, number, recipe)) for number, case in todo.items())
    processes = num_processes if min(num_processes, len(todo)) > 1 else 0
    with (
        tqdm(None, "phantom", total, initial=total - len(todo), unit="case") as bar,
        workers(min(processes, len(todo))) as schedule,
    ):
        for case, future in ahead(schedule, jobs, 2 * processes):
            try:
                future.result()
            except ProcessExpired as error:
                raise AMAEError(f"{case}: {reason(error)} (-np)") from None
            bar.update()


def _done(case: Path, recipe: _Recipe, resume: bool) -> bool:
    if not case.exists():
        return False
    if not resume:
        raise ConfigError(f"{case} exists: choose another folder, prefix or first_case")
    try:
        found = json.loads((case / _FACTS).read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != recipe.facts():
        raise ConfigError(f"{case} was not made with these settings: choose another folder")
    return True


def _write_case(case: Path, number: int, recipe: _Recipe) -> None:
    names = available_contrasts(recipe.seed, number, recipe.contrasts, recipe.availability)
    study = recipe.make(number, names)
    temporary = case.with_name(f".{case.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, image in study.images.items():
        _write_nifti(temporary / f"{name}.nii.gz", np.rint(image).astype(np.int16), study.spacing)
    if recipe.labels:
        _write_nifti(temporary / "seg.nii.gz", study.label, study.spacing)
    facts = {
        "case": number,
        "site": study.site,
        "tesla": SITES[study.site].field,
        "contrasts": list(names),
        "label_ml": round(float(study.label.sum()) * float(np.prod(study.spacing)) / 1000, 3),
        "recipe": recipe.facts(),
    }
    (temporary / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
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


def _check_request(num_cases: int, num_processes: int, prefix: str) -> None:
    for what, number in (("num_cases", num_cases), ("num_processes", num_processes)):
        if number < 1:
            raise ConfigError(f"{what} is {number}: give at least 1")
    if not prefix or Path(prefix).name != prefix:
        raise ConfigError(f"prefix {prefix!r} is not a file name: use letters, digits, '_' and '-'")


def _check(recipe: _Recipe, index: int) -> None:
    _check_case(recipe.seed, index, recipe.contrasts)
    _check_grid(recipe.shape, recipe.spacing)
    if not recipe.sites or not set(recipe.sites) <= set(SITES):
        raise ConfigError(f"sites {list(recipe.sites)}: name at least one of {' '.join(SITES)}")
    if recipe.label not in TISSUES:
        raise ConfigError(f"label {recipe.label}: name one of {' '.join(TISSUES)}")
    for name in ("motion", "infarct"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise ConfigError(f"{name} is {getattr(recipe, name)}: give a probability, 0 to 1")


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
