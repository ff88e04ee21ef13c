"""An existing raw data set of nnU-Net as input: its channels by name, its placeholders absent.

The channel names of ``dataset.json`` say which contrast each file is. A channel that is zero
everywhere stands for an absent contrast; with a ``contrasts.json`` that record says so, and names
subjects and splits too. Not in the paper.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from amae_nnunet.contrasts import FILE_NAME, ContrastRecord
from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.found import Found
from amae_nnunet.convert.scan import case_id, check_inside, refuse_clashes
from amae_nnunet.convert.source import NiftiFile, RawCase
from amae_nnunet.convert.template import Template
from amae_nnunet.errors import InputError
from amae_nnunet.parse import parse_json
from amae_nnunet.unpack import MAX_BYTES

_ENDINGS = (".nii.gz", ".nii")
_FOLDERS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))
_BLOCK = 1 << 20
#: What other groups call the contrasts, letters and digits only.
_NAMES = {
    "ADC": (),
    "T1": ("t1w", "t1n"),
    "T1CE": ("t1c", "t1gd", "t1gad", "t1post", "t1km"),
    "T2": ("t2w",),
    "FLAIR": ("t2flair", "t2f"),
    "TRACE": ("dwi", "isodwi", "b1000"),
    "SWI": (),
    "GRE": ("t2star", "t2starw", "t2s"),
    "PD": ("pdw",),
}


@dataclass(frozen=True)
class RawDataset:
    """What ``dataset.json`` says.

    Attributes:
        root: the folder that holds it.
        name: letters, digits, ``_``, ``-``.
        channels: their names, in order.
        labels: name -> value; empty if the labels are regions.
        ending: of the image files, ``.nii.gz`` or ``.nii``.
    """

    root: Path
    name: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    ending: str


def read_dataset(root: Path) -> RawDataset:
    """Read ``dataset.json``.

    Raises:
        InputError: it is not there, or not one that can be converted.
    """
    path = root / "dataset.json"
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        names = content["channel_names"]
        channels = tuple(str(names[str(index)]) for index in range(len(names)))
        labels, ending = dict(content["labels"]), content["file_ending"]
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder DatasetXXX_NAME") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not that of an nnU-Net v2 data set ({error!r})") from None
    if ending not in _ENDINGS or "dataset" in content:
        raise InputError(
            f"{path}: only .nii.gz and .nii in imagesTr and imagesTs are read here, not {ending} "
            "or a list of files: write a table"
        )
    plain = all(type(value) is int for value in labels.values())
    name = re.sub(r"[^A-Za-z0-9_-]", "-", re.sub(r"^Dataset\d{3}_", "", root.resolve().name))
    return RawDataset(root, name, channels, labels if plain else {}, ending)


def contrast_of_channel(channel: str, wanted: Collection[str] = ()) -> str:
    """The contrast a channel's name stands for: itself if it is wanted, or else known by it."""
    short = re.sub(r"[^a-z0-9]", "", channel.lower().replace("*", "star"))
    known = (name for name, others in _NAMES.items() if short in (name.lower(), *others))
    return channel if channel in wanted else next(known, channel)


def scan_dataset(root: Path, template: Template) -> list[RawCase]:
    """List the cases of a raw data set: those of ``imagesTr``, then those of ``imagesTs``.

    Raises:
        InputError: ``dataset.json`` or ``contrasts.json`` cannot be used, or there is no case.
    """
    dataset = read_dataset(root)
    record = _read_record(dataset)
    cases: list[RawCase] = []
    for images, labels, split in _FOLDERS:
        files: dict[str, dict[int, Path]] = {}
        for path in sorted((root / images).iterdir()) if (root / images).is_dir() else ():
            name = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(dataset.ending)}", path.name)
            if name:
                files.setdefault(name[1], {})[int(name[2])] = path
            elif path.name.endswith(_ENDINGS) and path.name[0] != ".":
                cases.append(_misnamed(path, dataset))
        split = split if split == "test" or (root / labels).is_dir() else "unlabeled"
        for case, channels in files.items():
            found = Found(case_id(case), f"{images}/{case}", case_id(case), split)
            label = root / labels / f"{case}{dataset.ending}"
            cases.append(_scan_case(case, channels, label, found, dataset, record, template))
    if not cases:
        raise InputError(f"{root} has no case in imagesTr or imagesTs")
    return refuse_clashes(cases)


def _read_record(dataset: RawDataset) -> ContrastRecord | None:
    if not (dataset.root / FILE_NAME).is_file():
        return None
    record = ContrastRecord.read(dataset.root)
    if record.contrasts != dataset.channels:
        raise InputError(
            f"{dataset.root}: {FILE_NAME} lists {', '.join(record.contrasts)} but dataset.json "
            f"{', '.join(dataset.channels)}: one of them was edited, correct it"
        )
    return record


def _misnamed(path: Path, dataset: RawDataset) -> RawCase:
    name = f"{path.parent.name}/{path.name}"
    case = case_id(path.name)
    problem = f"{name} is not named CASE_0000{dataset.ending}: rename or remove it"
    return RawCase(case, name, case, code="E_NAME", problem=problem)


def _scan_case(
    case: str,
    channels: Mapping[int, Path],
    label: Path,
    found: Found,
    dataset: RawDataset,
    record: ContrastRecord | None,
    template: Template,
) -> RawCase:
    entry = record.cases.get(case) if record else None
    if entry:
        found.subject, found.split = entry.subject, entry.split
    root = dataset.root.resolve()
    wanted = {name for names in template.accepts.values() for name in names}
    try:
        for channel, path in channels.items():
            check_inside(path, path.parent, root)
            file = NiftiFile(path, path.name)
            if channel >= len(dataset.channels):
                found.reject(file.name, "dataset.json has no such channel")
            elif entry.present[channel] if entry else not is_placeholder(path):
                found.add(contrast_of_channel(dataset.channels[channel], wanted), file)
        if label.exists() or label.is_symlink():
            check_inside(label, label.parent, root)
            found.labels.append(NiftiFile(label, label.name))
    except CaseError as error:
        found.problem = error
    return found.raw_case(template, "add its channel file")


def is_placeholder(path: Path) -> bool:
    """Whether all voxels are stored as zero; reads no further than the first that is not.

    A file that cannot be read is none: the conversion says what is wrong with it.
    """
    try:
        image = nib.load(path)
        size = math.prod(image.shape) * image.get_data_dtype().itemsize
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            file.seek(image.dataobj.offset)
            while 0 < size <= MAX_BYTES and (block := file.read(_BLOCK)):
                size -= len(block)
                if block.strip(b"\0"):
                    return False
    except (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError):
        return False
    return size <= 0 and image.dataobj.inter == 0
