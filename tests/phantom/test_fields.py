"""Random fields and distances against their definitions, in slow float64."""

import itertools
import math

import numpy as np
import pytest

from amae_nnunet.phantom.fields import in_ellipsoid, sheet_distance, smooth_noise, tube_depth


def test_noise_has_mean_0_variance_1_and_its_length() -> None:
    axes = [np.arange(60) * 2.0] * 3
    for length in (8.0, 20.0):
        fields = [smooth_noise(np.random.default_rng(n), length, axes) for n in range(12)]
        assert fields[0].shape == (60, 60, 60)
        assert fields[0].dtype == np.float32
        assert np.mean(fields) == pytest.approx(0, abs=0.1)
        assert np.var(fields) == pytest.approx(0.9, abs=0.15)  # interpolation takes some
        near, far = (
            np.mean([np.mean(f[lag:] * f[:-lag]) for f in fields])
            for lag in (1, round(1.2 * length))
        )
        assert near > 0.6
        assert abs(far) < 0.1


def test_noise_does_not_depend_on_the_voxels() -> None:
    fine, coarse = (
        smooth_noise(np.random.default_rng(1), 9.0, [np.linspace(0, 30, n)] * 3) for n in (61, 31)
    )
    np.testing.assert_allclose(fine[::2, ::2, ::2], coarse, atol=1e-5)


def test_distances_are_right_near_the_sheets_and_end_half_way_to_the_next() -> None:
    at = tuple(np.meshgrid(*[np.arange(80, dtype=np.float32) / 4] * 3, indexing="ij"))
    distance = sheet_distance(np.random.default_rng(2), 32, 24.0, at).astype(float)
    assert 0 <= distance.min() < 0.1
    assert 4 < distance.max() <= 24 / 4 + 1e-4
    slope = np.sqrt(sum(np.square(s) for s in np.gradient(distance, 0.25)))
    near = (distance > 0.2) & (distance < 1)
    assert np.median(slope[near]) == pytest.approx(1, abs=0.2)


def test_depth_in_a_tube_is_that_below_the_nearest_of_many_balls() -> None:
    knots = ((0, 0, 0, 2), (10, 0, 0, 4), (10, 8, 3, 1))
    points = np.random.default_rng(3).uniform(-5, 15, (3, 40)).astype(np.float32)
    found = tube_depth(tuple(points), knots, scale=1.5)
    for number, point in enumerate(points.T):
        deepest = -math.inf
        for start, end in itertools.pairwise(knots):
            along = [e - s for s, e in zip(start[:3], end[:3], strict=True)]
            share = sum(
                a * (float(p) - s) for a, p, s in zip(along, point, start[:3], strict=True)
            ) / sum(a * a for a in along)
            share = min(max(share, 0.0), 1.0)
            middle = [s + share * a for s, a in zip(start[:3], along, strict=True)]
            radius = 1.5 * (start[3] + share * (end[3] - start[3]))
            deepest = max(deepest, radius - math.dist(middle, [float(p) for p in point]))
        assert found[number] == pytest.approx(deepest, abs=1e-4)


def test_an_ellipsoid_ends_at_its_axes() -> None:
    points = tuple(np.array([0.0, 2.9, 3.1], np.float32) for _ in range(3))
    flat = tuple(axis * share for axis, share in zip(points, (1, 0, 0), strict=True))
    assert in_ellipsoid(flat, (0, 0, 0), (3, 1, 1)).tolist() == [True, True, False]
