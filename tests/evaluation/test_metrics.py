"""Each metric against brute force over voxel pairs, and against MONAI's."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from amae_nnunet.evaluation.metrics import METRICS, lesion_f1, score, surface_distances

SPACING = (4.0, 1.5, 1.25)
WORST = {"dice": 0, "sensitivity": 0, "precision": 0, "surface_dice": 0, "lesion_f1": 0}


def blobs(seed, shape=(7, 9, 8), level=0.62):
    """Two masks of random blobs that resemble each other, some of them at the border."""
    rng = np.random.default_rng(seed)
    smooth = rng.random(shape)
    for axis in range(3):
        smooth = (smooth + np.roll(smooth, 1, axis)) / 2
    other = smooth + rng.normal(0, 0.08, shape)
    return smooth > np.quantile(smooth, level), other > np.quantile(other, level)


def reference_surface(mask):
    """Voxels of which one of the six neighbours is not in the mask, or outside the image."""
    found = []
    for voxel in map(tuple, np.argwhere(mask)):
        for axis, step in itertools.product(range(3), (-1, 1)):
            at = list(voxel)
            at[axis] += step
            inside = 0 <= at[axis] < mask.shape[axis]
            if not inside or not mask[tuple(at)]:
                found.append(voxel)
                break
    return found


def reference_distances(mask, other):
    return [
        min(
            math.sqrt(sum(((a - b) * s) ** 2 for a, b, s in zip(one, two, SPACING, strict=True)))
            for two in reference_surface(other)
        )
        for one in reference_surface(mask)
    ]


def reference_percentile(values, q):
    """Linear between the closest ranks."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def reference_components(mask):
    """Sets of voxels that touch with a face, an edge or a corner."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            group.add(voxel)
            for step in itertools.product((-1, 0, 1), repeat=3):
                near = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(group)
    return found


def test_a_surface_at_the_tolerance_counts_whatever_float32_made_of_the_spacing():
    label = np.zeros((3, 20, 20), bool)
    label[1, 5:12, 5:12] = True
    prediction = np.roll(label, 5, axis=1)  # 2 mm
    found = [
        score(label, prediction, (4.0, step, step), tolerance=2.0)["surface_dice"]
        for step in (0.4, float(np.float32(0.4)))
    ]
    assert found[0] == found[1] == 1.0


def reference(label, prediction, tolerance):
    a, b = (set(map(tuple, np.argwhere(mask).tolist())) for mask in (label, prediction))
    ml = math.prod(SPACING) / 1000
    there, back = reference_distances(label, prediction), reference_distances(prediction, label)
    drawn, predicted = reference_components(label), reference_components(prediction)
    tp = sum(bool(group & b) for group in drawn)
    fp = sum(not group & a for group in predicted)
    return {
        "dice": 2 * len(a & b) / (len(a) + len(b)),
        "sensitivity": len(a & b) / len(a),
        "precision": len(a & b) / len(b),
        "surface_dice": np.mean([d <= tolerance for d in there + back]),
        "lesion_f1": tp / (tp + (fp + len(drawn) - tp) / 2),
        "hd95": max(reference_percentile(there, 0.95), reference_percentile(back, 0.95)),
        "volume_error": abs(len(b) - len(a)) * ml,
        "label_ml": len(a) * ml,
        "predicted_ml": len(b) * ml,
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("level", [0.6, 0.9])
def test_all_metrics_are_those_of_loops_over_voxels(seed, level):
    label, prediction = blobs(seed, level=level)
    found = score(label, prediction, SPACING, tolerance=1.6)
    expected = reference(label, prediction, tolerance=1.6)
    assert set(METRICS) < set(found) == set(expected)
    assert 0 < found["dice"] < 1
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.filterwarnings("ignore")  # what is imported is not ours
def test_all_that_monai_has_agrees_with_monai(seed, monkeypatch):
    import torch
    from monai.metrics import (
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
        get_confusion_matrix,
    )

    # MONAI ranks in float32, which torch 2.6 rounds to 1.4e-5: the distances are the peer, not that
    quantile = torch.quantile
    monkeypatch.setattr(torch, "quantile", lambda values, q: quantile(values.double(), q))

    label, prediction = blobs(seed, (12, 20, 18))
    y, y_pred = (torch.from_numpy(mask)[None, None].float() for mask in (label, prediction))
    tp, fp, _, fn = get_confusion_matrix(y_pred, y).flatten().tolist()
    peers = {
        "dice": compute_dice(y_pred, y),
        "hd95": compute_hausdorff_distance(
            y_pred, y, include_background=True, percentile=95, spacing=SPACING
        ),
        "surface_dice": compute_surface_dice(
            y_pred, y, [1.6], include_background=True, spacing=SPACING
        ),
        "sensitivity": tp / (tp + fn),
        "precision": tp / (tp + fp),
    }
    found = score(label, prediction, SPACING, tolerance=1.6)
    for name, value in peers.items():
        assert found[name] == pytest.approx(float(value), rel=1e-6), name


@pytest.mark.parametrize("nothing", ["label", "prediction", "both"])
def test_empty_masks_have_the_stated_values(nothing):
    some, none = blobs(0)[0], np.zeros((7, 9, 8), bool)
    label = none if nothing in ("label", "both") else some
    prediction = none if nothing in ("prediction", "both") else some
    found = score(label, prediction, SPACING, 2.0)
    ml = some.sum() * math.prod(SPACING) / 1000
    if nothing == "both":
        assert found.pop("volume_error") == found.pop("label_ml") == found.pop("predicted_ml") == 0
        assert all(math.isnan(value) for value in found.values())
        return
    diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(some.shape, SPACING, strict=True)))
    expected = {**WORST, "hd95": diagonal, "volume_error": ml, "label_ml": 0.0, "predicted_ml": 0.0}
    if nothing == "label":
        expected.update(sensitivity=math.nan, predicted_ml=ml)
    else:
        expected.update(label_ml=ml)
    assert found == pytest.approx(expected, nan_ok=True)


masks = npst.arrays(bool, (4, 5, 6))


@settings(max_examples=60, deadline=None)
@given(masks, masks)
def test_what_must_hold_for_any_two_masks(label, prediction):
    one, other = (score(*pair, SPACING, 1.5) for pair in ((label, prediction), (prediction, label)))
    for name in ("dice", "surface_dice", "hd95", "volume_error"):
        assert one[name] == pytest.approx(other[name], nan_ok=True)  # no side is favoured
    if label.any() and prediction.any():
        assert one["sensitivity"] == other["precision"]
    shares = [one[name] for name in WORST if not math.isnan(one[name])]
    assert all(0 <= share <= 1 for share in shares)
    same = score(label, label, SPACING, 0.0)
    if label.any():
        best = {name: float(better) for name, better in METRICS.items()}
        assert {name: same[name] for name in METRICS} == best


@settings(max_examples=40, deadline=None)
@given(masks, masks, st.integers(0, 2))
def test_neither_a_border_of_nothing_nor_a_turn_changes_a_distance(label, prediction, axis):
    there, back = surface_distances(label, prediction, SPACING)
    wide = [np.pad(mask, 3) for mask in (label, prediction)]
    np.testing.assert_array_equal(surface_distances(*wide, SPACING)[0], there)
    flipped = [np.flip(mask, axis) for mask in (label, prediction)]
    np.testing.assert_allclose(np.sort(surface_distances(*flipped, SPACING)[1]), np.sort(back))


def test_lesions_touch_with_corners_and_one_voxel_of_overlap_finds_one():
    label, prediction = np.zeros((2, 3, 9, 9), bool)
    label[0, 0, 0] = label[1, 1, 1] = True  # one lesion
    label[0, 5:8, 5:8] = label[2, 0, 8] = True
    prediction[1, 1, 1] = prediction[0, 7, 7] = prediction[0, 0, 8] = True
    assert lesion_f1(label, prediction) == pytest.approx(2 / (2 + (1 + 1) / 2))
