import gzip

import nibabel as nib
import numpy as np
import pytest
from convert.studies import AFFINE, SHAPE, save, voxels

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.nifti import check_one_place, image_values, label_values, open_nifti

LABELS = {"background": 0, "lesion": 1}


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_voxels_and_affine_come_through(tmp_path, name, image_class):
    header = image_class.header_class(endianness=">")
    nib.save(image_class(voxels().astype(">i2"), AFFINE, header), tmp_path / name)
    found, affine = open_nifti(tmp_path / name, name)
    assert not found.dtype.isnative
    assert np.array_equal(image_values(found, name), voxels())
    assert np.array_equal(affine, AFFINE)


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    found, _ = open_nifti(save(tmp_path / "x.nii.gz", voxels()[..., None, None]), "x")
    assert found.shape == SHAPE


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path):
    path = save(tmp_path / "x.nii.gz", voxels())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CaseError, match=r"x\.nii\.gz is damaged"):
        open_nifti(path, path.name)


def test_an_uncompressed_file_cut_short_is_found(tmp_path):
    path = save(tmp_path / "x.nii", voxels())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CaseError, match=r"x\.nii is damaged"):
        open_nifti(path, path.name)


def test_a_zip_of_no_nifti_is_found(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(b"no image" * 100))
    with pytest.raises(CaseError, match="no NIfTI header"):
        open_nifti(path, path.name)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0, 255], np.uint8), np.int16),
        (np.array([-32768, 32767], np.int32), np.int16),
        (np.array([0, 40000], np.uint16), np.float32),
        (np.array([0, 2**20], np.int64), np.float32),
        (np.array([0.0, 1.0], np.float64), np.float32),
    ],
)
def test_image_types(values, dtype):
    found = image_values(values, "x")
    assert found.dtype == dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize("values", [[0.0, 1e39], [0.0, 1e-50]])
def test_values_that_do_not_fit_float32_are_refused(values):
    with pytest.raises(CaseError, match="do not fit 32 bits"):
        image_values(np.array(values), "x")


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_is_refused(value):
    with pytest.raises(CaseError, match=f"x has the value {value} everywhere"):
        image_values(np.full(SHAPE, value, np.int16), "x")


def test_float_labels_are_rounded():
    found = label_values(np.array([0.0004, 0.9996, 1.0]), LABELS, "x")
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 1, 1]


def test_labels_are_mapped_all_at_once():
    swapped = label_values(
        np.array([0, 1, 2, 4]), {"a": 0, "b": 1, "c": 2}, "x", {1: 2, 2: 1, 4: 1}
    )
    assert swapped.tolist() == [0, 2, 1, 1]
    with pytest.raises(CaseError, match="x has label values 4 that"):
        label_values(np.array([1, 3, 4]), LABELS, "x", {3: 1})


def test_one_volume_of_several_is_read(tmp_path):
    data = np.stack([voxels(0), voxels(1)], axis=-1)
    path = save(tmp_path / "x.nii.gz", data)
    for volume in (0, 1):
        found, affine = open_nifti(path, "x", volume)
        np.testing.assert_array_equal(found, voxels(volume))
        np.testing.assert_array_equal(affine, AFFINE)
    with pytest.raises(CaseError, match="x is 12 x 10 x 8 x 2 and has no volume 2"):
        open_nifti(path, "x", 2)
    with pytest.raises(CaseError, match="x is 12 x 10 x 8 and has no volume 0"):
        open_nifti(save(tmp_path / "y.nii.gz", voxels()), "x", 0)


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        (np.array([0, 4, 9], np.int16), "4, 9 that"),
        (np.array([0, 0.5, 1.0]), "0.5 that"),
        (np.array([0, 256], np.int16), "256 that"),
        (np.array([-1, 0], np.int16), "-1 that"),
        (np.arange(9, dtype=np.int16), "2, 3, 4, 5, 6, ... that"),
    ],
)
def test_unknown_labels_are_listed(values, listed):
    with pytest.raises(CaseError) as caught:
        label_values(values, LABELS, "x")
    assert f"x has label values {listed}" in str(caught.value)


def save_two(path, sform, qform, codes=(1, 1), image_class=nib.Nifti1Image):
    """A file whose header has two affines."""
    image = image_class(voxels(), AFFINE)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nib.save(image, path)
    return path


def turned(degrees):
    """The grid turned about the patient's axis, around the first voxel."""
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ AFFINE
    affine[:3, 3] = AFFINE[:3, 3]
    return affine


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_two_affines_of_one_file_are_compared_at_the_corners(tmp_path, name, image_class):
    """Turned by 9 degrees, the far corner, 28.4 mm from the axis, moves by its chord: 4.5 mm."""
    path = save_two(tmp_path / name, AFFINE, turned(9), image_class=image_class)
    radius = np.hypot(*(np.array(SHAPE[:2]) - 1)) * 2
    chord = 2 * radius * np.sin(np.deg2rad(4.5))
    with pytest.raises(CaseError, match=f"sform and qform of x are {chord:.1f} mm apart") as caught:
        check_one_place(path, "x")
    assert caught.value.code == "E_AFFINE"
    assert np.array_equal(open_nifti(path, "x")[1], AFFINE)  # the sform counts


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (4, 1)])
def test_affines_that_differ_by_rounding_are_one(tmp_path, codes):
    edge = np.hypot(*(np.array(SHAPE[:2]) - 1))  # voxels from the axis to the far corner
    check_one_place(save_two(tmp_path / "x.nii", AFFINE, AFFINE, codes), "x")
    check_one_place(save_two(tmp_path / "x.nii", AFFINE, turned(np.rad2deg(0.09 / edge))), "x")
    with pytest.raises(CaseError, match="apart"):
        check_one_place(save_two(tmp_path / "x.nii", AFFINE, turned(np.rad2deg(0.2 / edge))), "x")


@pytest.mark.parametrize("codes", [(0, 1), (1, 0)])
def test_an_affine_without_a_code_is_none(tmp_path, codes):
    check_one_place(save_two(tmp_path / "x.nii", AFFINE, turned(9), codes), "x")


def test_a_qform_that_is_no_rotation_contradicts(tmp_path):
    path = save_two(tmp_path / "x.nii", AFFINE, AFFINE)
    content = bytearray(path.read_bytes())
    content[256:260] = np.float32(3).tobytes()  # quatern_b
    path.write_bytes(content)
    with pytest.raises(CaseError, match="sform and qform of x contradict; the sform counts"):
        check_one_place(path, "x")
