"""Sources that end badly, for the processes that must live with them."""

import ctypes
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk

from amae_nnunet.convert.codes import CaseError
from amae_nnunet.convert.nifti import open_nifti
from amae_nnunet.convert.worker import Converted


class Awkward(Exception):
    """An exception that can be pickled, but not made again."""

    def __init__(self, one, two):
        super().__init__(one + two)


def _crash(path):
    os._exit(7)


def _segfault(path):
    ctypes.string_at(0)


def _killed(path):
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(path):
    time.sleep(1000)


def _slow(path):
    time.sleep(2)
    return open_nifti(path, path.name)


def _error(path):
    raise ZeroDivisionError(f"{path} Jane Doe")


def _awkward(path):
    raise Awkward(str(path), " Jane Doe")


def _gone(path):
    path.unlink()
    raise FileNotFoundError(str(path))


def _no_memory(path):
    raise MemoryError(f"{path} Jane Doe")


def _threads(path):
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    raise CaseError("E_TYPE", f"{threads} threads, OMP {os.environ['OMP_NUM_THREADS']}")


def _kill_worker(path):
    """End the process that waits for this one: a worker of Dask."""
    os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
    time.sleep(1000)


@dataclass(frozen=True)
class Misbehaving:
    """A source that does what one of the functions above does."""

    path: Path
    act: str
    facts = {}  # noqa: RUF012
    warnings = ()
    name = "T1.nii.gz"
    part = ""

    @property
    def paths(self):
        return (self.path,)

    def read(self, scratch=None):
        return globals()[f"_{self.act}"](self.path)


def spoil(cases, **acts):
    """The cases, of which some (case=act) have a T1 that misbehaves."""
    return [
        replace(raw, contrasts={**raw.contrasts, "T1": _spoiled(raw, acts[raw.case])})
        if raw.case in acts
        else raw
        for raw in cases
    ]


def _spoiled(raw, act):
    return Misbehaving(raw.contrasts["T1"].path, act)


def work_elsewhere(job, timeout):
    """As a worker of Dask whose disk is not ours."""
    return Converted(job.folder / "elsewhere", {"warnings": []})


def end_at_once():
    os._exit(3)
