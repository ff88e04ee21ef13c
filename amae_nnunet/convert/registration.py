"""Rigid registration of one contrast onto another, for patients who moved between two series.

Mattes' mutual information is maximised over three rotations and three shifts, from coarse to fine,
starting at the header's position. The answer is then judged on voxels drawn anew, all of them in
both images before and after, and taken only if they share clearly more information than before
and a patient can have moved that far; otherwise the header's position is kept. The same images
always give the same motion. Not in the paper, whose studies were registered beforehand.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

_WORKING_SPACING = 2.0  # mm: up to this, voxels are averaged; half the time, 0.2 mm at most
_CLIP = (0.5, 99.5)  # percentiles: a few bright voxels would leave one bin for all the brain
_BINS = 32
#: Coarse to fine: Gaussian that smooths both images (mm), voxels compared.
_LEVELS = ((4.0, 20_000), (2.0, 20_000), (0.5, 50_000))
_FIRST_STEP, _LAST_STEP, _SHORTENING = 2.0, 0.01, 0.7  # mm, mm, factor at each turning point
_ITERATIONS = 200
_JUDGED = 100_000  # voxels that the judgement compares
_JUDGED_SIGMA = 1.0  # mm: else interpolation, which smooths, would count as information
_MAX_SHIFT = 20.0  # mm
_MAX_ROTATION = 15.0  # degrees
_MIN_INFORMATION = 0.1  # nats: two contrasts of one head share more
_MIN_GAIN = 1.01  # factor: less is what interpolation and a quarter of a millimetre bring
_MIN_OVERLAP = 0.1  # share of the judged voxels
#: How the reason begins where the images match as they are, which is no doubt about them.
IN_PLACE = "a motion brings nothing"


@dataclass(frozen=True)
class Registration:
    """A rigid motion from the fixed to the moving image, and what speaks for it.

    Attributes:
        rotation: angles about x, y, z in rad, in the order of ``sitk.Euler3DTransform``.
        translation: x, y, z in mm, LPS.
        centre: what the rotation is about; x, y, z in mm, LPS.
        shift: how far the centre moves, mm.
        angle: of the whole rotation, degrees.
        before: mutual information in nats at the header's position.
        after: the same after the motion, over the same voxels.
        reason: why the motion is not used; empty if it is.
    """

    rotation: tuple[float, ...]
    translation: tuple[float, ...]
    centre: tuple[float, ...]
    shift: float
    angle: float
    before: float
    after: float
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the motion is used."""
        return not self.reason

    def transform(self) -> sitk.Euler3DTransform:
        """The motion; maps points (mm, LPS) of the fixed image to points of the moving one."""
        return sitk.Euler3DTransform(self.centre, *self.rotation, self.translation)

    def facts(self) -> dict[str, Any]:
        """Plain values for the ledger, from which the motion can be made again."""
        return {"accepted": self.accepted, **asdict(self)}


def register(moving: sitk.Image, fixed: sitk.Image, seed: int = 0) -> Registration:
    """Find the rigid motion that brings ``moving`` onto ``fixed``.

    Args:
        moving: any contrast, at its header's position.
        fixed: another contrast of the same patient.
        seed: of the samples of voxels, 0 or more.

    Returns:
        The motion found; its ``reason`` says why, if it is not to be used.
    """
    moving, fixed = _prepare(moving), _prepare(fixed)
    middle = [(size - 1) / 2 for size in fixed.GetSize()]
    motion = sitk.Euler3DTransform()
    motion.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(middle))
    before = after = 0.0
    try:
        _search(moving, fixed, motion, seed)
    except RuntimeError:  # of SimpleITK: under 4 slices, or hardly a voxel of one in the other
        reason = "too few slices, or too little of the two images overlaps"
    else:
        before, after, overlap = _judge(moving, fixed, motion, seed)
        reason = _doubt(_shift(motion), _angle(motion), before, after, overlap)
    angles = (motion.GetAngleX(), motion.GetAngleY(), motion.GetAngleZ())
    place = (angles, motion.GetTranslation(), motion.GetCenter(), _shift(motion), _angle(motion))
    return Registration(*place, before, after, reason)


def _prepare(image: sitk.Image) -> sitk.Image:
    """The image as float32, without outliers, at about the working spacing."""
    low, high = np.percentile(sitk.GetArrayViewFromImage(image), _CLIP)
    clipped = sitk.Clamp(image, sitk.sitkFloat32, float(low), float(high))
    grid = zip(image.GetSize(), image.GetSpacing(), strict=True)
    return sitk.BinShrink(
        clipped, [min(size, max(1, int(_WORKING_SPACING / spacing))) for size, spacing in grid]
    )


def _search(moving: sitk.Image, fixed: sitk.Image, motion: sitk.Transform, seed: int) -> None:
    """Change ``motion`` to the best one found.

    Raises:
        RuntimeError: an image has under 4 slices, or they hardly overlap, here or on the way.
    """
    sigmas, samples = zip(*_LEVELS, strict=True)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # more add up in any order, and end elsewhere by rounding
    method.SetMetricAsMattesMutualInformation(_BINS)
    # These filters blur by the largest side of a voxel. With thick slices the gradients then are
    # so wrong that the search leaves a perfect start.
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [min(1.0, number / fixed.GetNumberOfPixels()) for number in samples]
    method.SetMetricSamplingPercentagePerLevel(shares, seed + 1)  # a seed of 0 means the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([1] * len(_LEVELS))
    method.SetSmoothingSigmasPerLevel(sigmas)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        _FIRST_STEP, _LAST_STEP, _ITERATIONS, _SHORTENING
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(motion, inPlace=True)
    method.Execute(fixed, moving)


def _judge(
    moving: sitk.Image, fixed: sitk.Image, motion: sitk.Transform, seed: int
) -> tuple[float, float, float]:
    """Mutual information without and with the motion over the same voxels, and their share."""
    fixed, moving = (sitk.DiscreteGaussian(one, _JUDGED_SIGMA**2) for one in (fixed, moving))
    chosen = np.random.default_rng(seed).integers(fixed.GetNumberOfPixels(), size=_JUDGED)
    values = [sitk.GetArrayViewFromImage(fixed).ravel()[chosen]]
    for transform in (sitk.Transform(), motion):
        moved = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, math.nan)
        values.append(sitk.GetArrayViewFromImage(moved).ravel()[chosen])
    inside = np.isfinite(values[1]) & np.isfinite(values[2])
    here, before, after = (array[inside] for array in values)
    return _information(here, before), _information(here, after), float(inside.mean())


def _information(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of paired values in nats."""
    if not one.size:
        return 0.0
    joint = np.histogram2d(one, other, _BINS)[0] / one.size
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / independent[some])).sum())


def _shift(motion: sitk.Euler3DTransform) -> float:
    return float(np.linalg.norm(motion.GetTranslation()))


def _angle(motion: sitk.Euler3DTransform) -> float:
    cosine = (np.trace(np.reshape(motion.GetMatrix(), (3, 3))) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def _doubt(shift: float, angle: float, before: float, after: float, overlap: float) -> str:
    """Why a motion of so many mm and degrees is not to be used, empty if it is."""
    if overlap < _MIN_OVERLAP:
        return f"only {overlap:.1%} of the two images overlaps"
    if after < _MIN_INFORMATION:
        return f"the two images have little in common ({after:.2f} nats)"
    if shift >= _MAX_SHIFT or angle >= _MAX_ROTATION:
        return f"the motion found, {shift:.1f} mm and {angle:.1f} degrees, is not plausible"
    if not after > before * _MIN_GAIN:
        return f"{IN_PLACE} ({after:.3f} nats after {before:.3f})"
    return ""
