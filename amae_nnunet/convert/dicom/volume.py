"""Reading the volume of one stack: its files alone go to dcm2niix, and the result is checked.

What comes back must be what the headers promise: one 3-D volume of the size and at the place of
the stack. Of a multi-frame file with several volumes, the one whose pixels are those of the
stack's frames is taken. Not in the paper.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.dicom.files import UNREADABLE, is_packed, open_container
from amae_nnunet.convert.dicom.pixels import frame_values
from amae_nnunet.convert.dicom.stack import Stack
from amae_nnunet.convert.nifti import open_nifti
from amae_nnunet.errors import ConfigError
from amae_nnunet.unpack import MAX_BYTES, TooLarge, copy_packed

# No sidecars (they hold header text), no names from headers, no rotation. With -w 2 a second result
# gets a name of its own; with -w 1 it would take the place of the first without a word.
_FLAGS = (
    "-b", "n", "-ba", "n", "-z", "n", "-x", "i", "-m", "2", "-i", "n", "-d", "0",
    "-f", "s", "-w", "2",
)  # fmt: skip
_MAX_SHIFT = 1e-2  # voxels in plane between the promised place and that of the result
# Voxels a slice: dcm2niix takes the distance of two slices, whose positions are rounded.
_MAX_STEP = 5e-3
_MAX_RESIDUAL = 1e-3  # of the range of values
#: Facts that may leave the room: numbers, and words of fixed lists.
_ALLOWED_FACTS = (
    "manufacturer", "field_strength", "echo_time", "repetition_time", "inversion_time",
    "flip_angle", "b_value", "directionality", "plane", "acquisition_type", "size", "spacing",
)  # fmt: skip


@dataclass(frozen=True)
class DicomVolume:
    """The volume of a stack, as a ``Source``.

    Attributes:
        stack: which files, and what they promise.
        evidence: code of the rule that named the contrast.
        doubts: warnings of whoever chose the stack, each ``W_CODE: text``.
        time_limit: s, for dcm2niix.
    """

    stack: Stack
    evidence: str = ""
    doubts: tuple[str, ...] = ()
    time_limit: float = field(default=300.0, compare=False)

    @property
    def name(self) -> str:
        """Numbers of the series; no text of the header, and no hash of one (``Stack.key``)."""
        facts = self.stack.facts
        weighting = "" if facts.b_value is None else f", b {facts.b_value:g}"
        return f"series {facts.series_number} ({facts.size[2]} slices{weighting})"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, an archive once."""
        return tuple(dict.fromkeys(Path(file.path) for file in self.stack.files))

    @property
    def part(self) -> str:
        """The stack, since an archive or a file of many frames may hold several."""
        return self.stack.key

    @property
    def facts(self) -> Mapping[str, Any]:
        """The allowed facts that the header has."""
        facts = {name: getattr(self.stack.facts, name) for name in _ALLOWED_FACTS}
        facts = {"source": "dicom", "evidence": self.evidence, **facts}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in facts.items()
            if value not in (None, "")
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts of the headers and of the choice."""
        return (*self.stack.warnings, *self.doubts)

    def read(self, scratch: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See ``Source.read``; axes and order of the slices are those of the headers.

        Raises:
            CaseError: the stack is no volume, or dcm2niix made another one of it.
            ConfigError: dcm2niix is not installed.
        """
        stack = self.stack
        if stack.code:
            raise CaseError(stack.code, f"{self.name}: {stack.problem}")
        with tempfile.TemporaryDirectory(prefix="amae_dicom_", dir=scratch) as folder:
            inputs, outputs = Path(folder, "in"), Path(folder, "out")
            inputs.mkdir()
            outputs.mkdir()
            self._gather(inputs)
            self._run_dcm2niix(inputs, outputs)
            results = sorted(outputs.glob("*.nii"))
            if any(file.frames for file in stack.files):
                return self._pick(results)
            if len(results) != 1:
                raise self._no_volume(results)
            voxels, affine = open_nifti(results[0], self.name)
            placed = _place(voxels, affine, stack)
            if placed is None:
                raise self._no_volume(results)
            return placed

    def _gather(self, folder: Path) -> None:
        """Links to the files, and unpacked copies of those that are packed."""
        files = dict.fromkeys((file.path, file.member) for file in self.stack.files)
        room = MAX_BYTES
        try:
            for path, group in itertools.groupby(files, key=lambda file: Path(file[0])):
                with open_container(path) as (_, open_member):
                    for _, member in group:
                        target = folder / f"{len(list(folder.iterdir())):06d}.dcm"
                        if is_packed(path):
                            with open_member(member) as stream, target.open("wb") as copy:
                                room -= copy_packed(stream, copy, room)
                        else:
                            target.symlink_to(path)
        except TooLarge as error:
            raise CaseError("E_DAMAGED", f"{self.name}: {error}: look at the archive") from None
        except UNREADABLE:
            raise CaseError(
                "E_DAMAGED", f"{self.name}: a file is gone or cannot be unpacked: scan again"
            ) from None

    def _run_dcm2niix(self, inputs: Path, outputs: Path) -> None:
        try:
            import dcm2niix
        except ImportError:
            raise ConfigError(
                "DICOM needs pydicom and dcm2niix: pip install 'amae-nnunet[dicom]'"
            ) from None

        try:
            # What it prints may hold header text, and its exit code says less than its files.
            subprocess.run(
                [dcm2niix.bin, *_FLAGS, "-o", str(outputs), str(inputs)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=self.time_limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CaseError(
                "E_TIMEOUT",
                f"{self.name}: dcm2niix took longer than {self.time_limit:g} s: try it by hand",
            ) from None

    def _pick(self, results: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        """Among all volumes of multi-frame files, the one with the pixels of the stack's frames."""
        parts = [frame_values(file) for file in self.stack.files]
        volumes = [volume for path in results for volume in _volumes(path)]
        placed = [_place(voxels, affine, self.stack) for voxels, affine in volumes]
        found = [volume for volume in placed if volume is not None]
        if not found:
            raise self._no_volume(results)
        values = [values for values, _ in parts if values is not None]
        if len(values) == len(parts):
            wanted = np.concatenate(values, axis=2)
            found = [volume for volume in found if _same_values(volume[0], wanted)]
        elif not all(whole for _, whole in parts) or len(volumes) > 1:
            found = []  # the frames cannot be decoded here, so that nothing tells volumes apart
        if len(found) != 1:
            raise CaseError(
                "E_FRAMES",
                f"{self.name}: {len(found)} of {len(volumes)} volumes of the multi-frame file have "
                "the pixels of its frames: export it as classic DICOM",
            )
        voxels, affine = found[0]
        if not np.isfinite(voxels).all():
            raise CaseError("E_NONFINITE", f"{self.name} has NaN or infinite voxels: scan it anew")
        return voxels, affine

    def _no_volume(self, results: list[Path]) -> CaseError:
        made = ", ".join(_shown(nib.load(path).shape) for path in results) or "nothing"
        return CaseError(
            "E_NOT_A_VOLUME",
            f"{self.name}: dcm2niix made {made} where the headers promise one volume of "
            f"{_shown(self.stack.facts.size)} at their place: look at the series in a viewer",
        )


def _volumes(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every 3-D volume of a file of dcm2niix, with the affine."""
    image = nib.load(path, mmap=False)  # the file is deleted soon
    voxels = np.asanyarray(image.dataobj)
    if voxels.dtype.kind not in "iuf":
        return []
    voxels = voxels.reshape(*voxels.shape[:3], -1)
    return [(voxels[..., index], image.affine) for index in range(voxels.shape[3])]


def _place(
    voxels: np.ndarray, affine: np.ndarray, stack: Stack
) -> tuple[np.ndarray, np.ndarray] | None:
    """The volume turned to the order of the headers, None if size or place are not theirs."""
    if voxels.shape != stack.facts.size:
        return None
    promised = np.reshape(stack.affine, (4, 4))
    size = np.array(voxels.shape)
    to_promised = np.linalg.inv(promised) @ affine  # voxel of the result -> voxel of the headers
    flips = np.sign(np.diag(to_promised)[:3])
    turned = to_promised[:3, :3] - np.diag(flips)
    moved = to_promised[:3, 3] - np.where(flips < 0, size - 1, 0)
    shift = max(np.abs(moved).max(), np.abs(turned[:, :2] * (size[:2] - 1)).max())
    if shift > _MAX_SHIFT or np.abs(turned[:, 2]).max() > _MAX_STEP:
        return None
    x, y, z = (slice(None, None, -1) if flip < 0 else slice(None) for flip in flips)
    return np.ascontiguousarray(voxels[x, y, z]), promised


def _same_values(voxels: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two volumes are equal but for one scale and offset, which makers define in two ways.

    A volume without contrast is like any other, so it is not the same as anything.
    """
    x, y = wanted.ravel().astype(np.float64), voxels.ravel().astype(np.float64)
    spread = np.ptp(x)
    if spread == 0 or not np.isfinite(y).all():
        return False
    slope, offset = np.polyfit(x, y, 1)
    residual = np.abs(y - (slope * x + offset)).max()
    return bool(slope > 0 and residual <= _MAX_RESIDUAL * slope * spread)


def _shown(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
