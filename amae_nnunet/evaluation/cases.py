"""The cases to evaluate: their labels, and which contrasts each of them really had."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import AMAEError, ConfigError, InputError
from amae_nnunet.intact import check_complete, said
from amae_nnunet.subsets import Subset


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name: as its files have it.
        label: file of its label.
        had: names of its contrasts, in channel order; empty where that is unknown.
        images: the file of each of them.
    """

    name: str
    label: Path
    had: Subset = ()
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """What the voxels of labels and predictions mean, after a ``dataset.json``.

    Attributes:
        values: name -> the voxel values that belong to it, several for nnU-Net's regions.
        ignore: value of the voxels that count for nothing.
        ending: of the files.
        reader: nnU-Net's class that reads them.
    """

    values: Mapping[str, tuple[int, ...]]
    ignore: int | None
    ending: str
    reader: Callable[[], Any]

    @classmethod
    def of(cls, dataset_json: Mapping[str, Any], example: Path) -> Labels:
        """Read a ``dataset.json``.

        Args:
            dataset_json: its content.
            example: any of the label files.

        Raises:
            ConfigError: it has no label but the background.
        """
        values = {
            name: tuple(value) if isinstance(value, list) else (int(value),)
            for name, value in dataset_json["labels"].items()
        }
        ignore = values.pop("ignore", (None,))[0]
        values = {name: found for name, found in values.items() if found != (0,)}
        if not values:
            raise ConfigError("dataset.json names no label but background: give another -djfile")
        reader = determine_reader_writer_from_dataset_json(
            dict(dataset_json), str(example), verbose=False
        )
        return cls(values, ignore, dataset_json["file_ending"], reader)


def find_dataset_json(places: Sequence[Path]) -> dict[str, Any]:
    """The first ``dataset.json`` of these folders, their parents included.

    Args:
        places: folders, or files of that kind themselves.

    Raises:
        ConfigError: there is none.
        InputError: it cannot be read.
    """
    for place in places:
        candidates = [place, place / "dataset.json", place.parent / "dataset.json"]
        for path in filter(Path.is_file, candidates):
            try:
                content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                _ = content["labels"], content["file_ending"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path} is not nnU-Net's dataset.json ({error!r})") from None
            return content
    raise ConfigError("no dataset.json lies beside models, labels or images: give one with -djfile")


def present_contrasts(
    files: Mapping[str, Path], case: str, record: ContrastRecord | None, labels: Labels
) -> Subset:
    """The contrasts that a case really has: by the record, or by the voxels where it is not in it.

    Args:
        files: contrast -> file, in channel order; an absent contrast may have one, all zero. Where
            there are none, only the record can say.
        case: its name.
        record: of the data set, if there is one.
        labels: say how to read images.

    Raises:
        InputError: a file is missing that the record says is there, or is damaged; no contrast.
    """
    if record is not None and case in record.cases:
        had = record.names_present(case)
        missing = [name for name in had if files and name not in files]
        if missing:
            raise InputError(f"contrasts.json says that it has {missing[0]}: its file is missing")
        return had
    found = []
    for name, path in files.items():
        check_complete(path)
        try:
            voxels, _ = labels.reader().read_images((str(path),))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path.name} cannot be read ({said(error, path.parent)})") from None
        found += [name] if voxels.any() else []
    if files and not found:
        raise InputError("all its images are zero: there is nothing to predict from")
    return tuple(found)


def collect_cases(
    label_files: Mapping[str, Path],
    image_files: Mapping[str, Mapping[str, Path]],
    record: ContrastRecord | None,
    labels: Labels,
) -> tuple[list[Case], dict[str, str]]:
    """The cases that have a label, in the order of their names.

    Args:
        label_files: case -> file.
        image_files: case -> contrast -> file; empty where no images are given.
        record: of the data set, if there is one.
        labels: say how to read images.

    Returns:
        The cases, and why others cannot be evaluated.

    Raises:
        InputError: no case is left.
    """
    cases, failed = [], {}
    for name, label in sorted(label_files.items()):
        if image_files and name not in image_files:
            failed[name] = "it has a label and no images"
            continue
        try:
            files = image_files.get(name, {})
            had = present_contrasts(files, name, record, labels)
        except AMAEError as error:
            failed[name] = str(error)
            continue
        images = {contrast: files[contrast] for contrast in had if contrast in files}
        cases.append(Case(name, label, had, images))
    if not cases:
        reason = next(iter(failed.values()), "the folder of labels is empty")
        raise InputError(f"no case can be evaluated: {reason}")
    return cases, failed


def find_labels(folder: Path, ending: str) -> dict[str, Path]:
    """The label files of a folder, by case.

    Raises:
        InputError: there is none.
    """
    files = sorted(folder.glob(f"[!.]*{ending}"))  # not what systems put beside them, as ._CASE
    found = {path.name.removesuffix(ending): path for path in files}
    if not found:
        raise InputError(f"{folder} holds no label CASE{ending}: give its folder with -gt")
    return found
