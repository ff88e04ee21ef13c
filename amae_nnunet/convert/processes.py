"""Cases converted in processes of this machine, of which none can take another case with it.

A process that dies or takes too long costs the case it was at, and a new one takes its place
(plain pools lose all that waits). The processes end with the one that started them, however it
ends. Not in the paper.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, TimeoutError, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import connection
from multiprocessing.context import BaseContext
from threading import Thread

import SimpleITK as sitk
from pebble import ProcessExpired, ProcessPool

from amae_nnunet.convert.case import CaseJob
from amae_nnunet.convert.worker import DISK_FULL, Failure, Outcome, Outcomes, work
from amae_nnunet.errors import ConfigError

SPAWN = multiprocessing.get_context("spawn")
_CASES_A_PROCESS = 200  # then a fresh one takes over, which bounds what memory leaks cost


def run_here(jobs: Mapping[str, CaseJob]) -> Outcomes:
    """Convert in this process: nothing to start, but a crash or a hang is this process's own.

    Args:
        jobs: case -> what to do.

    Yields:
        Each case and what came of it.

    Raises:
        OSError: the disk is full.
    """
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        for case, job in jobs.items():
            yield case, work(job)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def run_local(
    jobs: Mapping[str, CaseJob], processes: int, timeout: float, context: BaseContext = SPAWN
) -> Outcomes:
    """Convert in other processes.

    Args:
        jobs: case -> what to do.
        processes: how many at the same time.
        timeout: s that a case may take, 0 for no limit.
        context: how processes are started.

    Yields:
        Each case and what came of it, as they end.

    Raises:
        OSError: the disk is full.
        ConfigError: the processes end before they do anything.
    """
    left = dict(jobs)
    while left:
        before = len(left)
        with closing(_run_pool(left, processes, timeout, context)) as outcomes:
            for case, outcome in outcomes:
                yield case, outcome
                del left[case]
        if len(left) == before:
            raise ConfigError("the worker processes end at once: run again with -np 1 --timeout 0")


def _run_pool(
    jobs: Mapping[str, CaseJob], processes: int, timeout: float, context: BaseContext
) -> Outcomes:
    """As ``run_local``, but ends early if the pool breaks, as when an idle process is killed."""
    pool = ProcessPool(processes, _CASES_A_PROCESS, _start, context=context)
    with _one_thread_each():
        try:
            with _interrupts_held_back():
                futures: dict[Future[Outcome], str] = {
                    pool.schedule(work, args=(job,), timeout=timeout or None): case
                    for case, job in jobs.items()
                }
            for future in as_completed(futures):
                if isinstance(future.exception(), BrokenProcessPool):
                    return
                yield futures[future], _outcome(future, timeout)
        finally:
            pool.stop()
            pool.join()


def _outcome(future: Future[Outcome], timeout: float) -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, TimeoutError):
        return Failure(
            "E_TIMEOUT", f"it took more than {timeout:g} s: look at its files, or raise --timeout"
        )
    if isinstance(error, ProcessExpired):
        return Failure(
            "E_CRASH", "its process died, perhaps out of memory: run again with a smaller -np"
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise error
    reason = f"unexpected {type(error).__name__}: run with -v and report what it says"
    return Failure("E_UNEXPECTED", reason, repr(error))


def _start() -> None:
    """Prepare a worker process."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started meanwhile use one thread each in numpy's libraries."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Threads started meanwhile, and their processes, never see Ctrl-C, which is for us alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
