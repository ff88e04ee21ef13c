"""Known motions of another contrast of a synthetic head."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from amae_nnunet.convert.registration import IN_PLACE, Registration, register
from amae_nnunet.phantom.dataset import make_study

pytestmark = pytest.mark.slow  # processes, or real work for half a minute

THIN = ((40, 64, 64), (3.0, 3.0, 3.0))  # shape and spacing, (z, y, x)
THICK = ((24, 64, 64), (5.0, 3.0, 3.0))
MOTION = ((3.0, -2.0, 5.0), (4.0, -3.0, 2.0))  # degrees, mm


@pytest.fixture(scope="module")
def thin():
    return images(*THIN)


def images(shape, spacing, seed=1, site="A"):
    study = make_study(seed, 0, ("T1", "FLAIR"), shape, spacing, sites=(site,), motion=0)
    return {name: image(voxels, spacing) for name, voxels in study.images.items()}


def image(voxels, spacing=THIN[1]):
    made = sitk.GetImageFromArray(voxels)
    made.SetSpacing(spacing[::-1])
    made.SetOrigin((-(np.array(made.GetSize()) - 1) / 2 * spacing[::-1]).tolist())
    return made


def move(still, degrees, shift):
    """The image after a motion of the head, and the motion."""
    motion = sitk.Euler3DTransform((0, 0, 0), *np.deg2rad(degrees).tolist(), shift)
    back = motion.GetInverse()
    return sitk.Resample(still, still, back, sitk.sitkLinear, 0, sitk.sitkFloat32), motion


def error(found, motion):
    """Degrees and mm (in the middle of the head) between the motion found and the true one."""
    rest = sitk.CompositeTransform([motion.GetInverse(), found.transform()])
    frame = np.array([rest.TransformPoint(point) for point in np.eye(3).tolist()])
    middle = np.array(rest.TransformPoint((0, 0, 0)))
    cosine = np.clip((np.trace(frame - middle) - 1) / 2, -1, 1)
    return np.degrees(np.arccos(cosine)), np.linalg.norm(middle)


def errors(grid, seed, site):
    """Of a head that moved between two scans, and is found."""
    contrasts = images(*grid, seed, site)
    moved, motion = move(contrasts["T1"], *MOTION)
    found = register(moved, contrasts["FLAIR"])
    assert found.accepted
    assert found.after > 1.3 * found.before
    return error(found, motion)


@pytest.mark.parametrize("grid", [THIN, THICK], ids=["thin", "thick"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_motion_of_the_head_is_found(grid, seed):
    degrees, shift = errors(grid, seed, "A")
    assert degrees < 0.5
    assert shift < 0.5


@pytest.mark.parametrize("grid", [THIN, THICK], ids=["thin", "thick"])
@pytest.mark.parametrize("site", ["B", "C", "D", "E"])
def test_a_motion_is_found_to_a_share_of_a_slice_whatever_the_protocol(grid, site):
    """The hardest of the heads: inversion recovery in thick slices leaves 0.6 mm."""
    degrees, shift = errors(grid, 1, site)
    assert degrees < 0.5
    assert shift < 0.15 * grid[1][0]


def test_a_contrast_that_covers_half_the_head_is_found(thin):
    moved, motion = move(thin["T1"], *MOTION)
    found = register(moved[:, :, 10:30], thin["FLAIR"])
    degrees, shift = error(found, motion)
    assert degrees < 1.5  # there is less to go by
    assert shift < 1.5
    assert found.accepted


@pytest.mark.parametrize(
    ("degrees", "shift", "accepted"),
    [
        ((0, 0, 0), (15, 0, 0), True),
        ((0, 0, 0), (0, 0, 24), False),
        ((0, 0, 12), (0, 0, 0), True),
        ((0, 0, 18), (0, 0, 0), False),
    ],
)
def test_a_patient_moves_less_than_20_mm_and_15_degrees(thin, degrees, shift, accepted):
    moved, motion = move(thin["T1"], degrees, shift)
    found = register(moved, thin["FLAIR"])
    assert max(error(found, motion)) < 0.5  # found it is, but not always believed
    assert found.accepted == accepted
    assert ("not plausible" in found.reason) != accepted


def test_what_lies_in_place_stays(thin):
    found = register(thin["T1"], thin["FLAIR"])
    assert max(error(found, sitk.Euler3DTransform())) < 0.5
    assert found.reason.startswith(IN_PLACE)
    assert found.before == pytest.approx(found.after, rel=0.01)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_noise_is_not_registered(thin, sigma):
    noise = image(np.random.default_rng(0).normal(100, 30, THIN[0]).astype(np.float32))
    found = register(sitk.DiscreteGaussian(noise, sigma**2), thin["FLAIR"])
    assert "little in common" in found.reason
    assert not found.accepted


@pytest.mark.parametrize("shift", [185, 1000])
def test_images_that_hardly_overlap_stay(thin, shift):
    far = sitk.Image(thin["T1"])
    far.SetOrigin([far.GetOrigin()[0] + shift, *far.GetOrigin()[1:]])
    found = register(far, thin["FLAIR"])
    assert not found.accepted
    assert "overlaps" in found.reason


@pytest.mark.parametrize("slices", [1, 3])
def test_too_few_slices_are_no_error(thin, slices):
    for moving, fixed in ((thin["T1"][:, :, :slices], thin["FLAIR"]), (thin["T1"],) * 2):
        found = register(moving, fixed[:, :, :slices])
        assert not found.accepted
        assert found.transform().TransformPoint((1, 2, 3)) == (1, 2, 3)


def test_it_is_repeatable_and_the_ledger_can_make_it_again(thin):
    moved, _ = move(thin["T1"], *MOTION)
    whole = sitk.Cast(moved, sitk.sitkInt16)
    found = register(whole, thin["FLAIR"], seed=3)
    assert register(whole, thin["FLAIR"], seed=3) == found
    assert register(whole, thin["FLAIR"], seed=4).rotation != found.rotation
    facts = json.loads(json.dumps(found.facts()))
    assert facts.pop("accepted")
    again = sitk.Euler3DTransform(facts["centre"], *facts["rotation"], facts["translation"])
    for point in ((0, 0, 0), (60, -50, 40)):
        assert again.TransformPoint(point) == found.transform().TransformPoint(point)
    lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    assert Registration(**{**facts, **lists}) == found


def test_the_images_are_left_alone(thin):
    before = sitk.GetArrayFromImage(thin["T1"])
    register(thin["T1"], thin["FLAIR"])
    assert np.array_equal(sitk.GetArrayFromImage(thin["T1"]), before)
