"""What a worker does with one case: convert it, look at what was written, and never raise.

SimpleITK says nothing when the disk is full and leaves half a file, so each file is read again.
The files stay in a folder of their own until the caller publishes them: a worker that was given
up, but lives on, disturbs no later one. Not in the paper.
"""

from __future__ import annotations

import errno
import tempfile
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from amae_nnunet.convert.case import ENDING, LABEL_FILE, CaseJob, convert_case
from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.nifti import open_nifti
from amae_nnunet.convert.source import RawCase

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = 64 << 20  # bytes; a disk with less is full
_SAME_AFFINE = 1e-3  # mm


@dataclass(frozen=True)
class Converted:
    """A case whose files are written and checked.

    Attributes:
        folder: where they are.
        facts: what ``convert_case`` says of them.
    """

    folder: Path
    facts: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """A case that cannot be converted.

    Attributes:
        code: a key of ``CODES``.
        message: one line for ledger and user.
        details: a traceback for the log, empty if there is none.
    """

    code: str
    message: str
    details: str = ""


Outcome = Converted | Failure
Outcomes = Generator[tuple[str, Outcome], None, None]  # of each case


def work(job: CaseJob) -> Outcome:
    """Convert one case into a new folder below ``job.folder``.

    Raises:
        OSError: the disk is full, so that no other case can be converted either.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=job.folder))
        facts = convert_case(replace(job, folder=folder))
        check_files(folder, facts)
        return Converted(folder, facts)
    except CaseError as error:
        return Failure(error.code, error.message)
    except MemoryError:
        return Failure("E_CRASH", "there was not enough memory: run again with a smaller -np")
    except Exception as error:
        _check_disk(error, job.folder)
        gone = _gone(job.raw)
        if gone:
            return Failure("E_DAMAGED", gone)
        reason = f"unexpected {type(error).__name__}: run with -v and report what it says"
        return Failure("E_UNEXPECTED", reason, traceback.format_exc())


def check_files(folder: Path, facts: Mapping[str, Any]) -> None:
    """Read the written files again: size, place, presence and label as the facts say.

    Raises:
        RuntimeError: one is not.
    """
    first: np.ndarray | None = None
    names = [f"{channel:04d}{ENDING}" for channel in range(len(facts["present"]))]
    for name in [*names, *([LABEL_FILE] if "label" in facts else [])]:
        try:
            voxels, affine = open_nifti(folder / name, name)
        except CaseError as error:
            raise RuntimeError(f"written, but not readable: {error}") from None
        first = affine if first is None else first
        if list(voxels.shape) != facts["size"] or np.abs(affine - first).max() > _SAME_AFFINE:
            raise RuntimeError(f"{name} was written with another grid")
        if name == LABEL_FILE:
            counts = np.bincount(voxels.ravel(), minlength=len(facts["label"])).tolist()
            right = counts == list(facts["label"].values())
        else:
            right = "01"[bool(voxels.any())] == facts["present"][names.index(name)]
        if not right:
            raise RuntimeError(f"{name} was written with other voxels")


def _gone(raw: RawCase) -> str:
    """What is to be said if a file of the case is not there any more, empty if all are."""
    for source in (*raw.contrasts.values(), *([raw.label] if raw.label else [])):
        if not all(path.exists() for path in source.paths):
            return f"{source.name} is not there any more: copy it again, or remove the case"
    return ""


def _check_disk(error: Exception, folder: Path) -> None:
    """Tell a full disk from an error of one case.

    Raises:
        OSError: the disk is full.
    """
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise error
    if folder.is_dir():
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
