"""Grids of any kind for the tests, and the grid code once more: in loops, float64, by the book.

Nothing of the package and nothing of SimpleITK is used here. Voxels are ``(x, y, z)``, positions
RAS+ mm.
"""

import math
from itertools import product
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from nibabel import orientations

AXIS_CODES = [
    "".join(code)
    for code in product("LRAPSI", repeat=3)
    if len({"LRAPSI".index(letter) // 2 for letter in code}) == 3
]
_FACE = 1e-6  # voxels: nearer to a face than this, rounding decides the side


class Grid(NamedTuple):
    """Voxels with known values, and where they are."""

    axes: str  # where the three axes of the array point to, before the turn
    voxels: np.ndarray
    affine: np.ndarray


def turn(vector):
    """The rotation by ``|vector|`` rad about ``vector`` (Rodrigues' formula)."""
    angle = math.sqrt(sum(part * part for part in vector))
    if angle == 0:
        return np.eye(3)
    x, y, z = (part / angle for part in vector)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def make_affine(axes, spacing, vector, centre, shape):
    """The affine of a grid whose middle is at ``centre``."""
    base = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(orientations.axcodes2ornt(axes)):
        base[int(world), axis] = sign * spacing[axis]
    affine = np.eye(4)
    affine[:3, :3] = turn(vector) @ base
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@st.composite
def grids(draw, spread=1000):
    """Any orientation, spacing, oblique turn (under 45 degrees) and size; values 1 to spread."""
    axes = draw(st.sampled_from(AXIS_CODES))
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 8)] * 3))
    vector = draw(st.just((0, 0, 0)) | st.tuples(*[st.floats(-0.4, 0.4)] * 3))
    centre = draw(st.tuples(*[st.floats(-15, 15)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    voxels = random.integers(1, spread, shape, endpoint=True).astype(np.int16)
    return Grid(axes, voxels, make_affine(axes, spacing, vector, centre, shape))


def place(affine, index):
    """Position of a (fractional) index: each row of the affine, written out."""
    return [sum(row[axis] * index[axis] for axis in range(3)) + row[3] for row in affine[:3]]


def indices(affine, positions):
    """Fractional index of each position ``(n, 3)``."""
    inverse = np.linalg.inv(affine)
    return [place(inverse, position) for position in positions]


def inside(index, shape):
    """Whether an index is in the field of view, and whether it lies on its face."""
    pairs = list(zip(index, shape, strict=True))
    within = all(-0.5 <= at < size - 0.5 for at, size in pairs)
    near = all(-0.5 - _FACE <= at <= size - 0.5 + _FACE for at, size in pairs)
    on_face = near and any(min(abs(at + 0.5), abs(at - size + 0.5)) < _FACE for at, size in pairs)
    return within, on_face


def trilinear(voxels, index):
    """The value at an index in the field of view: eight neighbours, weighed by distance."""
    total = 0.0
    clamped = [min(max(at, 0.0), size - 1.0) for at, size in zip(index, voxels.shape, strict=True)]
    for corner in product((0, 1), repeat=3):
        weight = 1.0
        neighbour = []
        for at, size, upper in zip(clamped, voxels.shape, corner, strict=True):
            low = math.floor(at)
            weight *= at - low if upper else 1 - (at - low)
            neighbour.append(min(low + upper, size - 1))
        total += weight * float(voxels[tuple(neighbour)])
    return total
