"""The pixels of single slices, read to compare them: copies of a slice, frames of a volume.

Volumes are made by dcm2niix; what is read here only proves which volume is which. Not in the paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from amae_nnunet.convert.dicom.files import open_container
from amae_nnunet.convert.dicom.headers import Slice, silent_pydicom
from amae_nnunet.convert.dicom.stack import SliceFile


def pixel_digest(slice_: Slice) -> str:
    """A hash of the pixels and their scale; one of its own for a frame or what cannot be read."""
    own = repr((slice_.path, slice_.member, slice_.frame))
    if slice_.frame >= 0:
        return own
    try:
        with silent_pydicom():
            dataset = _read(slice_.path, slice_.member)
            scale = repr((dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")))
            return hashlib.sha256(dataset.PixelData + scale.encode()).hexdigest()
    except Exception:  # of a damaged file, pydicom raises nearly anything
        return own


def frame_values(file: SliceFile) -> tuple[np.ndarray | None, bool]:
    """The frames of a multi-frame file that belong to a stack.

    Returns:
        The values ``(x, y, frames)`` after the scanner's own scaling, None if their compression
        needs a decoder that is not there; and whether these are all frames of the file.
    """
    with silent_pydicom():
        dataset = _read(file.path, file.member)
        whole = sorted(file.frames) == list(range(int(dataset.NumberOfFrames)))
        return _decoded(dataset, file.frames), whole


def _decoded(dataset: Any, frames: Sequence[int]) -> np.ndarray | None:
    """The values of some frames ``(x, y, frames)``, None if there is no decoder."""
    from pydicom.pixels.utils import iter_pixels

    try:
        decoded = list(iter_pixels(dataset, indices=list(frames)))
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):
        return None
    scaled = []
    for number, pixels in zip(frames, decoded, strict=True):
        slope, intercept = _scale(dataset, number)
        scaled.append(pixels.T * slope + intercept)
    return np.stack(scaled, axis=2)


def _scale(dataset: Any, frame: int) -> tuple[float, float]:
    """Slope and intercept of one frame."""
    groups = [dataset.PerFrameFunctionalGroupsSequence[frame]]
    groups += list(dataset.get("SharedFunctionalGroupsSequence") or [])
    for group in groups:
        for item in group.get("PixelValueTransformationSequence") or []:
            return float(item.RescaleSlope), float(item.RescaleIntercept)
    return float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)


def _read(path: str, member: str) -> Any:
    import pydicom

    with open_container(Path(path)) as (_, open_member):
        stream: IO[bytes]
        with open_member(member) as stream:
            dataset = pydicom.dcmread(stream, force=True)
            dataset.PixelData  # noqa: B018  it may be read only now, while the file is open
            return dataset
