import gzip
import io
import os
import shutil
import zipfile

import pydicom
import pytest
from convert.dicom import scanner
from convert.dicom.scanner import (
    Frames,
    copy_as,
    cut,
    edit,
    strip_preamble,
    uid,
    write_enhanced,
    write_series,
)
from convert.studies import voxels

from amae_nnunet.convert.dicom import scan as scan_module
from amae_nnunet.convert.dicom import vendor
from amae_nnunet.convert.dicom.headers import Damaged, NotAnImage, read_header
from amae_nnunet.convert.dicom.scan import scan_dicom
from amae_nnunet.errors import ConfigError, InputError


def header(path):
    with path.open("rb") as stream:
        return read_header(stream, str(path))


def facts_of(path):
    return header(path)[0].facts


def one(tmp_path, **options):
    return write_series(tmp_path / "raw", voxels(), **options)[0]


def test_every_fact_of_a_classic_slice(tmp_path):
    path = one(
        tmp_path,
        patient="P7",
        number=12,
        description="ax  T1\tpost",
        image_type="ORIGINAL\\PRIMARY\\M\\ND",
        echo_time=11.5,
        ProtocolName="head",
        SequenceName="*se2d1",
        ImageComments="comment",
        ScanOptions=["FS", "SAT1"],
        ContrastBolusAgent="Gd",
        InversionTime="900",
        BurnedInAnnotation="YES",
        ImagesInAcquisition=8,
        AcquisitionContrast="T1",
    )
    (slice_,) = header(path)
    facts = slice_.facts
    assert (slice_.patient, slice_.study, slice_.frame) == ("P7", uid("study", "S1"), -1)
    assert (slice_.series_number, slice_.instance, slice_.acquired) == (12, 1, 8)
    assert (slice_.size, slice_.spacing, slice_.gap) == ((12, 10), (2.0, 2.0), 3.0)
    assert slice_.position == (-10, -12, -7)
    assert slice_.orientation == (1, 0, 0, 0, 1, 0)
    assert (slice_.time, slice_.mosaic, slice_.code) == ("100012.000000", 0, "")
    assert (facts.modality, facts.sop_class, facts.manufacturer) == ("MR", "MR", "Siemens")
    assert facts.image_type == ("ORIGINAL", "PRIMARY", "M", "ND")
    assert (facts.series_description, facts.protocol_name) == ("ax T1 post", "head")
    assert (facts.sequence_name, facts.image_comments) == ("*se2d1", "comment")
    assert (facts.body_part, facts.contrast_agent, facts.burned_in) == ("BRAIN", "Gd", True)
    assert (facts.scanning_sequence, facts.sequence_variant) == (("SE",), ("SK",))
    assert (facts.scan_options, facts.acquisition_type) == (("FS", "SAT1"), "2D")
    assert (facts.acquisition_contrast, facts.component) == ("T1", "magnitude")
    assert (facts.field_strength, facts.echo_time, facts.repetition_time) == (3.0, 11.5, 5000.0)
    assert (facts.inversion_time, facts.flip_angle, facts.samples_per_pixel) == (900.0, 90.0, 1)
    assert (facts.b_value, facts.directionality, facts.series_number) == (None, "", 12)
    assert facts.frame_of_reference == uid("frame", "S1")


VENDORS = ["SIEMENS", "Philips Medical Systems", "GE MEDICAL SYSTEMS"]


@pytest.mark.parametrize("manufacturer", VENDORS)
@pytest.mark.parametrize("direction", ["isotropic", "directional"])
def test_diffusion_of_the_vendors_tags(tmp_path, manufacturer, direction):
    path = one(tmp_path, manufacturer=manufacturer, b=1000, directionality=direction)
    assert facts_of(path).b_value == 1000
    assert facts_of(path).directionality == direction


@pytest.mark.parametrize("manufacturer", [*VENDORS, "UIH", "Canon Medical Systems"])
def test_b_of_zero_has_no_direction(tmp_path, manufacturer):
    path = one(tmp_path, manufacturer=manufacturer, b=0, directionality="none")
    assert (facts_of(path).b_value, facts_of(path).directionality) == (0, "none")


@pytest.mark.parametrize("manufacturer", ["UIH", "CANON_MEC", "SIEMENS"])
def test_without_a_tag_the_direction_is_unknown(tmp_path, manufacturer):
    path = one(tmp_path, manufacturer=manufacturer, b=800)
    assert (facts_of(path).b_value, facts_of(path).directionality) == (800, "unknown")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("*ep_b1000t", (1000, "isotropic")),
        ("ep_b800#3", (800, "directional")),
        ("*ep_b0", (0, "none")),
        ("ep_b50", (50, "unknown")),
        ("ep_b0_1000", (None, "")),  # of an ADC map: the b-values it was made from
    ],
)
def test_siemens_sequence_names(tmp_path, name, expected):
    facts = facts_of(one(tmp_path, SequenceName=name))
    assert (facts.b_value, facts.directionality) == expected


def test_a_trace_token_tells_a_direction(tmp_path):
    facts = facts_of(one(tmp_path, manufacturer="UIH", b=1000, image_type=scanner.TRACE))
    assert facts.directionality == "isotropic"


@pytest.mark.parametrize(
    ("gradient", "direction"), [([0, 0, 0], "isotropic"), ([0, 0.6, 0.8], "directional")]
)
def test_philips_trace_has_a_gradient_of_zero(tmp_path, gradient, direction):
    path = one(tmp_path, manufacturer="Philips", b=1000, DiffusionGradientOrientation=gradient)
    edit(path, DiffusionBValue=1000.0)
    assert facts_of(path).directionality == direction


def test_private_numbers_of_unknown_type(tmp_path):
    # An implicit VR file read without a private dictionary gives bytes.
    values = {(0x2001, 0x1003): b"\x00\x00zD", (0x2001, 0x1004): b"I "}
    assert vendor.diffusion_of("Philips", (), "", values.get) == (1000, "isotropic")
    values = {(0x0019, 0x100C): b"800 ", (0x0019, 0x100D): b"DIRECTIONAL "}
    assert vendor.diffusion_of("Siemens", (), "", values.get) == (800, "directional")
    values = {(0x0043, 0x1039): b"1000000700\\8\\0", (0x0043, 0x1030): b"\x2b\x00"}
    assert vendor.diffusion_of("GE", (), "", values.get) == (700, "isotropic")
    values = {(0x0043, 0x1039): [1000, 8], (0x0019, 0x10BB): b"0.0", (0x0019, 0x10BD): b"1.0"}
    assert vendor.diffusion_of("GE", (), "", values.get) == (1000, "directional")
    values = {(0x0065, 0x1009): b"\x00\x00\x00\x00\x00@\x8f@", (0x0065, 0x1037): [0, 0, 1]}
    assert vendor.diffusion_of("UIH", (), "", values.get) == (1000, "directional")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("Philips Medical Systems", "Philips"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GE", "GE"),
        ("UIH", "UIH"),
        ("Canon Medical Systems", "Canon"),
        ("TOSHIBA_MEC", "Toshiba"),
        ("Hitachi Medical Corporation", "Hitachi"),
        ("General Hospital of Siemens street", "other"),
        ("", "other"),
    ],
)
def test_manufacturers_are_words_of_a_list(name, word):
    assert vendor.manufacturer_of(name) == word


@pytest.mark.parametrize(
    ("image_type", "component"),
    [
        ("ORIGINAL\\PRIMARY\\P\\ND", "phase"),
        ("ORIGINAL\\PRIMARY\\PHASE MAP\\P\\FFE", "phase"),
        ("ORIGINAL\\PRIMARY\\R\\ND", "real"),
        ("ORIGINAL\\PRIMARY\\I\\ND", "imaginary"),
        ("ORIGINAL\\PRIMARY\\M_IR\\M\\IR", "magnitude"),
    ],
)
def test_components(tmp_path, image_type, component):
    assert facts_of(one(tmp_path, image_type=image_type)).component == component


def test_component_and_slices_of_ge():
    assert vendor.component_of("GE", (), {(0x0043, 0x102F): 1}.get) == "phase"
    assert vendor.component_of("Siemens", (), {(0x0043, 0x102F): 1}.get) == "magnitude"
    assert vendor.expected_slices("GE", {(0x0021, 0x104F): b"\x1c\x00"}.get) == 28
    assert vendor.expected_slices("Philips", {(0x0021, 0x104F): 28}.get) == 0


def test_siemens_own_header_that_is_cut():
    tag = (0x0029, 0x1010)
    assert vendor.mosaic_normal({}.get) is None
    for content in (b"", b"SliceNormalVector\0", b"SliceNormalVector\0" + bytes(100)):
        assert vendor.mosaic_normal({tag: content}.get) is None


def test_the_second_image_type_of_siemens_xa(tmp_path):
    path = one(tmp_path, image_type="ORIGINAL\\PRIMARY\\M\\NONE")
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0021, "SIEMENS MR SDS 01", create=True)  # the first of two blocks
    block = dataset.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
    block.add_new(0x75, "CS", ["ORIGINAL", "PRIMARY", "M", "NORM"])
    dataset.save_as(path)
    assert facts_of(path).image_type == ("ORIGINAL", "PRIMARY", "M", "NONE", "NORM")


@pytest.mark.parametrize("legacy", [False, True])
def test_frames_are_slices(tmp_path, legacy):
    volumes = [Frames(voxels(0), b=0.0, directionality="none"), Frames(voxels(1), b=900.0)]
    path = write_enhanced(tmp_path / "x", volumes, legacy=legacy, slice_first=True)
    slices = header(path)
    assert [slice_.frame for slice_ in slices] == list(range(16))
    assert [slice_.facts.b_value for slice_ in slices] == [0, 900] * 8
    assert [slice_.position[2] for slice_ in slices[::2]] == [3.0 * k - 7 for k in range(8)]
    assert {slice_.spacing for slice_ in slices} == {(2.0, 2.0)}
    assert {slice_.facts.echo_time for slice_ in slices} == {30.0}
    names = {slice_.facts.sop_class for slice_ in slices}
    assert names == {"LegacyEnhancedMR" if legacy else "EnhancedMR"}


def test_frame_type_and_component_win_over_those_of_the_file(tmp_path):
    volume = Frames(voxels(), frame_type="DERIVED\\PRIMARY\\DIFFUSION\\ADC", component="PHASE")
    path = write_enhanced(tmp_path / "x", [volume], image_type="DERIVED\\PRIMARY\\MIXED\\MIXED")
    assert facts_of(path).image_type == ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")
    assert facts_of(path).component == "phase"


def test_frames_without_description(tmp_path):
    path = write_enhanced(tmp_path / "x", [Frames(voxels())])
    edit(path, PerFrameFunctionalGroupsSequence=None)
    (slice_,) = header(path)
    assert slice_.code == "E_FRAMES"


@pytest.mark.parametrize(
    "tags",
    [
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": None},
        {"PixelSpacing": None},
        {"ImagePositionPatient": [1, 2]},
    ],
)
def test_absent_geometry_is_none(tmp_path, tags):
    path = one(tmp_path)
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            del dataset[keyword]
        else:
            dataset[keyword].value = value
    dataset.save_as(path)
    (slice_,) = header(path)
    assert None in (slice_.position, slice_.orientation, slice_.spacing)


def test_a_number_that_is_none(tmp_path):
    path = one(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"5000.0", b"5,000 "))
    assert facts_of(path).repetition_time is None


# --- the tree


def scan(tmp_path, processes=1):
    return scan_dicom(tmp_path / "raw", processes)


def names(result):
    return {
        f"{skipped.path}/{skipped.member}".rstrip("/"): (skipped.code, skipped.reason)
        for skipped in result.skipped
    }


def test_any_depth_and_order(tmp_path):
    root = tmp_path / "raw"
    write_series(root / "b" / "c", voxels(0), patient="P2", study="S2", names="{}")
    write_series(root / "a", voxels(1), number=2)
    write_series(root / "a", voxels(2), number=1, names="x{}.ima")
    for index, path in enumerate(sorted((root / "a").iterdir())):  # a series over two folders
        if index % 2:
            path.rename(root / "b" / path.name)
    stacks = scan(tmp_path).stacks
    assert len(stacks) == 3
    assert {(stack.patient, stack.facts.series_number) for stack in stacks} == {
        ("P2", 1),
        ("P1", 1),
        ("P1", 2),
    }
    assert all(stack.facts.size == (12, 10, 8) and not stack.code for stack in stacks)


def test_packed_files_and_archives(tmp_path):
    root = tmp_path / "raw"
    for path in write_series(root, voxels(), number=1):
        path.with_suffix(".dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    paths = write_series(tmp_path / "other", voxels(), number=2)
    with zipfile.ZipFile(root / "study", "w") as archive:
        archive.writestr("empty/", b"")
        for path in paths:
            archive.write(path, f"deep/{path.name}")
        archive.writestr("note.txt", "no image")
        packed = gzip.compress(write_series(tmp_path / "o3", voxels(), number=3)[0].read_bytes())
        archive.writestr("single.gz", packed)
    result = scan(tmp_path)
    assert [len(stack.files) for stack in result.stacks] == [8, 8, 1]
    assert [file.member for file in result.stacks[1].files][:2] == ["deep/IM0001", "deep/IM0002"]
    assert names(result) == {"study/note.txt": ("", "not DICOM")}


def test_without_preamble(tmp_path):
    for path in write_series(tmp_path / "raw", voxels()):
        strip_preamble(path)
    (stack,) = scan(tmp_path).stacks
    assert (len(stack.files), stack.code) == (8, "")


def test_what_is_no_image(tmp_path):
    root = tmp_path / "raw"
    paths = write_series(root, voxels())
    (root / "notes.txt").write_text("text " * 100)
    (root / "empty").touch()
    (root / ".DS_Store").write_bytes(b"hidden")
    shutil.copy(paths[0], root / "DICOMDIR")
    edit(
        copy_as(paths[0], root / "report"), PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.66"
    )
    os.mkfifo(root / "pipe")
    result = scan(tmp_path)
    assert len(result.stacks) == 1
    assert not result.stacks[0].warnings
    assert names(result) == {
        "notes.txt": ("", "not DICOM"),
        "empty": ("", "not DICOM"),
        "DICOMDIR": ("", "DICOMDIR"),
        "report": ("", "DICOM without an image"),
        "pipe": ("", "no regular file"),
    }
    assert result.reasons["not DICOM"] == 2


@pytest.mark.parametrize("size", [0, 300, 800, -270, -100])
def test_a_file_cut_short(tmp_path, size):
    paths = write_series(tmp_path / "raw", voxels())
    cut(paths[3], size)
    result = scan(tmp_path)
    if size < 0:  # the header still says of which series it is
        what = "its pixels are cut short" if size == -100 else "it ends before its pixels"
        codes = {stack.code: stack.problem for stack in result.stacks}
        assert result.skipped == []
        assert f"image 4 of the series: {what}" in codes["E_DAMAGED"]
        return
    assert result.stacks[0].code == "E_MISSING_SLICES"
    ((name, (code, reason)),) = names(result).items()
    assert (name, code) == ("IM0004", "E_DAMAGED")
    assert reason == ("it ends in its header" if size else "it is empty")


@pytest.mark.parametrize("name", ["IM1", "x.dcm", "export/1.2.3.IMA", "copy.dcm.gz"])
def test_no_length_of_a_cut_file_is_taken_for_something_else(tmp_path, name):
    whole = one(tmp_path).read_bytes()
    for size in range(len(whole)):
        try:
            slices = read_header(io.BytesIO(whole[:size]), name)
            assert {slice_.code for slice_ in slices} == {"E_DAMAGED"}
            assert slices[0].study
        except Damaged:
            continue
        except NotAnImage:  # too short for the mark of DICOM, and not called so
            assert 0 < size < 132
            assert name == "IM1"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("DONE", b"", ""),
        ("IM0001", b"", "E_DAMAGED"),
        ("IM0001", bytes(5000), "E_DAMAGED"),
        ("a.dcm", b"text", "E_DAMAGED"),
        ("page1.html", b"text", ""),
    ],
)
def test_what_was_meant_to_be_an_image(tmp_path, name, content, code):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(content)
    assert names(scan(tmp_path))[name][0] == code


def test_damaged_archives(tmp_path):
    root = tmp_path / "raw"
    paths = write_series(tmp_path / "other", voxels())
    root.mkdir()
    (root / "half.gz").write_bytes(gzip.compress(paths[0].read_bytes())[:-700])
    (root / "no.zip").write_bytes(b"PK\x03\x04 and nothing more")
    with zipfile.ZipFile(root / "bad.zip", "w") as archive:
        archive.write(paths[1], "x")
    content = bytearray((root / "bad.zip").read_bytes())
    content[700:1300] = bytes(600)
    (root / "bad.zip").write_bytes(content)
    result = scan(tmp_path)
    assert result.stacks == []
    assert {path: code for path, (code, _) in names(result).items()} == {
        "half.gz": "E_DAMAGED",
        "no.zip": "E_DAMAGED",
        "bad.zip/x": "E_DAMAGED",
    }


def test_links_stay_inside(tmp_path):
    root = tmp_path / "raw"
    outside = write_series(tmp_path / "outside", voxels(), number=9)
    paths = write_series(root / "a", voxels())
    (root / "b").mkdir()
    (root / "b" / "inside").symlink_to(paths[0])
    (root / "b" / "out").symlink_to(outside[0])
    (root / "b" / "folder").symlink_to(tmp_path / "outside")
    (root / "b" / "nothing").symlink_to(root / "gone")
    (root / "a" / "loop").symlink_to(root)
    result = scan(tmp_path)
    assert [stack.facts.series_number for stack in result.stacks] == [1]
    assert names(result) == {
        "b/out": ("E_LINK", "a link out of the input folder"),
        "b/folder": ("E_LINK", "a link out of the input folder"),
        "b/nothing": ("E_LINK", "a link to nothing"),
    }


def test_processes_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "_CHUNK", 5)
    for number in (1, 2, 3):
        write_series(tmp_path / "raw" / str(number), voxels(number), number=number)
    (tmp_path / "raw" / "note").write_text("text")
    alone, together = scan(tmp_path), scan(tmp_path, processes=2)
    assert (alone.stacks, alone.skipped) == (together.stacks, together.skipped)
    assert len(alone.stacks) == 3


def test_a_process_that_dies_costs_its_files(tmp_path, monkeypatch):
    write_series(tmp_path / "raw", voxels())
    monkeypatch.setattr(scan_module, "_read_chunk", scanner.die)
    result = scan(tmp_path, processes=2)
    assert len(result.skipped) == 8
    assert {skipped.code for skipped in result.skipped} == {"E_CRASH"}


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        scan(tmp_path)


def test_without_pydicom(tmp_path, monkeypatch):
    path = one(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"pip install 'amae-nnunet\[dicom\]'"):
        header(path)


def test_an_archive_alone_can_be_given(tmp_path):
    write_series(tmp_path / "raw", voxels())
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for path in (tmp_path / "raw").iterdir():
            archive.write(path, path.name)
    (stack,) = scan_dicom(tmp_path / "raw.zip").stacks
    assert (stack.code, stack.folder, len(stack.files)) == ("", ".", 8)
