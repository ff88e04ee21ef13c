import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from convert.studies import AFFINE, SHAPE, voxels
from nibabel import orientations

from amae_nnunet.convert.grid import (
    REFERENCE_ORDER,
    absent_image,
    choose_reference,
    coverage,
    make_image,
    resample,
    same_grid,
)


def rotation(degrees):
    turn = np.deg2rad(degrees)
    return np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])


def oblique(axes, degrees, spacing, origin):
    """An affine whose axes point to the letters ``axes`` and are then turned about z."""
    letters = orientations.axcodes2ornt(axes)
    base = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(letters):
        base[int(world), axis] = sign * spacing[axis]
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ base
    affine[:3, 3] = origin
    return affine


def positions(shape, affine):
    """RAS positions in mm of all voxels, ``(x, y, z, 3)``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def lookup(image):
    """RAS position in mm, rounded -> value."""
    found = {}
    array = sitk.GetArrayViewFromImage(image)
    for z, y, x in np.ndindex(array.shape):
        point = np.array(image.TransformIndexToPhysicalPoint((x, y, z))) * (-1, -1, 1)
        found[tuple(np.round(point, 3) + 0.0)] = array[z, y, x]
    return found


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("degrees", [0, 12])
def test_each_voxel_keeps_its_place(axes, degrees):
    data = voxels(shape=(5, 4, 3))
    affine = oblique(axes, degrees, (1.0, 2.0, 3.5), (5, -6, 7))
    image = make_image(data, affine)
    assert np.diag(np.reshape(image.GetDirection(), (3, 3))).min() > 0.9
    places = np.round(positions(data.shape, affine), 3) + 0.0
    expected = {tuple(places[index]): data[index] for index in np.ndindex(data.shape)}
    assert lookup(image) == expected


def test_a_linear_function_of_the_position_survives_resampling():
    def linear(place):
        return 100 + place @ np.array([0.7, -1.3, 2.1])

    moving = oblique("PIR", 9, (1.3, 1.1, 0.9), (-60, 60, 50))
    source = make_image(linear(positions((90, 90, 90), moving)).astype(np.float32), moving)
    reference = make_image(voxels(), AFFINE)
    assert coverage(source, reference) == 1
    moved = resample(source, reference)
    found = np.array([[*place, value] for place, value in lookup(moved).items()])
    assert found.shape == (np.prod(SHAPE), 4)
    assert np.abs(found[:, 3] - linear(found[:, :3])).max() < 1e-3


def test_whole_numbers_are_rounded_and_do_not_overflow():
    data = np.zeros(SHAPE, np.int16)
    data[0::2], data[1::2] = 32767, 32766
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.8
    moved = resample(make_image(data, shifted), make_image(voxels(), AFFINE))
    assert moved.GetPixelID() == sitk.sitkInt16
    array = sitk.GetArrayViewFromImage(moved)[:, :, 1:-1]
    assert set(np.unique(array)) == {32766, 32767}  # cut off instead, all were 32766


@pytest.mark.parametrize(("shift", "share"), [(0, 1.0), (1, 11 / 12), (7, 5 / 12), (12, 0.0)])
def test_coverage_is_the_share_of_the_reference(shift, share):
    moved = AFFINE.copy()
    moved[0, 3] += shift * AFFINE[0, 0]
    found = coverage(make_image(voxels(), moved), make_image(voxels(), AFFINE))
    assert found == pytest.approx(share)


def test_same_grid():
    image = make_image(voxels(), AFFINE)
    assert same_grid(image, make_image(voxels(1), AFFINE))
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.001
    assert same_grid(image, make_image(voxels(), nearly))
    assert not same_grid(image, make_image(voxels(shape=(12, 10, 7)), AFFINE))
    for row, column, change in ((0, 3, 0.5), (2, 2, 0.1)):
        other = AFFINE.copy()
        other[row, column] += change
        assert not same_grid(image, make_image(voxels(), other))


def test_a_flipped_copy_is_on_the_same_grid():
    image = nib.Nifti1Image(voxels(), AFFINE)
    flipped = image.as_reoriented(orientations.axcodes2ornt("RAS"))
    one = make_image(voxels(), AFFINE)
    other = make_image(np.asarray(flipped.dataobj), flipped.affine)
    assert same_grid(one, other)
    assert np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other))


def test_the_reference_is_diffusion_first_then_channel_order():
    assert choose_reference(["T1", "FLAIR", "TRACE"]) == "TRACE"
    assert choose_reference(["T1CE", "T1"]) == "T1"
    assert choose_reference(["PD", "T1CE"]) == "PD"
    assert choose_reference(REFERENCE_ORDER[::-1]) == "TRACE"


def test_the_absent_image_is_zero():
    reference = make_image(voxels(), AFFINE)
    image = absent_image(reference)
    assert image.GetPixelID() == sitk.sitkUInt8
    assert same_grid(image, reference)
    assert not sitk.GetArrayViewFromImage(image).any()
