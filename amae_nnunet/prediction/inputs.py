"""Input folders in which the file of an absent contrast is an image of zeros, or not there at all.

A case has files ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ..., by channel of the model. Stock
nnU-Net would take the second file that it finds for channel 1, whatever its number; here each
channel without a file gets one of zeros, in a folder of its own. The input is never changed.

Not in the paper.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import InputError
from amae_nnunet.intact import check_complete, said
from amae_nnunet.plans.preprocessed import nonzero_channels

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

log = logging.getLogger(__name__)

_SHOWN = 3  # names in a message

#: Names that a case may not have: nnU-Net's own files lie beside the predictions.
RESERVED = ("dataset", "plans", "predict_from_raw_data_args")

Voxels = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class InputCase:
    """The files of one case, by channel."""

    name: str
    files: dict[int, Path] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A hash of the files' channels, sizes and times: other images have another."""
        stats = [(n, path.stat()) for n, path in sorted(self.files.items()) if path.is_file()]
        content = json.dumps([(n, stat.st_size, stat.st_mtime_ns) for n, stat in stats])
        return hashlib.sha256(content.encode()).hexdigest()

    def check(self, contrasts: Sequence[str]) -> None:
        """Refuse what cannot be predicted, before anything is read.

        Raises:
            InputError: a channel that the model has not, or a name that nnU-Net needs.
        """
        extra = [path for channel, path in self.files.items() if channel >= len(contrasts)]
        if extra:
            raise InputError(
                f"{extra[0].name} is of a channel that the model has not (it has 0000 to "
                f"{len(contrasts) - 1:04d}: {', '.join(contrasts)}): convert the case with "
                "amae-nnunet-convert --for_model"
            )
        if self.name in RESERVED:
            raise InputError(f"{self.name}.json is a file of nnU-Net's: give it another name")


@dataclass(frozen=True)
class ModelFacts:
    """What nnU-Net needs to preprocess and to export; goes to other processes."""

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: Mapping[str, Any]
    num_channels: int


def find_cases(
    folder: Path, ending: str, contrasts: Sequence[str], model: Path = Path("MODEL")
) -> list[InputCase]:
    """The cases of an input folder, in the order of their names.

    Args:
        folder: of the input files.
        ending: of the model's files, ``.nii.gz`` say.
        contrasts: of the model, in channel order.
        model: its folder, for the command that converts what was not converted.

    Raises:
        InputError: there is none, or they were converted for other contrasts.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the one with CASE_0000{ending}")
    pattern = re.compile(rf"([^.].*)_(\d{{4}}){re.escape(ending)}")
    cases: dict[str, InputCase] = {}
    ignored = []
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            case = cases.setdefault(match[1], InputCase(match[1]))
            case.files[int(match[2])] = path
        elif path.name.endswith(ending) and not path.name.startswith("."):
            ignored.append(path.name)
    if ignored:
        log.warning(
            "warning: not called CASE_0000%s, so not read: %s%s",
            ending,
            ", ".join(ignored[:_SHOWN]),
            ", ..." if len(ignored) > _SHOWN else "",
        )
    if not cases:
        words = ["-i", str(folder), "--for_model", str(model), "-o", "inputs"]
        raise InputError(
            f"{folder} holds no file CASE_0000{ending}: convert it first: "
            f"amae-nnunet-convert {shlex.join(words)}"
        )
    ContrastRecord.check_order(folder, cases, contrasts)
    return [cases[name] for name in sorted(cases)]


def channel_files(case: InputCase, model: ModelFacts, scratch: Path) -> list[Path]:
    """A file for each channel; those that the case lacks are written into ``scratch``, all zero."""
    rw = model.plans.image_reader_writer_class()
    files = dict(case.files)
    absent = [channel for channel in range(model.num_channels) if channel not in files]
    if absent:
        scratch.mkdir(parents=True, exist_ok=True)
        image, properties = rw.read_seg(str(next(iter(files.values()))))
        zeros = np.zeros(image.shape[1:], dtype=np.uint8)
        for channel in absent:
            name = f"{case.name}_{channel:04d}{model.dataset_json['file_ending']}"
            files[channel] = scratch / name
            rw.write_seg(zeros, str(files[channel]), properties)
    return [files[channel] for channel in range(model.num_channels)]


def preprocess(
    case: InputCase, model: ModelFacts, scratch: Path
) -> tuple[Voxels, dict[str, Any], list[bool]]:
    """Read and preprocess a case as nnU-Net does.

    Returns:
        Voxels (C, Z, Y, X), nnU-Net's properties, and which channels are present.

    Raises:
        InputError: a damaged file, images that do not fit together, that are all zero or hold NaN.
    """
    for path in case.files.values():
        check_complete(path)
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    try:
        files = [str(path) for path in channel_files(case, model, scratch)]
        data, _, properties = preprocessor.run_case(
            files, None, model.plans, model.configuration, model.dataset_json
        )
    except (OSError, RuntimeError) as error:
        if str(error):
            folders = {path.parent for path in case.files.values()}
            raise InputError(f"cannot be preprocessed: {said(error, *folders)}") from None
        raise InputError(  # nnU-Net prints how they differ, and raises nothing but this
            "its images differ in size or spacing: put them on one grid with amae-nnunet-convert"
        ) from None
    if not np.isfinite(data).all():
        raise InputError("a voxel is NaN or infinite: repair the file")
    present = nonzero_channels(data)
    if not any(present):
        raise InputError("all its images are zero: there is nothing to predict from")
    return np.ascontiguousarray(data, dtype=np.float32), properties, present
