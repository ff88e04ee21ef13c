"""A scanner for the tests: DICOM files of known voxels and geometry, classic or multi-frame.

    write_series(folder, voxels, description="t1_mprage", echo_time=3.0)        one file a slice
    write_series(folder, voxels, image_type=TRACE, b=1000, directionality="isotropic")
    write_enhanced(folder / "x.dcm", [Frames(voxels), Frames(other, b=1000.0)])  one file for all

Voxels are ``(x, y, z)`` int16 or uint16, the affine goes to RAS+ mm, both as in NIfTI: reading a
written series back must give the same array and the same affine. The columns of the affine may be
oblique but must be orthogonal and right-handed, since a scanner counts slices along the normal.
Study, series and patient are any words; ``uid`` makes the same UID of the same words each time.
``canary`` puts a marker into every text tag that the other arguments leave free. Any DICOM keyword
can be given as well (``InversionTime=2500``, ``ContrastBolusAgent="GADOLINIUM"``); None removes it.
"""

import os
import shutil
import struct
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    generate_uid,
)

AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2.0, 0, 12], [0, 0, 3.0, -7], [0, 0, 0, 1]])
MAGNITUDE = "ORIGINAL\\PRIMARY\\M\\ND"
TRACE = "DERIVED\\PRIMARY\\DIFFUSION\\TRACEW\\ND"
ADC = "DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND"
#: Tags of every text representation; ``canary`` fills them all.
TEXT_TAGS = (
    "PatientName", "PatientID", "PatientBirthName", "PatientAddress", "PatientComments",
    "OtherPatientIDs", "EthnicGroup", "Occupation", "AdditionalPatientHistory", "MedicalAlerts",
    "Allergies", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
    "StationName", "DeviceSerialNumber", "ManufacturerModelName", "SoftwareVersions",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord",
    "RequestingPhysician", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription",
    "ProtocolName", "SequenceName", "ImageComments", "PerformedProcedureStepDescription",
    "PerformedProcedureStepID", "RequestedProcedureDescription", "RequestedProcedureID",
    "BodyPartExamined", "ScanOptions", "DerivationDescription", "ContrastBolusAgent",
    "ReceiveCoilName", "TransmitCoilName", "PulseSequenceName", "AcquisitionContrast",
    "AcquisitionComments",
)  # fmt: skip
_PRIVATE = {  # creator of each vendor's private block
    "SIEMENS": (0x0019, "SIEMENS MR HEADER"),
    "Philips Medical Systems": (0x2001, "Philips Imaging DD 001"),
    "GE MEDICAL SYSTEMS": (0x0043, "GEMS_PARM_01"),
    "UIH": (0x0065, "Image Private Header"),
}
_DIRECTIONALITY = {"none": "NONE", "isotropic": "ISOTROPIC", "directional": "DIRECTIONAL"}
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def uid(*words):
    """The same UID for the same words."""
    return generate_uid(entropy_srcs=[str(word) for word in words])


def write_series(
    folder,
    voxels,
    affine=AFFINE,
    *,
    patient="P1",
    study="S1",
    series=None,
    number=1,
    first=1,
    description="",
    image_type=MAGNITUDE,
    manufacturer="SIEMENS",
    echo_time=30.0,
    b=None,
    directionality="",
    canary="",
    names="IM{:04d}",
    **tags,
):
    """Write one classic MR file a slice and return the paths in slice order.

    Args:
        number: SeriesNumber; ``series`` (default: the number) makes the UID, so two calls of one
            series make the volumes of one series. ``first`` is the first InstanceNumber.
        b: s/mm2, written as the vendor does; ``directionality`` likewise, "" leaves it out.
        names: file name of slice ``{}``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = number if series is None else series
    what = (image_type, echo_time, b, directionality)
    paths = []
    for index in range(voxels.shape[2]):
        header = _header(patient, study, series, number, description, image_type, manufacturer)
        header.SOPClassUID = MRImageStorage
        header.InstanceNumber = first + index
        header.SOPInstanceUID = uid(study, series, header.InstanceNumber, affine.tobytes(), what)
        header.EchoTime = echo_time
        _geometry(header, voxels.shape, affine, index)
        _diffusion(header, manufacturer, b, directionality)
        _pixels(header, voxels[:, :, index].T)
        _finish(header, canary, tags)
        paths.append(_save(header, folder / names.format(first + index)))
    return paths


def write_mosaic(path, voxels, affine=AFFINE, *, count=True, normal=True, first=1, **options):
    """Write a Siemens mosaic; ``count`` and ``normal``: whether it says what its slices are."""
    columns, rows, slices = voxels.shape
    tiles = int(np.ceil(np.sqrt(slices)))
    mosaic = np.zeros((columns * tiles, rows * tiles, 1), voxels.dtype)
    for index in range(slices):
        row, column = divmod(index, tiles)
        x, y = column * columns, row * rows
        mosaic[x : x + columns, y : y + rows, 0] = voxels[:, :, index]
    corner = affine.copy()
    corner[:3, 3] -= affine[:3, :2] @ (np.array([columns, rows]) * (tiles - 1) / 2)
    options = {"image_type": "ORIGINAL\\PRIMARY\\M\\MOSAIC", **options}
    (made,) = write_series(path.parent, mosaic, corner, first=first, names=path.name, **options)
    dataset = pydicom.dcmread(made)
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    if count:
        block.add_new(0x0A, "US", slices)
    csa = {"NumberOfImagesInMosaic": [str(slices)]} if count else {}
    if normal:
        direction = (_TO_LPS @ affine)[:3, 2] / np.linalg.norm(affine[:3, 2])
        csa["SliceNormalVector"] = [f"{value:.8f}" for value in direction]
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", _csa(csa))
    dataset.save_as(made)
    return made


def _csa(tags):
    """Siemens' own header: for each tag a name, five numbers and six items."""
    content = b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, values in tags.items():
        content += struct.pack("<64si4siii", name.encode(), len(values), b"FD\0\0", 3, 6, 77)
        for value in [*values, *[""] * (6 - len(values))]:
            item = value.encode() + b"\0" * (4 - len(value) % 4) if value else b""
            length = len(value)
            content += (
                struct.pack("<iiii", length, length, 77, length) + item[: -(-length // 4) * 4]
            )
    return content


@dataclass
class Frames:
    """One volume of a multi-frame file: voxels and what its frames say."""

    voxels: np.ndarray
    b: float | None = None
    directionality: str = ""
    echo_time: float = 30.0
    frame_type: str = MAGNITUDE
    component: str = "MAGNITUDE"
    temporal: int = 1


def write_enhanced(
    path,
    volumes,
    affine=AFFINE,
    *,
    patient="P1",
    study="S1",
    series=None,
    number=1,
    description="",
    image_type=MAGNITUDE,
    manufacturer="SIEMENS",
    legacy=False,
    slice_first=False,
    canary="",
    **tags,
):
    """Write a list of ``Frames`` as one Enhanced (or Legacy Converted Enhanced) MR file.

    Args:
        slice_first: all volumes of slice 0, then of slice 1, ...; else volume after volume.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    series = number if series is None else series
    header = _header(patient, study, series, number, description, image_type, manufacturer)
    header.SOPClassUID = LegacyConvertedEnhancedMRImageStorage if legacy else EnhancedMRImageStorage
    header.SOPInstanceUID = uid(study, series, path.name)
    header.InstanceNumber = 1
    slices = volumes[0].voxels.shape[2]
    order = [(volume, index) for volume in volumes for index in range(slices)]
    if slice_first:
        order = [(volume, index) for index in range(slices) for volume in volumes]
    header.NumberOfFrames = len(order)
    header.SharedFunctionalGroupsSequence = [Dataset()]
    header.PerFrameFunctionalGroupsSequence = [
        _frame(volume, index, affine, legacy) for volume, index in order
    ]
    numbers = {id(volume): number for number, volume in enumerate(volumes, 1)}
    for frame, (volume, index) in zip(header.PerFrameFunctionalGroupsSequence, order, strict=True):
        where = [1, index + 1, numbers[id(volume)]]
        frame.FrameContentSequence[0].DimensionIndexValues = where
    _pixels(header, np.stack([volume.voxels[:, :, index].T for volume, index in order]))
    _finish(header, canary, tags)
    return _save(header, path)


def edit(path, **tags):
    """Change tags of a written file; None removes one."""
    dataset = pydicom.dcmread(path)
    _finish(dataset, "", tags)
    dataset.save_as(path)
    return path


def strip_preamble(path):
    """Leave out preamble and file meta, as some old exports do."""
    content = path.read_bytes()
    dataset = pydicom.dcmread(path)
    length = dataset.file_meta.FileMetaInformationGroupLength
    path.write_bytes(content[128 + 4 + 12 + length :])
    return path


def cut(path, size):
    """Keep the first ``size`` bytes of a file (negative: leave out the last)."""
    path.write_bytes(path.read_bytes()[:size])
    return path


def copy_as(path, target, **tags):
    """A copy of a file with other tags."""
    shutil.copyfile(path, target)
    return edit(target, **tags)


def rotation(*degrees):
    """A rotation about x, then y, then z, ``(3, 3)``."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        turn[[i, i, j, j], [i, j, i, j]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        matrix = turn @ matrix
    return matrix


def turned(*degrees, spacing=(2.0, 2.0, 3.0), origin=(10.0, 12.0, -7.0)):
    """An oblique affine."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(*degrees) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def die(*_):
    """Take the place of a function whose process is to die."""
    os._exit(1)


def _header(patient, study, series, number, description, image_type, manufacturer):
    header = Dataset()
    header.PatientID = header.PatientName = patient
    header.StudyInstanceUID = uid("study", study)
    header.SeriesInstanceUID = uid("series", study, series)
    header.FrameOfReferenceUID = uid("frame", study)
    header.Modality = "MR"
    header.Manufacturer = manufacturer
    header.SeriesNumber = number
    header.SeriesDescription = header.ProtocolName = description
    header.ImageType = image_type
    header.StudyDate = header.AcquisitionDate = "20200102"
    header.AcquisitionTime = f"1000{number % 60:02d}.000000"
    header.MRAcquisitionType = "2D"
    header.ScanningSequence = "SE"
    header.SequenceVariant = "SK"
    header.ScanOptions = "FS"
    header.RepetitionTime = 5000.0
    header.FlipAngle = 90.0
    header.MagneticFieldStrength = 3.0
    header.BodyPartExamined = "BRAIN"
    header.PatientPosition = "HFS"
    return header


def _geometry(header, shape, affine, index):
    axes = (_TO_LPS @ affine)[:3]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    position = axes @ [0, 0, index, 1]
    directions = axes[:, :3] / spacing
    header.ImagePositionPatient = [f"{value:.8f}" for value in position]
    header.ImageOrientationPatient = [f"{value:.10f}" for value in directions[:, :2].T.ravel()]
    header.PixelSpacing = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"]
    header.SliceThickness = header.SpacingBetweenSlices = f"{spacing[2]:.8f}"
    header.Columns, header.Rows = shape[:2]


def _diffusion(header, manufacturer, b, directionality):
    if b is None:
        return
    group, creator = _PRIVATE.get(manufacturer, (None, ""))
    if group is None:  # Canon, Hitachi, ...: the public tag alone
        header.DiffusionBValue = float(b)
        return
    block = header.private_block(group, creator, create=True)
    word = _DIRECTIONALITY.get(directionality)
    if creator.startswith("SIEMENS"):
        block.add_new(0x0C, "IS", int(b))
        if word:
            block.add_new(0x0D, "CS", word)
    elif creator.startswith("Philips"):
        block.add_new(0x03, "FL", float(b))
        if word:
            block.add_new(0x04, "CS", {"ISOTROPIC": "I", "NONE": "N", "DIRECTIONAL": "P"}[word])
    elif creator.startswith("GEMS"):
        block.add_new(0x39, "IS", [1_000_000_000 + int(b), 8, 0, 0])
        block.add_new(0x30, "SS", {"isotropic": 15, "none": 14, "directional": 3}[directionality])
    else:
        block.add_new(0x09, "FD", float(b))


def _frame(volume, index, affine, legacy):
    geometry = Dataset()
    _geometry(geometry, volume.voxels.shape, affine, index)
    groups = {
        "PlanePositionSequence": {"ImagePositionPatient": geometry.ImagePositionPatient},
        "PlaneOrientationSequence": {"ImageOrientationPatient": geometry.ImageOrientationPatient},
        "PixelMeasuresSequence": {
            "PixelSpacing": geometry.PixelSpacing,
            "SliceThickness": geometry.SliceThickness,
            "SpacingBetweenSlices": geometry.SpacingBetweenSlices,
        },
        "FrameContentSequence": {
            "StackID": "1",
            "InStackPositionNumber": index + 1,
            "TemporalPositionIndex": volume.temporal,
        },
    }
    if legacy:
        groups["UnassignedPerFrameConvertedAttributesSequence"] = {
            "EchoTime": volume.echo_time,
            **({} if volume.b is None else {"DiffusionBValue": volume.b}),
        }
    else:
        groups["MREchoSequence"] = {"EffectiveEchoTime": volume.echo_time}
        groups["MRImageFrameTypeSequence"] = {
            "FrameType": volume.frame_type,
            "ComplexImageComponent": volume.component,
        }
        if volume.b is not None:
            word = _DIRECTIONALITY.get(volume.directionality)
            groups["MRDiffusionSequence"] = {
                "DiffusionBValue": float(volume.b),
                **({"DiffusionDirectionality": word} if word else {}),
            }
    frame = Dataset()
    for name, tags in groups.items():
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        setattr(frame, name, Sequence([item]))
    return frame


def _pixels(header, pixels):
    """``pixels``: (rows, columns), or (frames, rows, columns)."""
    header.Rows, header.Columns = pixels.shape[-2:]
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = int(pixels.dtype.kind == "i")
    header.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()


def _finish(header, canary, tags):
    for keyword in TEXT_TAGS if canary else ():
        if not header.get(keyword):
            setattr(header, keyword, canary)
    for keyword, value in tags.items():
        if value is not None:
            setattr(header, keyword, value)
        elif keyword in header:
            delattr(header, keyword)


def _save(header, path):
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path, enforce_file_format=True)
    return path
