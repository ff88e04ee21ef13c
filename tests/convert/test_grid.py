import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from convert import slow_grid
from convert.studies import AFFINE, SHAPE, voxels
from hypothesis import given, settings
from hypothesis import strategies as st
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

SLOW = settings(deadline=None, derandomize=True, database=None, max_examples=60)


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


def array(image):
    """Voxels (x, y, z)."""
    return sitk.GetArrayFromImage(image).transpose()


def centres(image):
    """RAS positions in mm of all voxels, in the order of ``array(image).ravel()``."""
    points = [image.TransformIndexToPhysicalPoint(index) for index in np.ndindex(image.GetSize())]
    return np.array(points) * (-1, -1, 1)


@pytest.mark.parametrize("axes", slow_grid.AXIS_CODES)
def test_every_orientation_becomes_lps_without_loss(axes):
    data = voxels(shape=(4, 3, 2))
    affine = slow_grid.make_affine(axes, (1.0, 2.0, 3.5), (0.1, -0.2, 0.3), (5, -6, 7), data.shape)
    image = make_image(data, affine)
    assert np.diag(np.reshape(image.GetDirection(), (3, 3))).min() > 0.9
    places = {tuple(np.round(p, 3) + 0.0): value for p, value in place_values(data, affine)}
    assert lookup(image) == places


def place_values(data, affine):
    return [(slow_grid.place(affine, index), data[index]) for index in np.ndindex(data.shape)]


@given(slow_grid.grids())
@SLOW
def test_flipping_to_lps_is_lossless_and_keeps_every_position(grid):
    image = make_image(grid.voxels, grid.affine)
    assert np.diag(np.reshape(image.GetDirection(), (3, 3))).min() > np.sqrt(0.5)
    flips = orientations.ornt_transform(
        orientations.axcodes2ornt(grid.axes), orientations.axcodes2ornt("LPS")
    )
    assert np.array_equal(array(image), orientations.apply_orientation(grid.voxels, flips))
    found = np.rint(slow_grid.indices(grid.affine, centres(image))).astype(int)
    for index, centre, value in zip(found, centres(image), array(image).ravel(), strict=True):
        assert slow_grid.place(grid.affine, index) == pytest.approx(centre, abs=1e-9)
        assert grid.voxels[tuple(index)] == value


@given(slow_grid.grids() | slow_grid.grids(spread=200), slow_grid.grids(), st.booleans())
@SLOW
def test_resampling_and_coverage_equal_the_slow_reference(moving, grid, whole):
    data = moving.voxels if whole else moving.voxels.astype(np.float32) / 7
    image, reference = make_image(data, moving.affine), make_image(grid.voxels, grid.affine)
    moved = resample(image, reference)
    assert same_grid(moved, reference)
    rounded = moved.GetPixelID() == sitk.sitkInt16
    count, doubtful = 0, 0
    indices = slow_grid.indices(moving.affine, centres(reference))
    for index, found in zip(indices, array(moved).ravel(), strict=True):
        within, on_face = slow_grid.inside(index, data.shape)
        count, doubtful = count + (within and not on_face), doubtful + on_face
        value = slow_grid.trilinear(data, index)
        if not (on_face and found == 0):
            expected = value if within or on_face else 0
            assert found == pytest.approx(expected, rel=1e-5, abs=0.5 + 1e-5 if rounded else 1e-5)
            assert within or on_face or found == 0
    covered = coverage(image, reference) * grid.voxels.size
    assert count - 1e-6 <= covered <= count + doubtful + 1e-6


@given(slow_grid.grids() | slow_grid.grids(spread=200), st.booleans())
@SLOW
def test_resampling_onto_its_own_grid_changes_nothing(grid, whole):
    data = grid.voxels if whole else grid.voxels.astype(np.float32) / 7
    image = make_image(data, grid.affine)
    assert coverage(image, image) == 1
    assert array(resample(image, image)) == pytest.approx(array(image), rel=1e-6)


def test_a_linear_function_of_the_position_survives_resampling():
    def linear(place):
        return 100 + place @ np.array([0.7, -1.3, 2.1])

    moving = slow_grid.make_affine("PIR", (1.3, 1.1, 0.9), (0, 0, 0.16), (0, 0, 5), (90, 90, 90))
    source = make_image(linear(positions((90, 90, 90), moving)).astype(np.float32), moving)
    reference = make_image(voxels(), AFFINE)
    assert coverage(source, reference) == 1
    moved = resample(source, reference)
    found = np.array([[*place, value] for place, value in lookup(moved).items()])
    assert found.shape == (np.prod(SHAPE), 4)
    assert np.abs(found[:, 3] - linear(found[:, :3])).max() < 1e-3


def test_whole_numbers_are_rounded_and_do_not_overflow():
    data = np.full(SHAPE, -32768, np.int16)
    data[:, :5] = 32767
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.8
    moved = resample(make_image(data, shifted), make_image(voxels(), AFFINE))
    assert moved.GetPixelID() == sitk.sitkInt16
    assert set(np.unique(array(moved)[1:-1])) == {-32768, 32767}


def test_few_grey_levels_are_not_rounded_into_steps():
    ramp = np.broadcast_to(np.arange(12, dtype=np.int16)[:, None, None] + 1, SHAPE)
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.5
    reference = make_image(voxels(), AFFINE)
    moved = array(resample(make_image(ramp, shifted), reference))
    assert np.unique(moved[2:-2, 0, 0] % 1) == pytest.approx([0.25])
    bright = ramp + np.int16(1000)  # the 0 outside the field of view is no grey level
    shifted[0, 3] += 12
    assert resample(make_image(bright, shifted), reference).GetPixelID() == sitk.sitkFloat32


def test_a_faint_contrast_is_not_rounded_away():
    faint = np.zeros(SHAPE, np.int16)
    faint[3:9] = 1
    faint[0] = 1000  # bright where the reference sees nothing
    shifted = AFFINE.copy()
    shifted[0, 3] += 3 * 2.0 + 1.0
    shifted[1, 3] += 3.0 * 2 + 1.8
    moved = resample(make_image(faint, shifted), make_image(voxels(), AFFINE))
    assert moved.GetPixelID() == sitk.sitkFloat32
    assert array(moved).any()


def test_the_rim_has_the_outermost_value_and_ends_at_the_face():
    image = make_image(np.full((4, 1, 1), 7, np.float32), np.diag([-1.0, -1, 5, 1]))
    for axis, inside, outside in (
        (0, (-0.5, -0.25, 3.25, 3.499), (-0.501, 3.5, 4)),
        (2, (-2.5, -1, 2, 2.499), (-2.501, 2.5, 3)),
    ):
        for position in (*inside, *outside):
            point = sitk.Image((1, 1, 1), sitk.sitkUInt8)
            point.SetOrigin([position if axis == other else 0 for other in range(3)])
            assert array(resample(image, point)).item() == (7 if position in inside else 0)
            assert coverage(image, point) == (position in inside)


def test_a_transform_maps_the_reference_into_the_image():
    image = make_image(voxels(), AFFINE)
    motion = sitk.TranslationTransform(3, (2.0, 0, 0))  # a voxel to the left
    moved = resample(image, image, motion)
    assert np.array_equal(array(moved)[:-1], array(image)[1:])
    assert not array(moved)[-1].any()
    assert coverage(image, image, motion) == pytest.approx(11 / 12)


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
    nearly[0, 3] += 0.09
    assert same_grid(image, make_image(voxels(), nearly))
    assert not same_grid(image, make_image(voxels(shape=(12, 10, 7)), AFFINE))
    for row, column, change in ((0, 3, 0.11), (2, 2, 0.03)):
        other = AFFINE.copy()
        other[row, column] += change
        assert not same_grid(image, make_image(voxels(), other))


def test_the_thickness_of_a_single_slice_is_part_of_its_grid():
    thick = AFFINE @ np.diag([1, 1, 1.2, 1])
    slices = [make_image(voxels()[:, :, :1], affine) for affine in (AFFINE, thick)]
    assert not same_grid(*slices)


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
