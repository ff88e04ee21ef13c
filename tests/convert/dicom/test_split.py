import random

import numpy as np
import pydicom
import pytest
from convert.dicom.scanner import (
    ADC,
    AFFINE,
    TRACE,
    Frames,
    copy_as,
    cut,
    edit,
    turned,
    uid,
    write_enhanced,
    write_mosaic,
    write_series,
)
from convert.studies import voxels

from amae_nnunet.convert.codes import CODES
from amae_nnunet.convert.dicom.headers import read_header
from amae_nnunet.convert.dicom.index import Index, find_index, load_index, save_index
from amae_nnunet.convert.dicom.pixels import pixel_digest
from amae_nnunet.convert.dicom.scan import scan_dicom
from amae_nnunet.convert.dicom.split import split_series
from amae_nnunet.convert.dicom.stack import SliceFile
from amae_nnunet.errors import ConfigError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "raw"


def stacks(root):
    found = scan_dicom(root).stacks
    assert all(stack.code in {"", *CODES} for stack in found)
    assert all(bool(stack.code) == bool(stack.problem) for stack in found)
    return found


def only(root):
    (stack,) = stacks(root)
    return stack


def code(root):
    return only(root).code


def shift(path, *offset):
    """Move a slice, mm."""
    position = pydicom.dcmread(path).ImagePositionPatient
    moved = [f"{a + b:.6f}" for a, b in zip(position, offset, strict=True)]
    return edit(path, ImagePositionPatient=moved)


def test_a_plain_stack(root):
    write_series(root / "p" / "s", voxels(), number=4, patient="P1")
    stack = only(root)
    assert (stack.code, stack.problem, stack.warnings) == ("", "", ())
    assert (stack.patient, stack.study, stack.folder) == ("P1", uid("study", "S1"), "p/s")
    assert stack.facts.size == (12, 10, 8)
    assert stack.facts.spacing == (2, 2, 3)
    assert (stack.facts.coverage, stack.facts.plane) == (24, "axial")
    assert (stack.facts.orientations, stack.facts.isotropic_3d) == (1, False)
    assert np.allclose(np.reshape(stack.affine, (4, 4)), AFFINE)
    assert stack.files[0] == SliceFile(str(root / "p" / "s" / "IM0001"))
    assert stack.facts.acquisition_time == "100004.000000"


@pytest.mark.parametrize(
    ("degrees", "plane"),
    [
        ((0, 0, 0), "axial"),
        ((20, 5, 9), "axial"),
        ((90, 0, 0), "coronal"),
        ((0, 90, 0), "sagittal"),
        ((10, 80, 0), "sagittal"),
        ((45, 0, 0), "oblique"),
        ((0, 180, 30), "axial"),
    ],
)
def test_any_orientation(root, degrees, plane):
    affine = turned(*degrees)
    paths = write_series(root, voxels(), affine)
    names = [path.name for path in paths]
    random.Random(0).shuffle(names)
    for path, name in zip(paths, names, strict=True):
        path.rename(root / f"x{name}")
    stack = only(root)
    assert stack.code == ""
    assert stack.facts.plane == plane
    assert np.allclose(np.reshape(stack.affine, (4, 4)), affine, atol=1e-5)


def test_isotropic_3d(root):
    write_series(root, voxels(), turned(0, 0, 0, spacing=(1, 1, 1.2)), MRAcquisitionType="3D")
    assert only(root).facts.isotropic_3d


# --- what is told apart


def test_b_values_and_directions(root):
    trace = {"image_type": TRACE, "directionality": "isotropic"}
    write_series(root, voxels(0), b=0, directionality="none", names="a{}", image_type=TRACE)
    write_series(root, voxels(1), b=1000, first=9, names="b{}", **trace)
    write_series(root, voxels(2), b=1001, first=17, names="c{}", **trace)
    write_series(
        root,
        voxels(3),
        b=1000,
        directionality="directional",
        names="d{}",
        first=25,
        image_type=TRACE,
    )
    found = stacks(root)
    kinds = [(s.facts.b_value, s.facts.directionality, s.facts.volumes_at_b, s.code) for s in found]
    assert kinds == [
        (0, "none", 1, ""),
        (1000, "isotropic", 3, "E_4D"),  # 1000 and 1001 are one b-value
        (1000, "directional", 3, ""),
    ]
    assert len({stack.key for stack in found}) == 3


def test_echoes_components_and_kinds(root):
    write_series(root, voxels(0), echo_time=20.0, names="a{}")
    write_series(root, voxels(1), echo_time=20.02, names="b{}", image_type=ADC)
    write_series(root, voxels(2), echo_time=90.0, names="c{}")
    write_series(root, voxels(3), echo_time=20, names="d{}", image_type="ORIGINAL\\PRIMARY\\P\\ND")
    found = [
        (s.facts.echo_time, s.facts.component, s.facts.image_type[2], s.code) for s in stacks(root)
    ]
    assert found == [
        (20, "magnitude", "M", ""),
        (20.02, "magnitude", "DIFFUSION", ""),
        (90, "magnitude", "M", ""),
        (20, "phase", "P", ""),
    ]


def test_a_small_jitter_of_the_echo_time_is_one_echo(root):
    paths = write_series(root, voxels())
    edit(paths[2], EchoTime=30.01)
    assert code(root) == ""


def test_orientations(root):
    for index, degrees in enumerate([(0, 0, 0), (90, 0, 0), (0, 90, 0)]):
        write_series(root, voxels(), turned(*degrees), first=1 + 8 * index, names=f"{index}-{{}}")
    found = stacks(root)
    assert [stack.facts.plane for stack in found] == ["axial", "coronal", "sagittal"]
    assert [stack.facts.orientations for stack in found] == [3, 3, 3]


def test_patients_studies_and_numbers_are_never_mixed(root):
    write_series(root, voxels(0), names="a{}", study="S1", series="same")
    write_series(root, voxels(1), names="b{}", study="S2", series="same", patient="P2")
    write_series(root, voxels(2), names="c{}", study="S1", series="same", number=2)
    found = stacks(root)
    assert len(found) == len({stack.key for stack in found}) == 3
    assert all(len(stack.files) == 8 and not stack.code for stack in found)


@pytest.mark.parametrize("manufacturer", ["Philips Medical Systems", "GE MEDICAL SYSTEMS"])
def test_b_of_zero_without_diffusion_is_none(root, manufacturer):
    write_series(root, voxels(), b=0, directionality="none", manufacturer=manufacturer)
    facts = only(root).facts
    assert (facts.b_value, facts.directionality, facts.volumes_at_b) == (None, "", 0)


def test_b_of_zero_of_a_diffusion_series_stays(root):
    options = {"manufacturer": "Philips Medical Systems", "b": 0, "directionality": "none"}
    write_series(root, voxels(), image_type="ORIGINAL\\PRIMARY\\DIFFUSION\\NONE", **options)
    assert (only(root).facts.b_value, only(root).facts.volumes_at_b) == (0, 1)


# --- what keeps a stack from being a volume


def test_missing_slices(root):
    paths = write_series(root, voxels())
    paths[4].unlink()
    paths[5].unlink()
    stack = only(root)
    assert stack.code == "E_MISSING_SLICES"
    said = "slices 4 and 5 of 6 are 9.00 mm apart, others 3.00 mm: there is no slice at 5.0, 8.0 mm"
    assert said in stack.problem


def test_the_places_of_many_missing_slices(root):
    paths = write_series(root, voxels(shape=(4, 4, 20)))
    for index in (2, 3, 7, 8, 9, 10, 15):
        paths[index].unlink()
    assert "no slice at -1.0, 2.0, 14.0, 17.0, 20.0 and 2 more mm" in only(root).problem


@pytest.mark.parametrize(
    ("offset", "wanted"),
    [(0.05, ""), (0.15, "E_NONUNIFORM"), (-0.8, "E_NONUNIFORM"), (1.6, "E_MISSING_SLICES")],
)
def test_uneven_distances(root, offset, wanted):
    paths = write_series(root, voxels())
    shift(paths[3], 0, 0, offset)
    assert code(root) == wanted


def test_a_slow_drift_is_uneven(root):
    paths = write_series(root, voxels())
    for index, path in enumerate(paths):
        shift(path, 0, 0, 0.012 * index**2)  # no two distances differ by much
    assert code(root) == "E_NONUNIFORM"


def test_one_per_cent_of_thick_slices_is_allowed(root):
    paths = write_series(root, voxels(), turned(0, 0, 0, spacing=(1, 1, 15)))
    shift(paths[3], 0, 0, 0.12)
    assert code(root) == ""


@pytest.mark.parametrize(("offset", "wanted"), [(0.01, ""), (0.5, "E_SHEAR")])
def test_a_tilted_gantry(root, offset, wanted):
    for index, path in enumerate(write_series(root, voxels())):
        shift(path, 0, offset * index, 0)
    assert code(root) == wanted


def test_rows_that_are_not_at_right_angles_to_columns(root):
    for path in write_series(root, voxels()):
        edit(path, ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0])
    assert code(root) == "E_SHEAR"
    assert "at right angles" in only(root).problem


@pytest.mark.parametrize(
    "tags",
    [
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": [0, 0, 0, 0, 1, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"PixelSpacing": [0, 1]},
        {"PixelSpacing": None},
    ],
)
def test_no_geometry(root, tags):
    for path in write_series(root, voxels()):
        edit(path, **tags)
    assert code(root) == "E_NO_GEOMETRY"


def test_another_matrix(root):
    paths = write_series(root, voxels())
    other = write_series(root.parent / "other", voxels(shape=(10, 10, 8)))
    paths[3].write_bytes(other[3].read_bytes())
    stack = only(root)
    assert stack.code == "E_MATRIX"
    assert "image 4 has 10 x 10 pixels" in stack.problem.replace("of the series ", "")


def test_another_pixel_spacing(root):
    paths = write_series(root, voxels())
    edit(paths[3], PixelSpacing=[2.1, 2.1])
    assert code(root) == "E_MATRIX"


def test_colour(root):
    for path in write_series(root, voxels()):
        edit(
            path, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, BitsStored=8
        )
        edit(path, PixelData=bytes(12 * 10 * 3), HighBit=7)
    assert code(root) == "E_TYPE"


def test_one_slice(root):
    write_series(root, voxels(shape=(12, 10, 1)))
    assert code(root) == "E_FEW_SLICES"


# --- the same twice


def test_every_file_twice(root):
    write_series(root / "a", voxels())
    write_series(root / "b", voxels())
    stack = only(root)
    assert stack.code == ""
    assert stack.warnings == ("W_DUPLICATES: 8 files were there twice",)
    assert {file.path for file in stack.files} == {str(path) for path in (root / "a").iterdir()}


def test_of_two_copies_the_whole_one_is_taken(root):
    for path in write_series(root / "a", voxels()):
        cut(path, -100)
    write_series(root / "b", voxels())
    stack = only(root)
    assert stack.code == ""
    assert all("/b/" in file.path for file in stack.files)


def test_a_slice_under_a_new_uid_with_the_same_pixels(root):
    paths = write_series(root, voxels())
    copy_as(paths[2], root / "again", SOPInstanceUID=uid("new"), InstanceNumber=30)
    stack = only(root)
    assert (stack.code, len(stack.files)) == ("", 8)
    assert str(root / "again") not in {file.path for file in stack.files}
    assert stack.warnings[0] == "W_DUPLICATES: 1 slices were there twice, pixel by pixel"


@pytest.mark.parametrize("change", ["pixels", "scale"])
def test_two_different_slices_at_one_position(root, change):
    paths = write_series(root, voxels())
    other = copy_as(paths[2], root / "again", SOPInstanceUID=uid("new"), InstanceNumber=30)
    tags = {"PixelData": bytes(240)} if change == "pixels" else {"RescaleSlope": 2}
    edit(other, **tags)
    stack = only(root)
    assert stack.code == "E_DUPLICATE_POSITION"
    assert "images 3 and 30" in stack.problem


def test_a_whole_series_under_new_uids(root):
    for index, path in enumerate(write_series(root, voxels())):
        copy_as(path, root / f"n{index}", SOPInstanceUID=uid(index), InstanceNumber=20 + index)
    stack = only(root)
    assert (stack.code, len(stack.files)) == ("", 8)


@pytest.mark.parametrize("last", [8, 5])
def test_several_volumes(root, last):
    for volume in range(3):
        stop = last if volume == 2 else 8  # a run that was stopped
        data = voxels(volume)[:, :, :stop]
        write_series(root, data, first=1 + 8 * volume, names=f"v{volume}-{{}}")
    stack = only(root)
    assert (stack.code, stack.facts.size, stack.facts.spacing) == ("E_4D", (12, 10, 8), (2, 2, 3))
    assert stack.problem.startswith("3 volumes that no b-value")


def test_frames_of_several_volumes(root):
    volumes = [Frames(voxels(0), b=0.0), Frames(voxels(1), b=900.0), Frames(voxels(2), b=900.0)]
    write_enhanced(root / "x", volumes, slice_first=True)
    first, second = stacks(root)
    assert (first.code, first.facts.b_value, first.facts.volumes_at_b) == ("", 0, 1)
    assert first.files == (SliceFile(str(root / "x"), "", tuple(range(0, 24, 3))),)
    assert (second.code, second.facts.volumes_at_b) == ("E_4D", 2)


# --- an end that is missing


def test_instance_numbers_tell_of_missing_slices(root):
    paths = write_series(root, voxels())
    paths[0].unlink()
    stack = only(root)
    assert stack.code == ""
    assert stack.warnings == ("W_SLICES_END: 7 slices were found where 8 are expected",)


def test_images_in_acquisition_tell(root):
    paths = write_series(root, voxels(), ImagesInAcquisition=8)
    paths[-1].unlink()
    assert only(root).warnings[0].startswith("W_SLICES_END: 7 slices")


def test_ge_locations_tell(root):
    for path in write_series(root, voxels(), manufacturer="GE MEDICAL SYSTEMS")[:-1]:
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0021, "GEMS_RELA_01", create=True)
        block.add_new(0x4F, "SS", 8)
        dataset.save_as(path)
    (root / "IM0008").unlink()
    assert only(root).warnings == ("W_SLICES_END: 7 slices were found where 8 are expected",)


def test_the_other_b_value_tells(root):
    write_series(root, voxels(0), b=0, directionality="none")
    paths = write_series(root, voxels(1), b=1000, directionality="isotropic", first=9)
    paths[-1].unlink()
    low, high = stacks(root)
    assert low.warnings == ()
    assert high.warnings == ("W_SLICES_END: 7 slices were found where 8 are expected",)


# --- mosaics


@pytest.mark.parametrize("direction", [1, -1])
def test_a_mosaic_is_a_volume(root, direction):
    affine = turned(20, 10, 5)
    affine[:3, 2] *= direction
    write_mosaic(root / "x", voxels(), affine)
    stack = only(root)
    assert stack.code == ""
    assert stack.facts.size == (12, 10, 8)
    assert np.allclose(stack.facts.spacing, (2, 2, 3))
    assert np.allclose(np.reshape(stack.affine, (4, 4)), affine, atol=1e-5)


def test_mosaics_of_one_kind_are_several_volumes(root):
    for index in range(3):
        write_mosaic(root / f"x{index}", voxels(index), first=index + 1)
    assert code(root) == "E_4D"


@pytest.mark.parametrize(
    ("options", "wanted"), [({"count": False}, "E_FRAMES"), ({"normal": False}, "E_NO_GEOMETRY")]
)
def test_mosaics_that_say_too_little(root, options, wanted):
    write_mosaic(root / "x", voxels(), **options)
    assert code(root) == wanted


# --- order, index


def test_the_order_of_the_files_does_not_matter(root):
    write_series(root, voxels(0), b=0, directionality="none")
    write_series(root, voxels(1), b=1000, directionality="isotropic", first=9)
    rounded = write_series(root, voxels(2), number=2, names="x{}")
    edit(rounded[5], ImageOrientationPatient=[1, 0.0002, 0, -0.0002, 1, 0])
    copy_as(rounded[2], root / "copy")
    slices = []
    for path in root.iterdir():
        with path.open("rb") as stream:
            slices += read_header(stream, str(path))
    expected = stacks(root)
    for seed in range(3):
        random.Random(seed).shuffle(slices)
        assert split_series(slices, root, pixel_digest) == expected


def test_the_index_gives_the_stacks_back(root, tmp_path):
    write_series(root / "a", voxels(0), b=0, directionality="none", number=1)[3].unlink()
    write_enhanced(root / "b", [Frames(voxels(1)), Frames(voxels(2), b=900.0)], number=2)
    write_series(root / "c", voxels(0), number=3)[0].unlink()
    found = stacks(root)
    assert {stack.code for stack in found} == {"", "E_MISSING_SLICES"}
    index = Index(found, {found[0].key: "T1"})
    save_index(index, tmp_path / "index.json")
    assert load_index(tmp_path / "index.json") == index
    assert (tmp_path / "index.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": 0}',
        '{"schema": 2}',
        '{"schema": 2, "chosen": {}}\n{"key',
    ],
)
def test_what_is_no_index(tmp_path, content):
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="remove it and its sheet, and write them anew"):
        load_index(path)


def test_the_index_of_a_sheet_that_was_saved_under_another_name(tmp_path):
    sheet = tmp_path / "mine.tsv"
    with pytest.raises(ConfigError, match=r"mine.index.json is not there: copy the .index.json"):
        find_index(sheet)
    (tmp_path / "series.index.json").touch()
    assert find_index(sheet) == tmp_path / "series.index.json"
    (tmp_path / "other.index.json").touch()
    with pytest.raises(ConfigError, match=r"other.index.json, series.index.json\? copy the right"):
        find_index(sheet)
    (tmp_path / "mine.index.json").touch()
    assert find_index(sheet) == tmp_path / "mine.index.json"
