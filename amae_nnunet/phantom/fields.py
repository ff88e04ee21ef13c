"""Random fields and the distances that shapes are made of; lengths in mm.

Not in the paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

FloatArray = npt.NDArray[np.float32]
Points = tuple[FloatArray, FloatArray, FloatArray]  # x, y and z of points, mm

_PER_WAVE = 8  # cells of the grid of sheets in a wavelength
_GAIN = (2 * np.sqrt(np.pi) * 1.5) ** 1.5  # undoes what smoothing by 1.5 cells does to a deviation


def smooth_noise(
    rng: np.random.Generator, length: float, axes: Sequence[npt.NDArray[np.float64]]
) -> FloatArray:
    """Sample a smooth random field (mean 0, variance about 1) that varies over ``length`` mm.

    Args:
        rng: source of all randomness.
        length: in mm, above 0; the field is drawn on a grid of a third of it and interpolated.
        axes: places of the voxels along each axis, mm, rising.

    Returns:
        A value for each voxel, ``(len(axes[0]), len(axes[1]), ...)``.
    """
    cell = length / 3
    cells = [int((axis[-1] - axis[0]) / cell + 1e-6) + 2 for axis in axes]
    field = rng.standard_normal([n + 8 for n in cells], dtype=np.float32)
    field = ndimage.gaussian_filter(field, 1.5, truncate=2.5)
    field = field[tuple(slice(4, n + 4) for n in cells)] * np.float32(_GAIN)
    for dimension, (axis, n) in enumerate(zip(axes, cells, strict=True)):
        place = np.clip((axis - axis[0]) / cell, 0, n - 1)
        weights = np.maximum(1 - np.abs(place[:, None] - np.arange(n)), 0).astype(np.float32)
        field = np.moveaxis(np.tensordot(weights, field, (1, dimension)), 0, dimension)
    return np.ascontiguousarray(field)


def sheet_distance(
    rng: np.random.Generator, cells: int, wavelength: float, at: Sequence[FloatArray]
) -> FloatArray:
    """Distance in mm to the nearest of many sheets, which wind through space half a wave apart.

    They are drawn on a grid of ``cells`` per axis, repeated, and interpolated at the points ``at``.

    The sheets are the zeros of a random field ``f`` of one wavelength ``2 pi / k`` and of random
    direction: a labyrinth, as the folds of a cortex are. Where ``f = a sin(k x)``, the distance
    ``arcsin(|f| / sqrt(f^2 + |grad f|^2 / k^2)) / k`` is exact whatever ``a`` is; elsewhere it is
    right near the sheets and too small far from them.
    """
    rate = 1 / _PER_WAVE
    axes = np.meshgrid(*[fft.fftfreq(cells)] * 2, fft.rfftfreq(cells), indexing="ij")
    ring = np.exp(-0.5 * ((np.sqrt(sum(axis**2 for axis in axes)) - rate) / (0.15 * rate)) ** 2)
    white = rng.standard_normal((cells, cells, cells), dtype=np.float32)
    wave = fft.irfftn(fft.rfftn(white) * ring.astype(np.float32), s=white.shape)
    slopes = [(np.roll(wave, -1, axis) - np.roll(wave, 1, axis)) / 2 for axis in range(3)]
    k = np.sin(2 * np.pi * rate)  # of the central differences
    sine = wave / np.sqrt(wave**2 + sum(slope**2 for slope in slopes) / k**2 + 1e-20)
    places = np.stack([axis * np.float32(_PER_WAVE / wavelength) for axis in at])
    sine = ndimage.map_coordinates(sine.astype(np.float32), places, order=1, mode="grid-wrap")
    angle: FloatArray = np.arcsin(np.clip(np.abs(sine), 0, 1))
    return angle * np.float32(wavelength / (2 * np.pi))


def tube_depth(
    at: Sequence[FloatArray], knots: Sequence[Sequence[float]], scale: float = 1.0
) -> FloatArray:
    """Depth in mm below the wall of a bent tube (negative outside).

    Args:
        at: x, y and z of the points.
        knots: the tube's middle line, (x, y, z, radius) at each bend.
        scale: factor on the radii.
    """
    deepest = np.full(at[0].shape, -np.inf, np.float32)
    for (*start, first), (*end, last) in itertools.pairwise(knots):
        along = np.subtract(end, start)
        length2 = float(along @ along)
        offsets = [axis - np.float32(s) for axis, s in zip(at, start, strict=True)]
        share = sum(np.float32(a / length2) * o for a, o in zip(along, offsets, strict=True))
        share = np.clip(share, 0, 1)
        squares = sum((o - share * np.float32(a)) ** 2 for a, o in zip(along, offsets, strict=True))
        radius = np.float32(scale) * (np.float32(first) + share * np.float32(last - first))
        np.maximum(deepest, radius - np.sqrt(squares), out=deepest)
    return deepest


def in_ellipsoid(
    at: Sequence[FloatArray], centre: Sequence[float], size: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Whether a point lies in an ellipsoid; centre and semi-axes are (x, y, z)."""
    scaled = [(a - np.float32(c)) / np.float32(s) for a, c, s in zip(at, centre, size, strict=True)]
    return np.asarray(sum(axis**2 for axis in scaled)) < 1
