"""The folded cortex: a ribbon of grey matter round white matter, with fluid and veins in the folds.

Not in the paper. Each hemisphere is folded around an axis of its own, so that sulci stand upright
on its outer and on its medial surface. What is fluid, grey or white follows from the distance to
the nearest surface: that of the brain, the midline, the Sylvian fissure or a sulcus.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amae_nnunet.phantom.fields import FloatArray, Points, sheet_distance
from amae_nnunet.phantom.tissues import CODE, Labels

_AXIS = (28.0, 40.0, 6.0)  # of a hemisphere: distance from the midline, half length, height, mm
_RADIUS = 44.0  # the distance from it at which folds have the drawn wavelength, mm


def fold_cortex(
    rng: np.random.Generator, at: Points, depth: FloatArray, waves: Callable[[float], FloatArray]
) -> Labels:
    """Label points in the brain.

    Args:
        rng: source of all randomness.
        at: places of the points to the left, to posterior and to superior, mm.
        depth: of the points below the surface of the brain, mm.
        waves: draws a smooth field that varies over a length in mm, at the points.

    Returns:
        Codes of fluid, vein, grey or white matter, in the shape of ``depth``.
    """
    x, y, z = at
    side = np.abs(x + waves(60.0))
    callosum = 1 - np.sqrt(((y + 2) / 44) ** 2 + ((z - 2) / 27) ** 2)
    midline = side + np.maximum(40 * callosum, 0)
    hull = np.minimum(depth, midline)
    sulci = _sulci(rng, at, hull, waves)
    sylvian = np.abs(0.8 * z + 0.6 * (y + 4)) + np.maximum(38 - side, 0)
    sylvian += np.maximum(np.abs(z) - 18, 0)
    width, thick = rng.uniform(0.15, 0.75), rng.uniform(2.0, 2.5)
    core = 30 * (1 - np.sqrt((x / 37) ** 2 + (y / 46) ** 2 + ((z - 6) / 24) ** 2))  # no folds here
    pial = np.maximum(np.minimum(np.minimum(hull, sulci), sylvian), core)
    labels = np.full(depth.shape, CODE["white"], np.uint8)
    labels[pial < width + thick] = CODE["grey"]
    labels[pial < width] = CODE["csf"]
    tubes = np.hypot(sheet_distance(rng, 32, 30.0, at), sheet_distance(rng, 32, 34.0, at))
    labels[(tubes < 1.2) & (pial < width + 0.6)] = CODE["vein"]
    labels[(tubes < 0.6) & (labels == CODE["white"])] = CODE["vein"]
    return labels


def _sulci(
    rng: np.random.Generator, at: Points, hull: FloatArray, waves: Callable[[float], FloatArray]
) -> FloatArray:
    """Distance to the nearest sulcus; sulci are sheets from the surface down to a drawn depth."""
    middle = (
        np.float32(_AXIS[0]) * np.sign(at[0]),
        np.float32(_AXIS[1]) * np.tanh(at[1] / np.float32(1.3 * _AXIS[1])),
        np.float32(_AXIS[2]),
    )
    spokes = [axis - m for axis, m in zip(at, middle, strict=True)]
    radius = np.sqrt(sum(spoke**2 for spoke in spokes)) + np.float32(2)
    stretch = (np.float32(_RADIUS) / radius) ** np.float32(0.75)
    rays = [m + spoke * stretch for m, spoke in zip(middle, spokes, strict=True)]
    rays[0] = rays[0] + np.float32(100) * np.sign(at[0])  # the two sides are folded differently
    rays = [ray + 2.5 * waves(28.0) for ray in rays]
    wavelength = rng.uniform(27, 32)
    sheets = sheet_distance(rng, 64, wavelength, rays) / stretch
    floor = rng.uniform(14, 18) + 6 * waves(30.0)
    return np.hypot(sheets, np.maximum(hull - np.maximum(floor, 4), 0))
