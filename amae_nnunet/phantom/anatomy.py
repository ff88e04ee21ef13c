"""A synthetic head: for each voxel, how much of it is which tissue.

Not in the paper. Every structure is a formula in millimetres, so any grid can be filled: scalp,
skull, a brain with folded cortex, ventricles, deep grey nuclei, a cerebellum, a brainstem and
lesions, all irregular through random fields. It is meant to be recognised, not measured. The
formulas are evaluated on a finer grid, which gives the partial volume of thick slices.

Axes are (z, y, x) and run to superior, posterior and left. Lengths are those of an adult head; a
field of view that is too narrow for one gets a smaller head, a slab that is too low cuts it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amae_nnunet.phantom.cortex import fold_cortex
from amae_nnunet.phantom.fields import FloatArray, Points, in_ellipsoid, smooth_noise, tube_depth
from amae_nnunet.phantom.lesions import put_lesions
from amae_nnunet.phantom.tissues import CODE, TISSUES, Labels

_BRAIN = (64.0, 79.0, 60.0)  # semi-axes of the brain, mm: left, posterior, superior
_FINE_MM = 2.0  # voxels are divided until they are no larger, into 4 at most

# Middle lines (x without its side, y, z) and radii of paired structures, mm.
_VENTRICLE = (
    (6.5, -31, 7, 3),
    (8, -20, 12, 4.5),
    (8, -4, 17, 4),
    (12, 16, 17, 4.5),
    (22, 30, 8, 6),
)
_OCCIPITAL_HORN = ((22, 30, 8, 6), (23, 44, 2, 4), (20, 56, 0, 1.5))
_TEMPORAL_HORN = ((22, 30, 8, 6), (31, 18, -9, 3), (31, 0, -19, 2.2), (28, -8, -19, 2))
_CAUDATE = ((13, -24, 7, 6), (15.5, -12, 14, 4.5), (18, 6, 20, 3), (24, 22, 18, 1.8))
_HIPPOCAMPUS = ((29, 14, -14, 3.5), (27, 0, -21, 4.5), (23, -8, -22, 6))
_OPTIC_NERVE = ((31, -62, -33, 2.5), (14, -38, -28, 2.5))


@dataclass(frozen=True)
class _Frame:
    """The fine grid.

    Attributes:
        at: x, y, z of its voxels in the head, mm.
        axes: places along its own axes (z, y, x), mm.
        factors: into how many a voxel is divided along each axis.
    """

    at: Points
    axes: tuple[npt.NDArray[np.float64], ...]
    factors: tuple[int, ...]

    @property
    def steps(self) -> tuple[float, ...]:
        """Size of the fine voxels, mm."""
        return tuple(float(axis[1] - axis[0]) for axis in self.axes)


def make_head(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing: Sequence[float],
    infarct: float = 1.0,
) -> FloatArray:
    """Draw a head with lesions.

    Args:
        rng: source of all randomness.
        shape: number of voxels, (z, y, x).
        spacing: size of a voxel in mm, (z, y, x).
        infarct: probability of acute infarcts.

    Returns:
        ``(len(TISSUES), z, y, x)``, the share of each tissue in each voxel; they sum to 1.
    """
    frame = _frame(rng, shape, spacing)
    size = rng.uniform(0.94, 1.0, 3) * _BRAIN
    head, brain = _surfaces(rng, frame, size)
    labels = _outside(rng, head, brain, frame)
    inside = brain > 0
    x, y, z = (axis[inside] for axis in frame.at)

    def waves(length: float) -> FloatArray:
        return smooth_noise(rng, length, frame.axes)[inside]

    labels[inside] = fold_cortex(rng, (x, y, z), brain[inside], waves)
    labels[inside] = _deep_structures(rng, (x, y, z), labels[inside], waves(25.0))
    _put_posterior_fossa(frame.at, labels)
    smallest = 1.5 * math.prod(frame.steps + frame.factors) ** (1 / 3)
    put_lesions(rng, labels, frame.at, brain, frame.steps, smallest, infarct)
    return _fractions(labels, frame.factors)


def _frame(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]) -> _Frame:
    """Place the grid around a head that is shifted and tilted a little at random."""
    shrink = min(1.0, shape[1] * spacing[1] / 200, shape[2] * spacing[2] / 165)
    factors = tuple(min(4, math.ceil(step / shrink / _FINE_MM - 1e-6)) for step in spacing)
    axes = tuple(
        (np.arange(n * f, dtype=np.float64) - (n * f - 1) / 2) * (s / shrink / f)
        for n, f, s in zip(shape, factors, spacing, strict=True)
    )
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    nod, turn, lean = np.deg2rad(rng.uniform(-6, 6, 3))
    y, z = y * np.cos(nod) - z * np.sin(nod), y * np.sin(nod) + z * np.cos(nod)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    x, z = x * np.cos(lean) - z * np.sin(lean), x * np.sin(lean) + z * np.cos(lean)
    shift = rng.uniform(-2, 2, 3)
    x, y, z = ((axis + s).astype(np.float32) for axis, s in zip((x, y, z), shift, strict=True))
    return _Frame((x, y, z), axes, factors)


def _depth(at: Points, size: npt.ArrayLike, low: float = 1.0) -> FloatArray:
    """Depth in mm below an egg of semi-axes ``size``, along the ray from its centre.

    Below the centre heights count only ``low`` times, which makes a neck of it.
    """
    a, b, c = np.asarray(size, np.float32)
    y, z = at[1], np.where(at[2] < 0, np.float32(low) * at[2], at[2])
    x = at[0] * (1 - np.float32(0.0012) * y)  # wider behind
    distance = np.sqrt(x**2 + y**2 + z**2) + np.float32(1e-3)
    depth: FloatArray = distance / np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 + 1e-9)
    return depth - distance


def _surfaces(
    rng: np.random.Generator, frame: _Frame, size: npt.NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """Depth below the skin and below the brain's surface (negative outside), mm."""
    x, y, z = frame.at
    bumps = smooth_noise(rng, 40.0, frame.axes)
    head = _depth(frame.at, size + rng.uniform(12, 15), low=0.5) + 1.5 * bumps
    # The skull base rises to the forehead, least at the temporal poles.
    base = -39 - 17 * np.tanh((y + 15 + 0.012 * x**2) / 10)
    egg, above = _depth(frame.at, size, low=0.8) + bumps, z - base
    rounding = np.square(np.maximum(1 - np.abs(egg - above) / 18, 0))
    brain = np.minimum(egg, above) - 4.5 * rounding
    return head, np.maximum(brain, 30 * _cerebellum(frame.at)).astype(np.float32)


def _cerebellum(at: Points) -> FloatArray:
    """1 in the middle of the cerebellum, 0 at its surface, negative outside."""
    x, y, z = at[0] / 51, (at[1] - 41) / 35, (at[2] + 42) / 27
    inside: FloatArray = 1 - np.sqrt(x**2 + y**2 + z**2)
    return inside


def _outside(
    rng: np.random.Generator, head: FloatArray, brain: FloatArray, frame: _Frame
) -> Labels:
    """All around the brain: scalp, muscle, skull with marrow, fluid, sinuses, orbits, air."""
    pair = (np.abs(frame.at[0]), *frame.at[1:])
    lobules = smooth_noise(rng, 16.0, frame.axes)
    labels = np.where(lobules > 0.6, CODE["fat"], CODE["muscle"]).astype(np.uint8)
    orbit = in_ellipsoid(pair, (29, -60, -32), (19, 24, 16))
    labels[orbit] = CODE["fat"]
    labels[tube_depth(pair, _OPTIC_NERVE) > 0] = CODE["muscle"]
    for centre, size in (
        ((5, -64, -42), (4, 16, 14)),  # ethmoid cells
        ((7, -36, -36), (6, 9, 8)),  # sphenoid sinus
        ((26, -62, -60), (13, 16, 11)),  # maxillary sinus
        ((47, 14, -44), (6, 9, 9)),  # mastoid cells
        ((10, -84, -8), (8, 3, 7)),  # frontal sinus
    ):
        labels[in_ellipsoid(pair, centre, size)] = CODE["sinus"]
    below = np.clip((-pair[2] - 12) / 14, 0, 1)  # thin bones at the base
    bone = (brain > -8.5 + 4.5 * below) & (labels != CODE["sinus"])
    labels[bone] = CODE["bone"]
    labels[bone & (brain < -3.2) & (brain > -6.4)] = CODE["marrow"]
    labels[brain > -1.2] = CODE["csf"]
    sagittal = (pair[0] < 3) & (brain > -4) & ((pair[1] > 30) | (pair[2] > 30))
    labels[sagittal & (pair[2] > -10)] = CODE["vein"]
    labels[in_ellipsoid(pair, (31, -71, -33), (12, 12, 12)) & (brain <= -1.2)] = CODE["csf"]
    labels[(head < 5.5) & (brain < -1.2)] = CODE["fat"]
    labels[head < 1.5] = CODE["muscle"]  # the skin
    labels[head < 0] = CODE["air"]
    return labels


def _deep_structures(
    rng: np.random.Generator, at: Points, labels: Labels, waves: FloatArray
) -> Labels:
    """Add ventricles and nuclei to the labels of points in the brain, both sides much alike."""
    x, y, z = np.abs(at[0]) + 0.8 * waves, at[1] - 0.8 * waves, at[2] + 0.6 * waves
    pair = (x, y, z)
    for name, centre, size in (
        ("deep_grey", (10.5, 11, 7), (8, 14, 8)),  # thalamus
        ("deep_grey", (27, -3, 4), (5.5, 17, 10)),  # putamen
        ("pallidum", (20.5, -1, 2), (4.5, 10, 7)),
        ("pallidum", (5, 10, -13), (3, 3, 4)),  # red nucleus
        ("pallidum", (10, 6, -16), (5, 3, 3)),  # substantia nigra
    ):
        labels[in_ellipsoid(pair, centre, size)] = CODE[name]
    labels[tube_depth(pair, _HIPPOCAMPUS) > 0] = CODE["grey"]
    wide = rng.uniform(0.7, 1.5)
    for horn in (_VENTRICLE, _OCCIPITAL_HORN, _TEMPORAL_HORN):
        labels[tube_depth(pair, horn, wide) > 0] = CODE["csf"]
    labels[tube_depth(pair, _CAUDATE) > 0] = CODE["deep_grey"]
    labels[in_ellipsoid(pair, (0, 6, -3), (1.2 + wide, 15, 10))] = CODE["csf"]  # third
    return labels


def _put_posterior_fossa(at: Points, labels: Labels) -> None:
    """Cerebellum, brainstem, fourth ventricle, and the fluid around and before them."""
    x, y, z = np.abs(at[0]), at[1], at[2]
    inside = (labels != CODE["air"]) & (labels != CODE["sinus"])
    cerebellum = _cerebellum(at)
    angle = np.arctan2(y - 41, x)
    leaves = 0.35 + 0.2 * np.cos(5 * angle + z / 4) * np.cos(3 * angle - z / 9)
    stem = 1 - np.sqrt((x / 16) ** 2 + ((y - 8 - 0.15 * z) / 12) ** 2)
    cisterns = stem > -0.12 - 0.14 * np.cos(3 * np.arctan2(y - 8, x))
    below = z < -14 - 0.1 * x
    labels[below & inside & cisterns] = CODE["csf"]
    labels[in_ellipsoid((x, y, z), (4, -12, -22), (7, 8, 7))] = CODE["csf"]
    labels[below & (cerebellum > 0)] = CODE["grey"]
    fissures = np.cos(2 * np.pi * (z + 0.25 * y) / 7 + 2 * angle) > 0.93
    labels[below & (cerebellum > 0) & (cerebellum < 0.22) & fissures] = CODE["csf"]
    labels[below & ((cerebellum > leaves) | (stem > 0))] = CODE["white"]
    labels[in_ellipsoid((x, y, z), (0, 22, -34), (7, 5, 9))] = CODE["csf"]


def _fractions(labels: Labels, factors: Sequence[int]) -> FloatArray:
    """Share of each tissue in each coarse voxel, from labels on the fine grid."""
    shape = tuple(n // factor for n, factor in zip(labels.shape, factors, strict=True))
    shares = np.zeros((len(TISSUES), math.prod(shape)), np.float32)
    voxel = np.arange(shares.shape[1])
    for z, y, x in itertools.product(*(range(factor) for factor in factors)):
        part = labels[z :: factors[0], y :: factors[1], x :: factors[2]].ravel()
        shares[part, voxel] += np.float32(1 / math.prod(factors))
    return shares.reshape(-1, *shape)
