"""The scan of a DICOM tree: every file looked at, in processes, and the stacks that are in it.

Nothing is trusted but the headers: not the names, not the folders. Not in the paper.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pebble import ProcessExpired
from tqdm import tqdm

from amae_nnunet.convert.dicom.files import UNREADABLE, Skipped, list_files, open_container
from amae_nnunet.convert.dicom.headers import Damaged, NotAnImage, Slice, read_header
from amae_nnunet.convert.dicom.pixels import pixel_digest
from amae_nnunet.convert.dicom.split import split_series
from amae_nnunet.convert.dicom.stack import Stack
from amae_nnunet.errors import InputError
from amae_nnunet.workers import Job, ahead, workers

#: What the slices of a series have in common.
_SHARED = ("study", "patient", "series", "time", "size", "spacing", "orientation", "facts")
_CHUNK = 64  # files that a process takes at once
_TIME_LIMIT = 600.0  # s for a chunk: only a file system that hangs takes longer


@dataclass(frozen=True)
class Scan:
    """What a DICOM tree holds.

    Attributes:
        stacks: sorted by study and series.
        skipped: the files that are no usable image, in the order of the walk.
    """

    stacks: list[Stack]
    skipped: list[Skipped]

    @property
    def reasons(self) -> Counter[str]:
        """How many files were skipped for each reason."""
        return Counter(skipped.reason for skipped in self.skipped)


def scan_dicom(root: Path, processes: int = 1) -> Scan:
    """Read every header below ``root`` and sort the slices into stacks.

    Args:
        root: the input folder, or an archive.
        processes: how many read headers; 1 reads them in this one.

    Raises:
        InputError: ``root`` is not there.
        ConfigError: pydicom is not installed.
    """
    root = root.absolute()
    if not root.exists():
        raise InputError(f"{root} is not there: give the folder that holds the DICOM files")
    files, skipped = list_files(root) if root.is_dir() else ([root], [])
    root = root if root.is_dir() else root.parent
    total = len(files)
    chunks = deque(files[start : start + _CHUNK] for start in range(0, total, _CHUNK))
    del files  # a chunk is let go when it has been read
    slices = _shared(_counted(_read(chunks, root, processes), total, skipped))
    return Scan(split_series(slices, root, pixel_digest), skipped)


def _counted(
    results: Iterable[tuple[int, _Result]], total: int, skipped: list[Skipped]
) -> Iterator[Slice]:
    """The slices, with a bar; what is no image goes to ``skipped``."""
    with tqdm(total=total, desc="headers", unit="file", leave=False, disable=None) as progress:
        for count, (found, unusable) in results:
            yield from found
            skipped += unusable
            progress.update(count)


def _shared(slices: Iterable[Slice]) -> Iterator[Slice]:
    """The slices, of which those of a series hold what is equal once: a third of the memory."""
    known: dict[str, dict[Any, Any]] = {name: {} for name in _SHARED}
    for slice_ in slices:
        values = {name: getattr(slice_, name) for name in _SHARED}
        shared = {name: known[name].setdefault(value, value) for name, value in values.items()}
        yield replace(slice_, **shared)


_UNPACKED = "it cannot be opened or unpacked"
_Result = tuple[list[Slice], list[Skipped]]


def _read(chunks: deque[list[Path]], root: Path, processes: int) -> Iterator[tuple[int, _Result]]:
    """How many files a chunk has, and what they hold; in order.

    A process that dies or hangs costs its chunk and no other.
    """
    with workers(processes if processes > 1 else 0, _TIME_LIMIT) as schedule:
        for chunk, future in ahead(schedule, _jobs(chunks, root), 4 * processes):
            try:
                yield len(chunk), future.result()
            except (ProcessExpired, concurrent.futures.TimeoutError):
                lost = [_lost(path.relative_to(root).as_posix()) for path in chunk]
                yield len(chunk), ([], lost)


def _jobs(chunks: deque[list[Path]], root: Path) -> Iterator[Job]:
    while chunks:
        chunk = chunks.popleft()
        yield chunk, _read_chunk, (chunk, root)


def _lost(name: str) -> Skipped:
    return Skipped(name, "E_CRASH", "the process that read it died")


def _read_chunk(chunk: list[Path], root: Path) -> _Result:
    slices: list[Slice] = []
    skipped: list[Skipped] = []
    for path in chunk:
        found, unusable = _read_file(path, path.relative_to(root).as_posix())
        slices += found
        skipped += unusable
    return slices, skipped


def _read_file(path: Path, name: str) -> _Result:
    """The slices of one file, or of all members of an archive."""
    slices: list[Slice] = []
    skipped: list[Skipped] = []
    if path.name.upper() == "DICOMDIR":
        return [], [Skipped(name, "", "DICOMDIR")]
    try:
        with open_container(path) as (members, open_member):
            for member in members:
                try:
                    with open_member(member) as stream:
                        slices += read_header(stream, str(path), member)
                except NotAnImage as error:
                    skipped.append(Skipped(name, "", str(error), member))
                except Damaged as error:
                    skipped.append(Skipped(name, "E_DAMAGED", str(error), member))
                except UNREADABLE:
                    skipped.append(Skipped(name, "E_DAMAGED", _UNPACKED, member))
    except UNREADABLE:
        skipped.append(Skipped(name, "E_DAMAGED", _UNPACKED))
    return slices, skipped
