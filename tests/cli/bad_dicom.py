"""Bad DICOM inputs. Each function gets the folder of a study that holds a good T2, and adds a T1.

The T2 is required and gives the grid, so that every voxel of a good T1 is written as it is.
"""

import gzip
import shutil
import zipfile

import numpy as np
import pydicom
from cli.bad_inputs import APART, DOUBTED, FAILS, IGNORED, MISSING, RIGHT, WARNS, Rows
from convert.dicom.scanner import (
    TRACE,
    Frames,
    copy_as,
    cut,
    edit,
    strip_preamble,
    turned,
    uid,
    write_enhanced,
    write_mosaic,
    write_series,
)
from convert.studies import save, voxels
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

SHAPE = (12, 10, 10)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2.0, 0, 12], [0, 0, 7.0, -7], [0, 0, 0, 1]])
GOOD = {"T1": voxels(0, SHAPE), "T2": voxels(1, SHAPE)}
TEMPLATE = {
    "name": "Tiny",
    "contrasts": {"T1": ["T1.nii*"], "T2": ["T2.nii*"], "TRACE": ["TRACE.nii*"]},
    "required": ["T2"],
    "label": {"patterns": ["seg.nii*"], "labels": {"background": 0, "lesion": 1}},
}
DICOM = Rows()
row = DICOM.row


def t1(study, data=GOOD["T1"], affine=AFFINE, **options):
    """A T1 as series 2 in its own folder; paths in slice order."""
    usual = {"number": 2, "description": "t1_se_tra", "echo_time": 9.0, "RepetitionTime": 500.0}
    usual |= {"patient": study.name, "study": study.name}
    return write_series(study / "t1", data, affine, **usual | options)


def t2(study, data=GOOD["T2"], affine=AFFINE, **options):
    """A T2 as series 1, likewise."""
    usual = {"number": 1, "description": "t2_tse_tra", "echo_time": 90.0}
    usual |= {"patient": study.name, "study": study.name}
    return write_series(study / "t2", data, affine, **usual | options)


def without(*slices, source=GOOD["T1"]):
    """The volume in which some slices are zero."""
    data = source.copy()
    data[:, :, slices] = 0
    return data


def shift(path, *offset):
    """Move a slice, mm."""
    position = pydicom.dcmread(path).ImagePositionPatient
    edit(path, ImagePositionPatient=[f"{a + b:.6f}" for a, b in zip(position, offset, strict=True)])


# --- slices


@row(MISSING, "E_MISSING_SLICES", "slices 5 and 6 of 9 are 14.00 mm apart, others 7.00 mm")
def slice_gone(study):
    """A slice is missing inside a stack."""
    t1(study)[5].unlink()


@row(MISSING, "E_MISSING_SLICES", "are 21.00 mm apart")
def two_slices_gone(study):
    """Two slices are missing inside a stack."""
    paths = t1(study, voxels(0, (12, 10, 11)))
    paths[4].unlink()
    paths[5].unlink()


@row(WARNS, "W_SLICES_END", "9 slices were found where 10 are expected")
def first_slice_gone(study):
    """The first slice is missing, as the image numbers tell."""
    t1(study)[0].unlink()
    return {"T1": without(0)}


@row(WARNS, "W_SLICES_END", "9 slices were found where 10 are expected")
def last_slice_gone(study):
    """The last slice is missing, as the scanner's count tells."""
    t1(study, ImagesInAcquisition=10)[-1].unlink()
    return {"T1": without(9)}


@row(IGNORED)
def few_slices(study):
    """Fewer than 8 slices."""
    t1(study, GOOD["T1"][:, :, :7])


@row(MISSING, "E_FEW_SLICES", "one slice is no volume")
def one_slice(study):
    """A single slice."""
    t1(study, GOOD["T1"][:, :, :1])


@row(MISSING, "E_NONUNIFORM", "the distance between slices varies")
def uneven(study):
    """Slices at uneven distances."""
    shift(t1(study)[4], 0, 0, 1)


@row(MISSING, "E_SHEAR", "as by a tilted gantry")
def tilted(study):
    """Slices shifted against each other, as by a tilted gantry."""
    for index, path in enumerate(t1(study)):
        shift(path, 0, index, 0)


@row(MISSING, "E_SHEAR", "rows and columns are not at right angles")
def skewed(study):
    """Rows that are not at right angles to columns."""
    for path in t1(study):
        edit(path, ImageOrientationPatient=[1, 0, 0, 0.1, 0.995, 0])


@row(MISSING, "E_MATRIX", "has 10 x 10 pixels")
def other_matrix(study):
    """A slice of another size."""
    paths = t1(study)
    other = write_series(study.parent / "x", voxels(shape=(10, 10, 10)), AFFINE)
    pixels = pydicom.dcmread(other[3]).PixelData
    edit(paths[3], Columns=10, Rows=10, PixelData=pixels)
    shutil.rmtree(study.parent / "x")


@row(MISSING, "E_MATRIX", "pixels of 2.1 x 2.1 mm")
def other_pixel_size(study):
    """A slice with larger pixels."""
    edit(t1(study)[3], PixelSpacing=[2.1, 2.1])


@row(MISSING, "E_NO_GEOMETRY", "has no position or pixel spacing")
def no_position(study):
    """No positions."""
    for path in t1(study):
        edit(path, ImagePositionPatient=None, ImageOrientationPatient=None)


@row(MISSING, "E_NO_GEOMETRY", "the geometry of the images is not valid")
def zero_spacing(study):
    """Pixels of no size."""
    for path in t1(study):
        edit(path, PixelSpacing=[0, 0])


# --- files


@row(MISSING, "E_MISSING_SLICES", "14.00 mm apart", also="W_UNREADABLE")
def no_bytes(study):
    """An empty file in a series."""
    cut(t1(study)[5], 0)


@row(MISSING, "E_MISSING_SLICES", "14.00 mm apart", also="W_UNREADABLE")
def cut_header(study):
    """A file that ends in its header."""
    cut(t1(study)[5], 500)


@row(MISSING, "E_DAMAGED", "it ends before its pixels")
def cut_before_pixels(study):
    """A file that ends between header and pixels."""
    cut(t1(study)[5], -len(GOOD["T1"][:, :, 0].tobytes()) - 20)


@row(WARNS, "W_UNREADABLE", "3 files of a folder cannot be read: it is empty")
def empty_files_beside(study):
    """Empty files beside a whole series: nobody knows whether they were another one."""
    t1(study)
    for index in range(3):
        (study / "t1" / f"x{index}").touch()


@row(APART, "E_DAMAGED", "10 files of a folder cannot be read: it is empty")
def no_file_of_a_series(study):
    """No file of a series in its own folder can be read."""
    for path in t1(study):
        cut(path, 0)


@row(FAILS, "E_DAMAGED", "10 files of a folder cannot be read: it ends in its header (6)")
def no_file_of_a_study(study):
    """No file of a study can be read."""
    shutil.rmtree(study / "t2")
    for index, path in enumerate(t1(study)):
        cut(path, 500 if index < 6 else 0).rename(study / path.name)


@row(MISSING, "E_DAMAGED", "its pixels are cut short")
def cut_pixels(study):
    """A file that ends in its pixels."""
    cut(t1(study)[5], -100)


@row(MISSING, "E_DAMAGED", "its compressed pixels are cut short")
def cut_compressed(study):
    """A compressed file that ends in its pixels."""
    for path in t1(study):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)
    cut(path, -60)


@row(RIGHT)
def compressed(study):
    """Compressed pixels (RLE)."""
    for path in t1(study):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)


@row(MISSING, "E_DAMAGED", "it is deflated, which dcm2niix cannot read: undo that")
def deflated(study):
    """Files that are deflated as a whole (transfer syntax 1.2.840.10008.1.2.1.99)."""
    for path in t1(study):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)


@row(MISSING, "E_MISSING_SLICES", "14.00 mm apart", also="W_UNREADABLE")
def link_out(study):
    """A file that is a link out of the input folder: it is not read."""
    path = t1(study)[5]
    path.rename(study.parents[1] / "outside.dcm")
    path.symlink_to(study.parents[1] / "outside.dcm")


@row(RIGHT)
def loop_of_links(study):
    """A folder that links to itself."""
    t1(study)
    (study / "again").symlink_to(study)


@row(RIGHT)
def other_files(study):
    """Texts, pictures and a DICOMDIR between the files."""
    t1(study)
    for name in ("DICOMDIR", "readme.txt", "thumbs.jpg"):
        (study / "t1" / name).write_text("no image " * 50)


@row(RIGHT)
def packed_files(study):
    """Each file packed as `.dcm.gz`."""
    for path in t1(study):
        path.with_suffix(".dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


@row(RIGHT)
def no_preamble(study):
    """Files without preamble and file meta information, as some old exports."""
    for path in t1(study, names="{}.txt"):
        strip_preamble(path)


@row(RIGHT)
def hostile_archive(study):
    """A zip archive with members called `../../x` and `/x`."""
    with zipfile.ZipFile(study / "all.zip", "w") as archive:
        for index, path in enumerate(t1(study)):
            start = ("../../../hostile_", "/hostile_")[index % 2]
            archive.writestr(f"{start}{index}", path.read_bytes())
            path.unlink()


# --- the same twice


@row(WARNS, "W_DUPLICATES", "10 files were there twice")
def every_file_twice(study):
    """Every file is there twice."""
    for path in t1(study):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))


@row(WARNS, "W_DUPLICATES", "1 slices were there twice, pixel by pixel")
def slice_twice(study):
    """A slice is there twice under two UIDs, with the same pixels."""
    path = t1(study)[2]
    copy_as(path, path.with_name("again"), SOPInstanceUID=uid("new"), InstanceNumber=3)


@row(MISSING, "E_DUPLICATE_POSITION", "images 3 and 30 of the series lie at one position")
def two_slices_at_one_position(study):
    """Two slices lie at one position and differ."""
    path = t1(study)[2]
    other = {"SOPInstanceUID": uid("new"), "InstanceNumber": 30, "PixelData": bytes(240)}
    copy_as(path, path.with_name("again"), **other)


@row(MISSING, "E_4D", "2 volumes that no b-value, echo or kind of image tells apart")
def two_volumes(study):
    """Two volumes in one series that nothing tells apart."""
    t1(study)
    t1(study, voxels(5, SHAPE), first=11)


# --- several series


@row(RIGHT)
def one_folder(study):
    """All series in one folder, under names that say nothing."""
    for index, path in enumerate([*t1(study), *(study / "t2").iterdir()]):
        path.rename(study / f"{index * 7 % 20}")


@row(RIGHT)
def dual_echo(study):
    """Two echoes in one series: the T2 is the later one."""
    t1(study)
    shutil.rmtree(study / "t2")
    t2(study, voxels(8, SHAPE), echo_time=15.0, description="pd_t2_tse_tra", names="a{}")
    t2(study, description="pd_t2_tse_tra", first=11, names="b{}")


@row(RIGHT)
def b_values_and_directions(study):
    """b = 0, three directions and the trace image in one series: TRACE is the last one."""
    t1(study)
    kinds = [(0, "none"), *[(1000, "directional")] * 3, (1000, "isotropic")]
    for index, (b, direction) in enumerate(kinds):
        t1(
            study,
            voxels(20 + index, SHAPE),
            number=3,
            first=1 + 10 * index,
            names=f"d{index}-{{}}",
            description="ep2d_diff",
            image_type=TRACE if direction == "isotropic" else "ORIGINAL\\PRIMARY\\DIFFUSION\\NONE",
            b=b,
            directionality=direction,
        )
    return {"TRACE": voxels(24, SHAPE)}


@row(WARNS, "W_AMBIGUOUS", "T1: series 2 could be taken as well as 3")
def equally_good(study):
    """Two series that are equally good: the later number is taken; an error with `--strict`."""
    t1(study, voxels(9, SHAPE), AcquisitionTime="101500")
    t1(study, number=3, names="b{}", AcquisitionTime="101500")


@row(DOUBTED, "W_AMBIGUOUS", "series 2 may be T1 and was not taken")
def doubtful(study):
    """A series that is called like a contrast, and has an echo time of another."""
    t1(study, echo_time=60.0)


@row(WARNS, "W_FRAME", "T1 was not acquired in the position of the others")
def other_frame_of_reference(study):
    """The patient was positioned anew between two series."""
    t1(study, FrameOfReferenceUID=uid("another"))
    t1(study, number=3, names="b{}", description="ep2d_trace", image_type=TRACE, b=1000)
    return {"TRACE": GOOD["T1"]}


@row(WARNS, "W_B_VALUE", "TRACE has b = 3000 s/mm2")
def high_b_value(study):
    """The only trace image has an unusual b-value."""
    t1(study)
    t1(study, number=3, names="b{}", description="ep2d_trace", image_type=TRACE, b=3000)
    return {"TRACE": GOOD["T1"]}


@row(MISSING, "E_COVERAGE", "T1 covers 0.0% of the grid of T2")
def elsewhere(study):
    """An image of another place."""
    t1(study, affine=turned(0, 0, 0, origin=(500, 0, 0), spacing=(2, 2, 7)))


@row(FAILS, "E_REQUIRED", "no T2 (required) was recognised")
def no_required(study):
    """A required contrast is not there."""
    t1(study)
    shutil.rmtree(study / "t2")


@row(FAILS, "E_MISSING_SLICES", "T2: series 1: slices 5 and 6 of 9 are 14.00 mm apart")
def required_has_a_gap(study):
    """A required contrast lacks a slice."""
    t1(study)
    (study / "t2" / "IM0006").unlink()


# --- series that are no contrast


@row(IGNORED)
def secondary_capture(study):
    """A secondary capture in colour, called like a T1."""
    for path in t1(study, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"):
        edit(path, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, HighBit=7)
        edit(path, BitsStored=8, PlanarConfiguration=0, PixelData=bytes(360))


@row(IGNORED)
def colour(study):
    """A colour MR image, called like a T1."""
    for path in t1(study):
        edit(path, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, HighBit=7)
        edit(path, BitsStored=8, PlanarConfiguration=0, PixelData=bytes(360))


@row(IGNORED)
def computed_tomography(study):
    """A CT, called like a T1."""
    t1(study, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")


@row(IGNORED)
def burned_in(study):
    """Text burned into the pixels (BurnedInAnnotation)."""
    t1(study, BurnedInAnnotation="YES")


@row(IGNORED)
def phase(study):
    """A phase image, called like a T1."""
    t1(study, image_type="ORIGINAL\\PRIMARY\\P\\ND")


@row(IGNORED)
def localizer(study):
    """A localizer of three orientations, called like a T1."""
    for index, degrees in enumerate([(0, 0, 0), (90, 0, 0), (0, 90, 0)]):
        t1(study, affine=turned(*degrees, spacing=(2, 2, 7)), first=1 + 10 * index)


@row(IGNORED)
def projection(study):
    """A maximum intensity projection, called like a T1."""
    t1(study, image_type="DERIVED\\SECONDARY\\MIP")


@row(IGNORED)
def after_contrast_agent(study):
    """A T1 after contrast agent, where the template wants the one before."""
    t1(study, description="t1_se_tra post gd", ContrastBolusAgent="GADOLINIUM")


# --- voxels


@row(RIGHT)
def scale_of_each_slice(study):
    """Every slice has a scale and an offset of its own."""
    paths = t1(study)
    for index, path in enumerate(paths):
        edit(path, RescaleSlope=str(1 + index / 4), RescaleIntercept=str(-index))
    index = np.arange(SHAPE[2])
    return {"T1": (GOOD["T1"] * (1 + index / 4) - index).astype(np.float32)}


@row(RIGHT)
def unsigned(study):
    """uint16 voxels above 32767."""
    data = voxels(7, SHAPE).astype(np.uint16) * 65
    assert data.max() > 40000
    t1(study, data)
    return {"T1": data}


@row(RIGHT)
def negative(study):
    """Negative voxels."""
    t1(study, GOOD["T1"] - 2000)
    return {"T1": GOOD["T1"] - 2000}


@row(MISSING, "E_EMPTY", "has the value 0 everywhere")
def all_zero(study):
    """All voxels are 0, as in the file of an absent contrast."""
    t1(study, np.zeros(SHAPE, np.int16))


@row(RIGHT)
def feet_first(study):
    """The last slice first, from feet to head."""
    affine = AFFINE @ np.diag([1.0, -1, -1, 1])
    affine[:3, 3] = (AFFINE @ [0, SHAPE[1] - 1, SHAPE[2] - 1, 1])[:3]
    t1(study, GOOD["T1"][:, ::-1, ::-1], affine)


# --- multi-frame files


def enhanced(study, volumes, **options):
    usual = {"number": 2, "description": "t1_se_tra", "RepetitionTime": 500.0}
    usual |= {"patient": study.name, "study": study.name}
    return write_enhanced(study / "t1" / "x.dcm", volumes, AFFINE, **usual | options)


@row(RIGHT)
def multi_frame(study):
    """A multi-frame file with b = 0 and the trace image, slice by slice in turn."""
    t1(study)
    volumes = [
        Frames(voxels(20, SHAPE), b=0.0, directionality="none"),
        Frames(voxels(21, SHAPE), b=1000.0, directionality="isotropic", temporal=2),
    ]
    philips = {"description": "dwi", "manufacturer": "Philips", "slice_first": True}
    enhanced(study, volumes, number=3, **philips)
    return {"TRACE": voxels(21, SHAPE)}


@row(MISSING, "E_NOT_A_VOLUME", "dcm2niix made 12 x 10 x 20 where the headers promise one volume")
def multi_frame_echoes(study):
    """A multi-frame file whose echoes dcm2niix does not tell apart."""
    late = Frames(voxels(9, SHAPE), echo_time=80.0)
    enhanced(study, [Frames(GOOD["T1"], echo_time=9.0), late], slice_first=True)


@row(MISSING, "E_DAMAGED", "its pixels are cut short")
def multi_frame_cut(study):
    """A multi-frame file that ends in its pixels."""
    cut(enhanced(study, [Frames(GOOD["T1"], echo_time=9.0)]), -100)


@row(MISSING, "E_MISSING_SLICES", "14.00 mm apart")
def multi_frame_gap(study):
    """A multi-frame file in which a slice is missing."""
    path = enhanced(study, [Frames(GOOD["T1"], echo_time=9.0)])
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[5]
    dataset.NumberOfFrames = 9
    dataset.PixelData = dataset.PixelData[: 240 * 5] + dataset.PixelData[240 * 6 :]
    dataset.save_as(path)


@row(MISSING, "E_FRAMES", "its 10 frames are not described one by one")
def frames_without_description(study):
    """A multi-frame file that does not say where its frames lie."""
    path = enhanced(study, [Frames(GOOD["T1"], echo_time=9.0)], EchoTime=9.0)
    edit(path, PerFrameFunctionalGroupsSequence=None)


@row(MISSING, "E_FRAMES", "a mosaic that does not say how many slices it holds")
def mosaic(study):
    """A mosaic that does not say how many slices it holds."""
    usual = {"number": 2, "description": "t1_se_tra", "echo_time": 9.0, "RepetitionTime": 500.0}
    usual |= {"patient": study.name, "study": study.name}
    write_mosaic(study / "t1" / "x", GOOD["T1"], AFFINE, count=False, **usual)


# --- identity, text, labels


@row(RIGHT)
def hostile_text(study):
    """Names and descriptions like `../../x` and `$(touch x)`."""
    text = "t1 ../../../hostile $(touch hostile) `touch hostile` \"'|;\n\\0"
    t1(study, description=text, PatientName="../../hostile^x", StudyDescription=text)


@row(FAILS, "E_AMBIGUOUS", "2 patients share one StudyInstanceUID: name the cases")
def two_patients(study):
    """Two patients under one StudyInstanceUID."""
    t1(study, patient="another")


@row(FAILS, "E_AMBIGUOUS", "the files have no StudyInstanceUID: name the cases")
def no_study_uid(study):
    """Files without a StudyInstanceUID, so that studies cannot be told apart."""
    for path in [*t1(study), *(study / "t2").iterdir()]:
        edit(path, StudyInstanceUID="")


@row(FAILS, "E_AMBIGUOUS", "there are 2 labels of the case: leave one")
def two_labels(study):
    """Two labels of one study."""
    t1(study)
    for ending in (".nii", ".nii.gz"):
        label = np.zeros(SHAPE, np.uint8)
        save(study.parents[1] / "labels" / f"{uid('study', study.name)}{ending}", label, AFFINE)


@row(FAILS, "E_LABEL_GRID", "label lies on the grid of none of T1, T2")
def label_off_the_grid(study):
    """A label that lies on the grid of no image."""
    t1(study)
    affine = AFFINE + np.outer([0, 0, 1, 0], [0, 0, 0, 3])
    label = np.ones(SHAPE, np.uint8)
    save(study.parents[1] / "labels" / f"{uid('study', study.name)}.nii.gz", label, affine)
