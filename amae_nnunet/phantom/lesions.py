"""Lesions: acute infarcts in the territories of vessels, and what can be mistaken for them.

Not in the paper. An infarct grows from a point in the territory of one vessel and does not leave
it; the territories are the cells of the points below, with borders that wander from case to case.
They stand for those of an atlas, roughly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amae_nnunet.phantom.fields import FloatArray, Points, smooth_noise
from amae_nnunet.phantom.tissues import CODE, Labels


@dataclass(frozen=True)
class Lesion:
    """How often a kind of lesion occurs and how it looks.

    Attributes:
        name: what it is called.
        tissue: its name in `TISSUES`.
        probability: that a study has it at all.
        count: smallest and largest number in a study that has it.
        radius: smallest and largest radius, mm; small ones are more frequent.
        host: tissues it can grow in.
        depth: smallest distance of its centre from the surface of the brain, mm.
        vascular: whether it keeps to the territory of one vessel.
    """

    name: str
    tissue: str
    probability: float
    count: tuple[int, int]
    radius: tuple[float, float]
    host: tuple[str, ...]
    depth: float
    vascular: bool = False


_BRAIN = ("grey", "deep_grey", "pallidum", "white")
#: The acute infarct (the label) comes first; a later lesion never grows into an earlier one.
LESIONS = (
    Lesion("acute infarct", "infarct", 1.0, (1, 3), (4.0, 32.0), _BRAIN, 5.0, vascular=True),
    Lesion("late infarct", "chronic", 0.75, (1, 3), (4.0, 26.0), _BRAIN, 5.0, vascular=True),
    Lesion("cavity", "cavity", 0.35, (1, 2), (3.0, 20.0), _BRAIN, 5.0, vascular=True),
    Lesion("haematoma", "haemorrhage", 0.4, (1, 1), (6.0, 20.0), _BRAIN[1:], 8.0),
    Lesion("microbleeds", "microbleed", 0.3, (1, 8), (1.2, 2.2), _BRAIN, 3.0),
    Lesion("white-matter lesions", "white_lesion", 0.8, (3, 14), (1.8, 7.0), ("white",), 16.0),
)
#: One point (x without its side, y, z in mm) a branch.
TERRITORIES = {
    "anterior cerebral": ((9, -48, 12), (9, -22, 44), (9, 14, 50)),
    "middle cerebral, superior": ((44, -26, 22), (46, 4, 36)),
    "middle cerebral, inferior": ((48, -14, -14), (48, 28, 8)),
    "posterior cerebral": ((14, 58, 6), (30, 34, -18), (11, 12, 2)),
    "lenticulostriate": ((22, -8, 8),),
    "superior cerebellar": ((22, 36, -28),),
    "posterior inferior cerebellar": ((22, 46, -50),),
    "basilar": ((4, 8, -34),),
}


def put_lesions(
    rng: np.random.Generator,
    labels: Labels,
    at: Points,
    depth: FloatArray,
    steps: Sequence[float],
    smallest: float,
    infarct: float = 1.0,
) -> None:
    """Grow all lesions of a study in place.

    Args:
        rng: source of all randomness.
        labels: ``(z, y, x)``, codes of tissues.
        at: x, y and z of the voxels in the head, mm.
        depth: of the voxels below the surface of the brain, mm.
        steps: size of a voxel in mm, (z, y, x).
        smallest: radius in mm below which an infarct would vanish in the voxels.
        infarct: probability of acute infarcts; other lesions have those of `LESIONS`.
    """
    for lesion in LESIONS:
        probability = infarct if lesion.tissue == "infarct" else lesion.probability
        if rng.random() < probability:
            for _ in range(rng.integers(lesion.count[0], lesion.count[1] + 1)):
                _grow(rng, labels, at, depth, lesion, steps, smallest)


def territory(x: FloatArray, y: FloatArray, z: FloatArray) -> Labels:
    """Number of the territory of each point, the one with the nearest branch."""
    nearest = []
    for points in TERRITORIES.values():
        squares = [(np.abs(x) - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 for a, b, c in points]
        nearest.append(np.sqrt(np.min(squares, axis=0)))
    return np.argmin(nearest, axis=0).astype(np.uint8)


def _grow(
    rng: np.random.Generator,
    labels: Labels,
    at: Points,
    depth: FloatArray,
    lesion: Lesion,
    steps: Sequence[float],
    smallest: float,
) -> None:
    """Grow one lesion, which keeps to its half of the head, from a random voxel of its host."""
    is_host = np.zeros(len(CODE), bool)
    is_host[[CODE[name] for name in lesion.host]] = True
    host = is_host[labels]
    places = np.flatnonzero(host & (depth > lesion.depth))
    if not places.size:
        return
    start = np.unravel_index(rng.choice(places), labels.shape)
    low, high = lesion.radius
    radius = low + (high - low) * rng.random() ** 1.6
    if lesion.tissue == "infarct":
        radius = max(radius, smallest)
    centre = np.array([axis[start] for axis in at], np.float32)
    reach = [int(1.8 * radius / step) + 1 for step in steps]
    box = tuple(slice(max(0, i - n), i + n + 1) for i, n in zip(start, reach, strict=True))
    x, y, z = (axis[box] for axis in at)
    away = [axis - c for axis, c in zip((x, y, z), centre, strict=True)]
    grid = [np.arange(n) * step for n, step in zip(host[box].shape, steps, strict=True)]
    bumps = smooth_noise(rng, max(0.8 * radius, 4.0), grid)
    form = np.sqrt(sum(axis**2 for axis in away)) / radius
    grown = host[box] & (form < np.exp(0.25 * bumps)) & (x * centre[0] > 0)
    if lesion.vascular and radius > 2 * smallest:
        own = territory(*(axis[None] for axis in centre))
        wander = [axis + 4 * bumps for axis in (x, y, z)]
        grown &= territory(*wander) == own
    grown |= host[box] & (form < min(1.0, smallest / radius)) & (x * centre[0] > 0)
    labels[box][grown] = CODE[lesion.tissue]
