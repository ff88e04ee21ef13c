"""The header of a DICOM file, as one record for each slice that it holds.

A classic file holds one slice. A multi-frame file holds one for each frame, whose tags are spread
over the file, its shared and its per-frame functional groups; all are looked up alike. A Siemens
mosaic is one record, too. Pixels are not read, but it is checked that they are all there.
pydicom is an optional dependency and is imported when a header is read. Not in the paper.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import IO, TYPE_CHECKING, Any

from amae_nnunet.convert.dicom import vendor
from amae_nnunet.convert.dicom.stack import Facts
from amae_nnunet.errors import ConfigError
from amae_nnunet.unpack import TooLarge, check_deflated

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "EnhancedMR",
    "1.2.840.10008.5.1.4.1.1.4.4": "LegacyEnhancedMR",
}
_ENDINGS = (".dcm", ".ima")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_GROUP_LENGTH = b"DICM\x02\0\0\0UL\x04\0"  # after it, how long the file's own facts are
_MAX_VALUE = 256 << 20  # bytes of a value; functional groups of thousands of frames have a few MB
_MAX_DEFLATED = 4 << 30  # bytes of a file, as many as DICOM's lengths can count
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_PIXELS = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
_ITEM, _END_OF_ITEMS, _UNDEFINED = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD), 0xFFFFFFFF
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "FrameOfReferenceUID", "Modality", "Manufacturer", "ImageType", "FrameType",
    "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "ImageComments",
    "BodyPartExamined", "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType",
    "AcquisitionContrast", "ContrastBolusAgent", "ComplexImageComponent", "SamplesPerPixel",
    "BitsAllocated", "BurnedInAnnotation", "MagneticFieldStrength", "EchoTime",
    "EffectiveEchoTime", "RepetitionTime", "InversionTime", "InversionTimes", "FlipAngle",
    "DiffusionBValue", "DiffusionDirectionality", "DiffusionGradientOrientation", "SeriesNumber",
    "InstanceNumber", "ImagesInAcquisition", "AcquisitionTime", "AcquisitionDateTime",
    "FrameAcquisitionDateTime", "Rows", "Columns", "NumberOfFrames", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices",
)  # fmt: skip


class NotAnImage(Exception):
    """A file that was never meant to be an image: not DICOM, a directory, a report."""


class Damaged(Exception):
    """A DICOM image that is cut short or cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What is known of one slice.

    Attributes:
        path: on disk. member: inside a zip archive, else empty.
        frame: 0-based frame of a multi-frame file, -1 if the file is the slice.
        study, patient, series, instance_uid: UIDs, and PatientID.
        series_number, instance: SeriesNumber, InstanceNumber. time: ``HHMMSS.ffffff``.
        size: columns, rows. spacing: mm between columns and between rows, None if not given.
        gap: mm from slice to slice as the header says, which is often not true; None if absent.
        position, orientation: LPS+ mm, and two directions; None if not given.
        mosaic: slices in a mosaic, 0 for other images, -1 if unknown. normal: the direction of
            the next one, LPS+, None if unknown.
        expected: slices of the volume, as the scanner says, 0 if unknown.
        acquired: images of the acquisition, likewise.
        code: why it cannot be used (a key of ``CODES``), empty if it can.
        problem: the same in a few words.
        facts: the rest, without what only the whole stack can tell.
    """

    path: str
    member: str
    frame: int
    study: str
    patient: str
    series: str
    instance_uid: str
    series_number: int
    instance: int
    time: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    gap: float | None
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    mosaic: int
    normal: tuple[float, ...] | None
    expected: int
    acquired: int
    code: str
    problem: str
    facts: Facts


def read_header(stream: IO[bytes], path: str, member: str = "") -> list[Slice]:
    """The slices of one DICOM file, in frame order.

    Raises:
        NotAnImage: it is not DICOM, or DICOM without an image.
        Damaged: its header cannot be read to the end.
        ConfigError: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise ConfigError(
            "DICOM needs pydicom and dcm2niix: pip install 'amae-nnunet[dicom]'"
        ) from None

    _check_start(stream, member or path)
    _check_deflated(stream)
    try:
        with silent_pydicom():
            header = pydicom.dcmread(
                stream, _MAX_VALUE, stop_before_pixels=True, force=True,
                specific_tags=_wanted_tags(),
            )  # fmt: skip
            _check_lengths(header)
            problem = _pixel_damage(stream, header)
            frames = _frames(header)
            return [
                _slice(parts, path, member, index if len(frames) > 1 else -1, problem)
                for index, parts in enumerate(frames)
            ]
    except (NotAnImage, Damaged):
        raise
    except Exception as error:  # a damaged header makes pydicom raise nearly anything
        raise Damaged(f"its header cannot be read ({type(error).__name__})") from None


@contextmanager
def silent_pydicom() -> Iterator[None]:
    """Let pydicom take any value, and say nothing of it: its warnings hold text of the header."""
    from pydicom import config

    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


@cache
def _wanted_tags() -> list[int]:
    private = [group << 16 | element for group, element in vendor.PRIVATE_TAGS]
    return [*map(_tag, _KEYWORDS), _SHARED, _PER_FRAME, *private]


@cache
def _tag(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def _check_start(stream: IO[bytes], name: str) -> None:
    """Refuse what does not start like DICOM, with or without preamble; the stream is rewound.

    Raises:
        NotAnImage: it does not.
        Damaged: it does not, and it is called DICOM, or is empty or zeros under a name with digits,
            as failed copies are.
    """
    start = stream.read(132)
    stream.seek(0)
    # Without a preamble, the first tag is of group 2 or 8, and its length or type is plausible.
    bare = len(start) == 132 and start[:2] in (b"\x02\0", b"\x08\0") and start[3] == 0
    if start[128:] == b"DICM" or bare:
        return
    name = name.rpartition("/")[2].lower().removesuffix(".gz")
    lost = not start.strip(b"\0") and any(sign.isdigit() for sign in name)
    if name.endswith(_ENDINGS) or lost:
        raise Damaged("it does not start like DICOM" if start else "it is empty")
    raise NotAnImage("not DICOM")


def _check_deflated(stream: IO[bytes]) -> None:
    """Refuse a deflated file that unpacks to more than an image; the stream is rewound.

    pydicom unpacks it whole, however large it is.

    Raises:
        Damaged: it does.
    """
    start = stream.read(1024)
    if start[128:140] == _GROUP_LENGTH and _DEFLATED.encode() in start:
        stream.seek(144 + int.from_bytes(start[140:144], "little"))
        try:
            check_deflated(stream, _MAX_DEFLATED)
        except (TooLarge, zlib.error) as error:
            raise Damaged(str(error)) from None
    stream.seek(0)


def _check_lengths(header: Dataset) -> None:
    """Refuse a header with a value that was too long to be read.

    Raises:
        Damaged: it has one.
    """
    for tag in header.keys():  # noqa: SIM118  its values may be unread
        element = header.get_item(tag, keep_deferred=True)
        if element.value is None and getattr(element, "length", 0) > 0:
            raise Damaged("a value of its header is longer than any")


def _pixel_damage(stream: IO[bytes], header: Dataset) -> str:
    """What is wrong with the pixels, empty if they are all there.

    Raises:
        NotAnImage: the file is complete, and holds no image.
        Damaged: the file ends before it says which series it is of.
    """
    if header.file_meta.get("TransferSyntaxUID") == _DEFLATED:
        return "it is deflated, which dcm2niix cannot read: undo that (dcmconv +te IN OUT)"
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    start = stream.read(12)
    if len(start) < 12 or struct.unpack(f"{order}HH", start[:4]) not in _PIXELS:
        sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
        if not any(known.startswith(str(sop_class)) for known in _SOP_CLASSES):  # may be cut, too
            raise NotAnImage("DICOM without an image")
        if "SeriesInstanceUID" in header and "InstanceNumber" in header:
            return "it ends before its pixels"
        raise Damaged("it ends in its header")
    if implicit:
        stream.seek(-4, os.SEEK_CUR)
    (length,) = struct.unpack(f"{order}I", start[4:8] if implicit else start[8:])
    if length == _UNDEFINED:
        return "" if _fragments_are_complete(stream) else "its compressed pixels are cut short"
    bits = int(header.get("BitsAllocated") or 0) * int(header.get("SamplesPerPixel") or 1)
    pixels = int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
    needed = pixels * bits * int(header.get("NumberOfFrames") or 1) // 8
    if length < needed or not _reaches(stream, needed):
        return "its pixels are cut short"
    return ""


def _fragments_are_complete(stream: IO[bytes]) -> bool:
    """Whether compressed pixels, which come in pieces, are there up to their end mark."""
    while len(start := stream.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", start)
        if (group, element) != _ITEM:
            return (group, element) == _END_OF_ITEMS
        if not _reaches(stream, length):
            return False
    return False


def _reaches(stream: IO[bytes], length: int) -> bool:
    """Go forward; whether the stream is that long."""
    if not length:
        return True
    stream.seek(length - 1, os.SEEK_CUR)
    return len(stream.read(1)) == 1


def _frames(header: Dataset) -> list[list[Dataset]]:
    """For each frame, the parts in which its tags may be, the first one that has it wins."""
    if _PER_FRAME not in header:
        return [[header]]
    groups = header[_SHARED].value if _SHARED in header else []
    shared = [item for group in groups for item in _items(group)]
    return [[*_items(group), *shared, header] for group in header[_PER_FRAME].value]


def _items(group: Dataset) -> list[Dataset]:
    """The first item of each functional group: standard ones before those of makers."""
    sequences = [element for element in group if element.VR == "SQ" and element.value]
    sequences.sort(key=lambda element: bool(element.tag.is_private))
    return [element.value[0] for element in sequences]


def _slice(parts: list[Dataset], path: str, member: str, frame: int, problem: str) -> Slice:
    get = partial(_lookup, parts)
    code = "E_DAMAGED" if problem else ""
    frames = _whole(get("NumberOfFrames"))
    if frames > 1 and frame < 0:
        code, problem = "E_FRAMES", f"its {frames} frames are not described one by one"
    facts = _facts(get)
    mosaic = vendor.mosaic_slices(facts.manufacturer, facts.image_type, get)
    spacing = _numbers(get("PixelSpacing"), 2)
    time = _text(get("AcquisitionTime")) or _text(get("AcquisitionDateTime"))[8:]
    return Slice(
        path=path,
        member=member,
        frame=frame,
        study=_text(get("StudyInstanceUID")),
        patient=_text(get("PatientID")),
        series=_text(get("SeriesInstanceUID")),
        instance_uid=_text(parts[-1].get("SOPInstanceUID")),
        series_number=_whole(get("SeriesNumber")),
        instance=_whole(parts[-1].get("InstanceNumber")),
        time=time or _text(get("FrameAcquisitionDateTime"))[8:],
        size=(_whole(get("Columns")), _whole(get("Rows"))),
        spacing=None if spacing is None else (spacing[1], spacing[0]),
        gap=_number(get("SpacingBetweenSlices")) or _number(get("SliceThickness")),
        position=_numbers(get("ImagePositionPatient"), 3),
        orientation=_numbers(get("ImageOrientationPatient"), 6),
        mosaic=mosaic,
        normal=vendor.mosaic_normal(get) if mosaic else None,
        expected=vendor.expected_slices(facts.manufacturer, get),
        acquired=_whole(get("ImagesInAcquisition")),
        code=code,
        problem=problem,
        facts=facts,
    )


def _facts(get: vendor.Lookup) -> Facts:
    manufacturer = vendor.manufacturer_of(_text(get("Manufacturer")))
    more = vendor.image_type_text(manufacturer, get)
    image_type = tuple(dict.fromkeys([*_words(get("FrameType") or get("ImageType")), *more]))
    sequence_name = _text(get("SequenceName") or get("PulseSequenceName"))
    b_value, directionality = vendor.diffusion_of(manufacturer, image_type, sequence_name, get)
    sop_class = _text(get("SOPClassUID"))
    acquisition_type = _text(get("MRAcquisitionType")).upper()
    inversion_time = _number(get("InversionTime"))
    return Facts(
        modality=_text(get("Modality")).upper(),
        sop_class=_SOP_CLASSES.get(sop_class, sop_class),
        manufacturer=manufacturer,
        image_type=image_type,
        series_description=_text(get("SeriesDescription")),
        protocol_name=_text(get("ProtocolName")),
        sequence_name=sequence_name,
        image_comments=_text(get("ImageComments")),
        body_part=_text(get("BodyPartExamined")),
        scanning_sequence=_words(get("ScanningSequence")),
        sequence_variant=_words(get("SequenceVariant")),
        scan_options=_words(get("ScanOptions")),
        acquisition_type=acquisition_type if acquisition_type in ("2D", "3D") else "",
        acquisition_contrast=_text(get("AcquisitionContrast")).upper(),
        contrast_agent=_text(get("ContrastBolusAgent")),
        component=vendor.component_of(manufacturer, image_type, get),
        samples_per_pixel=_whole(get("SamplesPerPixel")) or 1,
        burned_in=_text(get("BurnedInAnnotation")).upper() == "YES",
        field_strength=_number(get("MagneticFieldStrength")),
        echo_time=_number(get("EffectiveEchoTime") or get("EchoTime")),
        repetition_time=_number(get("RepetitionTime")),
        inversion_time=inversion_time or _number(get("InversionTimes")),
        flip_angle=_number(get("FlipAngle")),
        b_value=b_value,
        directionality=directionality,
        series_number=_whole(get("SeriesNumber")),
        frame_of_reference=_text(get("FrameOfReferenceUID")),
    )


def _lookup(parts: list[Dataset], name: str | tuple[int, int]) -> Any:
    """The value of a tag in the first part that has one; None if none has, or it is not valid."""
    tag = _tag(name) if isinstance(name, str) else name[0] << 16 | name[1]
    for part in parts:
        if tag in part:
            try:
                value = part[tag].value
            except (ValueError, TypeError, ArithmeticError):
                continue
            if value is not None and value != "" and value != []:
                return value
    return None


def _text(value: Any) -> str:
    """One line of text, values joined by a backslash as in DICOM."""
    if value is None:
        return ""
    several = not isinstance(value, str) and isinstance(value, Iterable)
    text = "\\".join(map(str, value)) if several else str(value)
    return " ".join(text.replace("\0", " ").split())


def _words(value: Any) -> tuple[str, ...]:
    text = _text(value).upper()
    return tuple(word.strip() for word in text.split("\\")) if text else ()


def _number(value: Any) -> float | None:
    first = _text(value).split("\\")[0]
    try:
        number = float(first)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int:
    return int(_number(value) or 0)


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers, else None."""
    numbers = [_number(item) for item in _text(value).split("\\")]
    found = tuple(number for number in numbers if number is not None)
    return found if len(found) == len(numbers) == count else None
