"""A synthetic head: for each voxel, how much of it is which tissue.

Not in the paper. Every structure is a formula in millimetres, so any grid can be filled: a skin,
a skull, a brain with folded cortex, ventricles, deep grey nuclei, a cerebellum, a brainstem and
lesions, all irregular through smooth random fields. It is meant to be recognised, not measured.
The formulas are evaluated on a finer grid, which gives the partial volume of thick slices.

Axes are (z, y, x) and run to superior, posterior and left. Lengths are those of an adult head; a
field of view that is too narrow for one gets a smaller head, a slab that is too low cuts it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

#: What a voxel can hold, in the order of the fractions and of the tissue map.
TISSUES = (
    *("air", "fat", "muscle", "bone", "csf", "grey", "deep_grey", "white", "vein"),
    *("infarct", "chronic", "white_lesion", "haemorrhage"),
)
_CODE = {name: code for code, name in enumerate(TISSUES)}
_BRAIN = (64.0, 79.0, 60.0)  # semi-axes of the brain, mm: left, posterior, superior
_FINE_MM = 1.4  # axes with larger voxels are computed at twice the resolution


@dataclass(frozen=True)
class Lesion:
    """How often a kind of lesion occurs and how it looks.

    Attributes:
        tissue: its name in `TISSUES`.
        probability: that a study has it at all.
        count: smallest and largest number in a study that has it.
        radius: smallest and largest radius, mm.
        host: tissues it can grow in.
        depth: smallest distance of its centre from the surface of the brain, mm.
    """

    tissue: str
    probability: float
    count: tuple[int, int]
    radius: tuple[float, float]
    host: tuple[str, ...]
    depth: float


#: The acute infarct (the label) comes first; a later lesion never grows into an earlier one.
LESIONS = (
    Lesion("infarct", 1.0, (1, 3), (4.0, 18.0), ("grey", "deep_grey", "white"), 6.0),
    Lesion("chronic", 0.75, (1, 3), (4.0, 14.0), ("grey", "deep_grey", "white"), 6.0),
    Lesion("haemorrhage", 0.4, (1, 1), (4.0, 8.0), ("deep_grey", "white"), 6.0),
    Lesion("white_lesion", 0.8, (3, 9), (2.0, 5.0), ("white",), 18.0),
)


@dataclass(frozen=True)
class _Frame:
    """The fine grid: x, y, z of its voxels in the head (mm) and the size of its voxels (mm)."""

    x: FloatArray
    y: FloatArray
    z: FloatArray
    step: tuple[float, ...]
    factors: tuple[int, ...]


def make_head(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]
) -> FloatArray:
    """Draw a head with lesions.

    Args:
        rng: source of all randomness.
        shape: number of voxels, (z, y, x).
        spacing: size of a voxel in mm, (z, y, x).

    Returns:
        ``(len(TISSUES), z, y, x)``, the share of each tissue in each voxel; they sum to 1.
    """
    frame = _frame(rng, shape, spacing)
    size = rng.uniform(0.94, 1.0, 3) * _BRAIN
    head, brain = _surfaces(rng, frame, size)
    labels = _outside(head, brain, frame)
    cortex = _cortex(rng, frame, brain)
    np.copyto(labels, cortex, where=brain > 0)
    _put_deep_structures(rng, frame, labels)
    _put_posterior_fossa(frame, labels)
    smallest = 1.5 * float(np.prod(frame.step) * np.prod(frame.factors)) ** (1 / 3)
    for lesion in LESIONS:
        if rng.random() < lesion.probability:
            for _ in range(rng.integers(lesion.count[0], lesion.count[1] + 1)):
                _put_lesion(rng, frame, labels, brain, lesion, smallest)
    return _fractions(labels, frame.factors)


def _frame(rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float]) -> _Frame:
    """Place the grid around a head that is shifted and tilted a little at random."""
    shrink = min(1.0, shape[1] * spacing[1] / 190, shape[2] * spacing[2] / 160)
    factors = tuple(2 if step / shrink > _FINE_MM else 1 for step in spacing)
    step = tuple(s / shrink / f for s, f in zip(spacing, factors, strict=True))
    axes = [
        (np.arange(n * f) - (n * f - 1) / 2) * s
        for n, f, s in zip(shape, factors, step, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    nod, turn, lean = np.deg2rad(rng.uniform(-6, 6, 3))
    y, z = y * np.cos(nod) - z * np.sin(nod), y * np.sin(nod) + z * np.cos(nod)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    x, z = x * np.cos(lean) - z * np.sin(lean), x * np.sin(lean) + z * np.cos(lean)
    shift = rng.uniform(-2, 2, 3)
    x, y, z = ((axis + s).astype(np.float32) for axis, s in zip((x, y, z), shift, strict=True))
    return _Frame(x, y, z, step, factors)


def _noise(rng: np.random.Generator, cells: int, length: float, *at: FloatArray) -> FloatArray:
    """Sample a smooth random field (mean 0, variance 1) that varies over ``length`` mm.

    It is drawn on a grid of ``cells`` per axis, repeated after a third of ``cells * length``, and
    interpolated at the points ``at``, in mm.
    """
    coarse = rng.standard_normal((cells, cells, cells), dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, 1.5, mode="wrap")
    places = np.stack([axis * np.float32(3 / length) for axis in at])
    field: FloatArray = ndimage.map_coordinates(
        coarse / coarse.std(), places, order=1, mode="grid-wrap"
    )
    return field


def _depth(frame: _Frame, size: npt.ArrayLike, low: float = 1.0) -> FloatArray:
    """Depth in mm below an egg of semi-axes ``size``, along the ray from its centre.

    Below the centre heights count only ``low`` times, which makes a neck of it.
    """
    a, b, c = np.asarray(size, np.float32)
    z = np.where(frame.z < 0, np.float32(low) * frame.z, frame.z)
    x = frame.x * (1 - 0.0012 * frame.y)  # wider behind
    distance = np.sqrt(x**2 + frame.y**2 + z**2) + np.float32(1e-3)
    depth: FloatArray = distance / np.sqrt((x / a) ** 2 + (frame.y / b) ** 2 + (z / c) ** 2 + 1e-9)
    return depth - distance


def _surfaces(
    rng: np.random.Generator, frame: _Frame, size: npt.NDArray[np.float64]
) -> tuple[FloatArray, FloatArray]:
    """Depth below the skin and below the brain's surface (negative outside), mm."""
    bumps = _noise(rng, 32, 40.0, frame.x, frame.y, frame.z)
    head = _depth(frame, size + rng.uniform(12, 15), low=0.5) + 1.5 * bumps
    # The skull base rises to the forehead, least at the temporal poles.
    base = -39 - 17 * np.tanh((frame.y + 15 + 0.012 * frame.x**2) / 10)
    brain = np.minimum(_depth(frame, size, low=0.8) + bumps, frame.z - base)
    return head, np.maximum(brain, 30 * _cerebellum(frame)).astype(np.float32)


def _cerebellum(frame: _Frame) -> FloatArray:
    """1 in the middle of the cerebellum, 0 at its surface, negative outside."""
    x, y, z = frame.x / 51, (frame.y - 41) / 35, (frame.z + 42) / 27
    inside: FloatArray = 1 - np.sqrt(x**2 + y**2 + z**2)
    return inside


def _outside(head: FloatArray, brain: FloatArray, frame: _Frame) -> Labels:
    """Everything around the brain: air, scalp, muscle, skull, fluid, the sagittal sinus, eyes."""
    labels = np.full(head.shape, _CODE["muscle"], np.uint8)
    labels[brain > -8] = _CODE["bone"]
    labels[brain > -1.5] = _CODE["csf"]
    sinus = (np.abs(frame.x) < 3) & (brain > -4) & ((frame.y > 30) | (frame.z > 30))
    labels[sinus & (frame.z > -10)] = _CODE["vein"]
    eyes = (np.abs(frame.x) - 31) ** 2 + (frame.y + 70) ** 2 + (frame.z + 34) ** 2 < 12**2
    labels[eyes & (brain <= -1.5)] = _CODE["csf"]
    labels[head < 5] = _CODE["fat"]
    labels[head < 0] = _CODE["air"]
    return labels


def _cortex(rng: np.random.Generator, frame: _Frame, brain: FloatArray) -> Labels:
    """White matter under a folded ribbon of grey matter with fluid and veins in the sulci.

    A sulcus is where a random field that hardly changes along rays from the centre is zero. What
    is fluid, grey or white follows from the distance to the nearest sulcus, fissure or surface.
    """
    radius = np.sqrt(frame.x**2 + frame.y**2 + frame.z**2) + np.float32(1)
    rays = [axis / radius**0.8 * np.float32(66**0.8) for axis in (frame.x, frame.y, frame.z)]
    length, floor, atrophy = rng.uniform(7, 9), rng.uniform(14, 20), rng.uniform(0.6, 1.5)
    sulci = length * 0.7 * np.abs(_noise(rng, 64, length, *rays)) + np.maximum(brain - floor, 0)
    side, y, z = np.abs(frame.x), frame.y, frame.z
    callosum = 1 - np.sqrt((y / 42) ** 2 + ((z - 4) / 26) ** 2)
    midline = side + np.maximum(30 * callosum, 0)
    sylvian = np.abs(0.75 * z + 0.65 * (y + 8)) + np.maximum(37 - side, 0)
    sylvian += np.maximum(np.abs(z) - 20, 0)
    pial = np.minimum(np.minimum(brain, sulci), np.minimum(midline, sylvian))
    labels = np.full(brain.shape, _CODE["white"], np.uint8)
    labels[pial < atrophy + rng.uniform(2.6, 3.2)] = _CODE["grey"]
    labels[pial < atrophy] = _CODE["csf"]
    veins = np.abs(_noise(rng, 32, 20.0, *rays)) < 0.15
    labels[veins & (pial < atrophy)] = _CODE["vein"]
    return labels


def _ellipsoid(
    frame: _Frame, centre: Sequence[float], size: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Whether a voxel lies in a pair of mirrored ellipsoids; both arguments are (x, y, z) in mm."""
    x, y, z = np.abs(frame.x) - centre[0], frame.y - centre[1], frame.z - centre[2]
    inside: npt.NDArray[np.bool_] = (
        (x / size[0]) ** 2 + (y / size[1]) ** 2 + (z / size[2]) ** 2
    ) < 1
    return inside


def _put_deep_structures(rng: np.random.Generator, frame: _Frame, labels: Labels) -> None:
    """Thalamus, caudate, lentiform nucleus and the ventricles."""
    for centre, size in (
        ((11, 10, 3), (9, 14, 10)),
        ((13, -20, 8), (5, 10, 9)),
        ((25, -4, 2), (6, 17, 9)),
    ):
        labels[_ellipsoid(frame, centre, size)] = _CODE["deep_grey"]
    wide = rng.uniform(0.8, 1.8)
    bend = 6 + wide + 0.009 * frame.y**2
    lateral = (np.abs(frame.x) - bend) / (3.2 * wide)
    height = (frame.z - 11 + 0.006 * frame.y**2) / (7 + 2 * wide)
    labels[lateral**2 + height**2 + np.square(((frame.y - 5) / 38) ** 2) < 1] = _CODE["csf"]
    labels[_ellipsoid(frame, (0, 4, -4), (1.5 + wide, 15, 9))] = _CODE["csf"]


def _put_posterior_fossa(frame: _Frame, labels: Labels) -> None:
    """Cerebellum, brainstem, fourth ventricle, and the fluid around and before them."""
    x, y, z = np.abs(frame.x), frame.y, frame.z
    inside = labels != _CODE["air"]
    cerebellum = _cerebellum(frame)
    angle = np.arctan2(y - 41, x)
    leaves = 0.35 + 0.2 * np.cos(5 * angle + z / 4) * np.cos(3 * angle - z / 9)
    stem = 1 - np.sqrt((x / 16) ** 2 + ((y - 8 - 0.15 * z) / 12) ** 2)
    cisterns = stem > -0.12 - 0.14 * np.cos(3 * np.arctan2(y - 8, x))
    below = z < -14 - 0.1 * x
    labels[below & inside & cisterns] = _CODE["csf"]
    labels[_ellipsoid(frame, (4, -12, -22), (7, 8, 7))] = _CODE["csf"]
    labels[below & (cerebellum > 0)] = _CODE["grey"]
    labels[below & ((cerebellum > leaves) | (stem > 0))] = _CODE["white"]
    labels[_ellipsoid(frame, (0, 22, -34), (7, 5, 9))] = _CODE["csf"]


def _put_lesion(
    rng: np.random.Generator,
    frame: _Frame,
    labels: Labels,
    brain: FloatArray,
    lesion: Lesion,
    smallest: float,
) -> None:
    """Grow one lesion in place, as a blob or as a wedge that opens towards the surface.

    Lesions keep to their half of the head. ``smallest`` is the radius in mm below which an infarct
    would vanish in the voxels; wedges, which are thinner, need more.
    """
    host = np.isin(labels, [_CODE[name] for name in lesion.host])
    places = np.flatnonzero(host & (brain > lesion.depth))
    if not places.size:
        return
    at = np.unravel_index(rng.choice(places), labels.shape)
    radius = rng.uniform(*lesion.radius)
    if lesion.tissue == "infarct":
        radius = max(radius, smallest)
    box = tuple(
        slice(max(0, i - int(1.8 * radius / s) - 1), i + int(1.8 * radius / s) + 2)
        for i, s in zip(at, frame.step, strict=True)
    )
    centre = np.array([frame.x[at], frame.y[at], frame.z[at]], np.float32)
    away = np.stack([axis[box] for axis in (frame.x, frame.y, frame.z)], -1) - centre
    outward = centre / np.linalg.norm(centre)
    form = np.linalg.norm(away, axis=-1) / radius
    wedge = lesion.tissue in ("infarct", "chronic") and radius > 1.5 * smallest
    if wedge and rng.random() < 0.5:
        along = away @ outward
        across = np.sqrt(np.maximum((away**2).sum(-1) - along**2, 0))
        width = np.maximum(0.8 * radius + 0.45 * along, 0.1)
        form = np.maximum(np.abs(along) / radius, across / width)
    bumps = _noise(rng, 24, max(0.8 * radius, 4.0), *np.moveaxis(away, -1, 0))
    grown = host[box] & (form < np.exp(0.25 * bumps)) & (frame.x[box] * centre[0] > 0)
    labels[box][grown] = _CODE[lesion.tissue]


def _fractions(labels: Labels, factors: Sequence[int]) -> FloatArray:
    """Share of each tissue in each coarse voxel, from labels on the fine grid."""
    one_hot = np.eye(len(TISSUES), dtype=np.float32) / np.prod(factors, dtype=np.float32)
    offsets = itertools.product(*(range(factor) for factor in factors))
    parts = [
        one_hot[labels[z :: factors[0], y :: factors[1], x :: factors[2]]] for z, y, x in offsets
    ]
    return np.ascontiguousarray(np.moveaxis(np.add.reduce(parts), -1, 0))
