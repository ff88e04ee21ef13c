"""The scan of a DICOM tree: every file looked at, in processes, and the stacks that are in it.

Nothing is trusted but the headers: not the names, not the folders. Not in the paper.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from amae_nnunet.convert.dicom.files import UNREADABLE, Skipped, list_files, open_container
from amae_nnunet.convert.dicom.headers import Damaged, NotAnImage, Slice, read_header
from amae_nnunet.convert.dicom.pixels import pixel_digest
from amae_nnunet.convert.dicom.split import split_series
from amae_nnunet.convert.dicom.stack import Facts, Stack
from amae_nnunet.errors import InputError

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
    slices: list[Slice] = []
    known: dict[Facts, Facts] = {}  # slices of a series share one: 1.6 instead of 4.4 kB a slice
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    results = (
        _in_this_process(chunks, root) if processes == 1 else _in_pool(chunks, root, processes)
    )
    with tqdm(total=len(files), desc="headers", unit="file", leave=False, disable=None) as progress:
        for chunk, (found, unusable) in zip(chunks, results, strict=True):
            slices += (
                replace(slice_, facts=known.setdefault(slice_.facts, slice_.facts))
                for slice_ in found
            )
            skipped += unusable
            progress.update(len(chunk))
    return Scan(split_series(slices, root, pixel_digest), skipped)


_UNPACKED = "it cannot be opened or unpacked"
_Result = tuple[list[Slice], list[Skipped]]


def _in_this_process(chunks: list[list[Path]], root: Path) -> Iterator[_Result]:
    return (_read_chunk(chunk, root) for chunk in chunks)


def _in_pool(chunks: list[list[Path]], root: Path, processes: int) -> Iterator[_Result]:
    """The results in order; a process that dies or hangs costs its chunk and no other."""
    with ProcessPool(max_workers=processes, context=get_context("spawn")) as pool:
        try:
            futures = [
                pool.schedule(_read_chunk, (chunk, root), timeout=_TIME_LIMIT) for chunk in chunks
            ]
            for chunk, future in zip(chunks, futures, strict=True):
                try:
                    yield future.result()
                except (ProcessExpired, concurrent.futures.TimeoutError):
                    yield [], [_lost(path.relative_to(root).as_posix()) for path in chunk]
        finally:
            pool.stop()  # after an interruption, what is not begun is not done


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
