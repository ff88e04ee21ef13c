import gzip
import json
import pickle
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from convert.dicom.scanner import (
    ADC,
    AFFINE,
    TRACE,
    Frames,
    cut,
    edit,
    strip_preamble,
    turned,
    write_enhanced,
    write_mosaic,
    write_series,
)
from convert.studies import voxels
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.dicom import volume as volume_module
from amae_nnunet.convert.dicom.scan import scan_dicom
from amae_nnunet.convert.dicom.stack import Stack
from amae_nnunet.convert.dicom.volume import DicomVolume
from amae_nnunet.errors import ConfigError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "raw"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where the temporary folders go; empty again after each test, whatever happened."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def stacks(root):
    return scan_dicom(root).stacks


def only(root) -> Stack:
    (stack,) = stacks(root)
    return stack


def check(stack, expected, affine=AFFINE):
    result, place = DicomVolume(stack).read()
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_allclose(place, affine, atol=1e-4)


def refused(stack, **changes):
    with pytest.raises(CaseError) as caught:
        DicomVolume(stack, **changes).read()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(DicomVolume(stack).name)
    return caught.value.code


@pytest.mark.parametrize(
    "degrees",
    [(0, 0, 0), (15, -8, 30), (90, 0, 0), (0, 90, 0), (0, 180, 0), (180, 0, 45), (70, 40, 200)],
)
def test_voxels_and_place_come_back(root, degrees):
    affine = turned(*degrees, spacing=(0.9, 1.1, 4.0))
    write_series(root, voxels(), affine)
    check(only(root), voxels(), affine)


@pytest.mark.parametrize(
    "manufacturer",
    ["SIEMENS", "Philips Medical Systems", "GE MEDICAL SYSTEMS", "UIH", "CANON_MEC", "Hitachi"],
)
def test_every_maker_and_every_part_of_a_series(root, manufacturer):
    options = {"manufacturer": manufacturer, "image_type": TRACE}
    write_series(root, voxels(0), b=0, directionality="none", **options)
    write_series(root, voxels(1), b=1000, directionality="isotropic", first=9, **options)
    write_series(root, voxels(2), manufacturer=manufacturer, image_type=ADC, first=17)
    found = stacks(root)
    assert len(found) == 3
    for seed, stack in enumerate(found):
        check(stack, voxels(seed))


@pytest.mark.parametrize("top", [40000, 4000])
def test_unsigned_voxels(root, top):
    data = (voxels().astype(np.uint16) * (top // 1000)).astype(np.uint16)
    write_series(root, data)
    check(only(root), data)


def test_a_scale_for_each_slice(root):
    paths = write_series(root, voxels())
    for index, path in enumerate(paths):
        edit(path, RescaleSlope=1 + index, RescaleIntercept=-index)
    result, _ = DicomVolume(only(root)).read()
    np.testing.assert_allclose(result, voxels() * np.arange(1, 9) - np.arange(8))


def test_positions_rounded_by_the_scanner(root):
    affine = turned(12, 20, 7, spacing=(0.7, 0.7, 0.8))
    data = voxels(shape=(12, 10, 200))
    for path in write_series(root, data, affine):
        position = dcmread(path).ImagePositionPatient
        edit(path, ImagePositionPatient=[f"{value:.3f}" for value in position])
    result, place = DicomVolume(only(root)).read()
    np.testing.assert_array_equal(result, data)
    np.testing.assert_allclose(place, affine, atol=2e-3)


def test_packed_in_every_way(root):
    for path in write_series(root / "gz", voxels(0), number=1):
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    paths = write_series(root.parent / "other", voxels(1), number=2)
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        for path in paths[:5]:
            archive.write(path, path.name)
        for path in paths[5:]:
            archive.writestr(path.name, gzip.compress(path.read_bytes()))
    for path in write_series(root / "no preamble $(x) ä", voxels(2), number=3):
        strip_preamble(path)
    found = stacks(root)
    assert DicomVolume(found[1]).paths == (root / "x.zip",)
    for seed, stack in enumerate(found):
        check(stack, voxels(seed))


def test_compressed_pixels(root):
    for path in write_series(root, voxels()):
        dataset = dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    check(only(root), voxels())


def test_links(root):
    for path in write_series(root / "store", voxels()):
        (root / "study").mkdir(exist_ok=True)
        (root / "study" / path.name).symlink_to(path)
    check(only(root), voxels())


# --- multi-frame


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("manufacturer", ["SIEMENS", "Philips Medical Systems"])
def test_a_multi_frame_file_of_one_volume(root, legacy, manufacturer):
    options = {"legacy": legacy, "manufacturer": manufacturer}
    write_enhanced(root / "x", [Frames(voxels())], turned(20, 4, 9), **options)
    check(only(root), voxels(), turned(20, 4, 9))


@pytest.mark.parametrize(
    ("slice_first", "manufacturer"), [(False, "SIEMENS"), (False, "Philips"), (True, "Philips")]
)
def test_each_volume_of_a_multi_frame_file(root, slice_first, manufacturer):
    volumes = [
        Frames(voxels(0), b=0.0, directionality="none"),
        Frames(voxels(1), b=1000.0, directionality="isotropic", temporal=2),
        Frames(voxels(2), b=2000.0, directionality="isotropic", temporal=3),
    ]
    write_enhanced(root / "x", volumes, slice_first=slice_first, manufacturer=manufacturer)
    found = stacks(root)
    assert [stack.facts.b_value for stack in found] == [0, 1000, 2000]
    for seed, stack in enumerate(found):
        check(stack, voxels(seed))


def test_frames_that_dcm2niix_mixes_up_are_not_taken(root):
    # It sorts the frames of Philips alone; of other makers it takes them as they come.
    volumes = [Frames(voxels(0), b=0.0), Frames(voxels(1), b=1000.0, temporal=2)]
    write_enhanced(root / "x", volumes, slice_first=True)
    assert [refused(stack) for stack in stacks(root)] == ["E_FRAMES", "E_FRAMES"]


def test_two_volumes_that_are_alike_cannot_be_told_apart(root):
    volumes = [Frames(voxels(0), b=0.0), Frames(voxels(0) * 2, b=1000.0, temporal=2)]
    write_enhanced(root / "x", volumes)
    assert [refused(stack) for stack in stacks(root)] == ["E_FRAMES", "E_FRAMES"]


def test_frames_in_another_order_are_not_taken(root):
    write_enhanced(root / "x", [Frames(voxels())])
    stack = only(root)
    (file,) = stack.files
    swapped = replace(file, frames=(1, 0, *file.frames[2:]))
    assert refused(replace(stack, files=(swapped,))) == "E_FRAMES"


def test_frames_that_cannot_be_decoded(root, monkeypatch):
    volumes = [Frames(voxels(0), b=0.0), Frames(voxels(1), b=1000.0, temporal=2)]
    write_enhanced(root / "a" / "x", volumes)
    write_enhanced(root / "b" / "x", [Frames(voxels(3))], number=2)
    blind = volume_module.frame_values
    monkeypatch.setattr(volume_module, "frame_values", lambda file: (None, blind(file)[1]))
    first, second, third = stacks(root)
    assert [refused(first), refused(second)] == ["E_FRAMES", "E_FRAMES"]
    check(third, voxels(3))  # the only volume of its file
    monkeypatch.setattr(volume_module, "frame_values", lambda file: (None, False))
    assert refused(third) == "E_FRAMES"


@pytest.mark.parametrize("manufacturer", ["SIEMENS", "Philips"])
def test_a_scale_for_each_frame(root, manufacturer):
    path = write_enhanced(root / "x", [Frames(voxels())], manufacturer=manufacturer)
    dataset = dcmread(path)
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1 + index, 5, "US"
        frame.PixelValueTransformationSequence = [scale]
    dataset.save_as(path)
    if manufacturer == "SIEMENS":  # dcm2niix takes one scale for all, which is not true
        assert refused(only(root)) == "E_FRAMES"
    else:
        check(only(root), voxels() * np.arange(1, 9) + 5)


# --- what is not a volume


def test_the_fault_of_a_stack_is_told(root):
    write_series(root, voxels())[3].unlink()
    stack = only(root)
    assert refused(stack) == "E_MISSING_SLICES"


def test_files_that_changed_after_the_scan(root):
    paths = write_series(root, voxels())
    stack = only(root)
    cut(paths[2], -100)
    assert refused(stack) == "E_NOT_A_VOLUME"
    paths[2].unlink()
    assert refused(stack) == "E_DAMAGED"


def test_a_result_of_another_size_or_place(root):
    write_series(root, voxels())
    stack = only(root)
    larger = replace(stack, facts=replace(stack.facts, size=(12, 10, 9)))
    assert refused(larger) == "E_NOT_A_VOLUME"
    affine = np.reshape(stack.affine, (4, 4))
    for row, column, change in [(0, 3, 0.05), (2, 2, 0.05), (0, 0, 0.01), (1, 2, 0.05)]:
        moved = affine.copy()
        moved[row, column] += change
        assert refused(replace(stack, affine=tuple(moved.ravel()))) == "E_NOT_A_VOLUME"


def test_a_result_of_two_volumes_is_named(root):
    write_series(root, voxels())
    write_series(root, voxels(1)[:, :, :4], number=2, names="x{}")
    first, second = stacks(root)
    with pytest.raises(CaseError, match=r"dcm2niix made 12 x 10 x 8, 12 x 10 x 4 where"):
        DicomVolume(replace(first, files=first.files + second.files)).read()


def test_dcm2niix_that_hangs(root, monkeypatch):
    write_series(root, voxels())
    slow = root.parent / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr("dcm2niix.bin", str(slow))
    assert refused(only(root), time_limit=0.2) == "E_TIMEOUT"


def test_without_dcm2niix(root, monkeypatch):
    write_series(root, voxels())
    stack = only(root)
    monkeypatch.setitem(__import__("sys").modules, "dcm2niix", None)
    with pytest.raises(ConfigError, match=r"pip install 'amae-nnunet\[dicom\]'"):
        DicomVolume(stack).read()


@pytest.mark.parametrize("direction", [1, -1])
def test_a_mosaic(root, direction):
    affine = turned(20, 10, 5)
    affine[:3, 2] *= direction
    write_mosaic(root / "x", voxels(), affine)
    check(only(root), voxels(), affine)


# --- as a source


def test_facts_are_those_of_the_list(root):
    write_series(
        root,
        voxels(),
        image_type=TRACE,
        b=1000,
        directionality="isotropic",
        canary="CANARY",
        description="CANARY",
        patient="CANARY",
        MRAcquisitionType="CANARY",
    )
    source = DicomVolume(only(root), evidence="type.trace", doubts=("W_FRAME: x",))
    assert source.facts == {
        "source": "dicom",
        "evidence": "type.trace",
        "manufacturer": "Siemens",
        "field_strength": 3.0,
        "echo_time": 30.0,
        "repetition_time": 5000.0,
        "flip_angle": 90.0,
        "b_value": 1000.0,
        "directionality": "isotropic",
        "plane": "axial",
        "size": [12, 10, 8],
        "spacing": [2.0, 2.0, 3.0],
    }
    said = json.dumps([source.facts, source.name, source.warnings])
    assert "CANARY" not in said
    assert source.name == "series 1 (8 slices, b 1000)"
    assert source.part == source.stack.key
    assert source.part not in said  # a hash without a key of what names study and patient
    assert source.warnings == ("W_FRAME: x",)
    assert len(source.paths) == 8
    assert pickle.loads(pickle.dumps(source)) == source


def test_no_text_of_the_header_in_any_error(root):
    paths = write_series(root, voxels(), canary="CANARY", description="CANARY", patient="CANARY")
    stack = only(root)
    cut(paths[3], -100)
    for broken in (only(root), stack):
        with pytest.raises(CaseError) as caught:
            DicomVolume(broken).read()
        assert "CANARY" not in str(caught.value)


def test_nothing_of_the_header_is_kept_by_dcm2niix(root, monkeypatch):
    write_series(root, voxels(), canary="CANARY", description="CANARY", patient="CANARY")
    seen = []
    original = volume_module.open_nifti

    def look(path: Path, name: str):
        seen.extend(sorted(file.name for file in path.parent.iterdir()))
        return original(path, name)

    monkeypatch.setattr(volume_module, "open_nifti", look)
    DicomVolume(only(root)).read()
    assert seen == ["s.nii"]  # no sidecar
