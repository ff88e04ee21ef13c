"""Cases converted by the workers of a Dask cluster that is there already.

A worker converts each case in a process of its own, so a case that crashes or hangs costs itself
only, as on one machine. When a worker is lost with its machine, the scheduler gives its cases to
others; those that were at hand each time are tried once more alone, so that the guilty one takes
no other with it. The files are written by the workers, on a file system that all share, and
published by this process alone. Not in the paper.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from amae_nnunet import __version__
from amae_nnunet.convert.case import CaseJob
from amae_nnunet.convert.processes import run_local
from amae_nnunet.convert.worker import DISK_FULL, Converted, Failure, Outcome, Outcomes
from amae_nnunet.errors import ConfigError

_log = logging.getLogger(__name__)
_PATIENCE = 30  # s, until the scheduler answers
_ALONE = 5  # s without a worker, until it is said
_LOOK, _PAUSE = 1.0, 0.05  # s between two looks for workers, and for cases that have ended
_AHEAD = 256  # cases handed over and not done: they keep the workers busy and the scheduler small


def run_on_cluster(jobs: Mapping[str, CaseJob], address: str, timeout: float) -> Outcomes:
    """Convert on a Dask cluster.

    Args:
        jobs: case -> what to do.
        address: of the scheduler, ``tcp://host:8786`` say.
        timeout: s that a case may take, 0 for no limit.

    Yields:
        Each case and what came of it, as they end.

    Raises:
        OSError: the disk is full.
        ConfigError: a path is relative, Dask is not installed, the scheduler does not answer, is
            lost or has no workers for ``timeout`` s, or they have another version of this package
            or share no file system with this machine.
    """
    _check_paths(jobs)
    with _connected(address, timeout) as client:
        from distributed import KilledWorker

        workers = client.nthreads()
        _log.info("workers of %s: %d, threads: %d", address, len(workers), sum(workers.values()))
        left = dict(jobs)
        for ahead in (max(_AHEAD, 4 * sum(workers.values())), 1):
            lost = {}
            watch = _Watch(client, address, timeout)
            for case, future in _submit(client, left, timeout, ahead, watch):
                error = future.exception()
                if isinstance(error, KilledWorker):
                    lost[case] = left[case]
                elif isinstance(error, CancelledError):
                    raise _lost(address)
                else:
                    yield case, _outcome(future, error)
            left = lost
        for case in left:
            yield case, Failure("E_CRASH", "each worker that converted it was lost: run again")


def _check_paths(jobs: Mapping[str, CaseJob]) -> None:
    for job in jobs.values():
        sources = [*job.raw.contrasts.values(), *([job.raw.label] if job.raw.label else [])]
        for path in (job.folder, *(path for source in sources for path in source.paths)):
            if not path.is_absolute():
                raise ConfigError(f"--dask needs absolute paths, and {path} is not one")


@dataclass
class _Watch:
    """Looks for workers while nothing ends: without any, Dask waits and says nothing.

    Attributes:
        client: of the scheduler.
        address: of the scheduler.
        limit: s without a worker, until that is an error; 0 for no limit.
        workers: how many there were when it last looked.
    """

    client: Any
    address: str
    limit: float
    workers: int = 0
    _since: float = field(default_factory=time.monotonic)  # when a worker was last seen
    _looked: float = 0.0
    _said: bool = False

    def pause(self) -> None:
        """Let some time pass, and look. That there is no worker is said once.

        Raises:
            ConfigError: there has been none for as long as a case may take, or the scheduler is
                lost.
        """
        time.sleep(_PAUSE)
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        try:
            self._looked, self.workers = now, len(self.client.nthreads())
        except (OSError, TimeoutError, CancelledError):
            raise _lost(self.address) from None
        if self.workers:
            self._since, self._said = now, False
        alone = now - self._since
        start = f"start one (dask worker {self.address})"
        if self.limit and alone > self.limit:
            raise ConfigError(
                f"the scheduler at {self.address} has had no worker for {alone:.0f} s: {start}, "
                "then run again"
            )
        if alone > _ALONE and not self._said:
            self._said = True
            _log.warning("the scheduler at %s has no worker and waits: %s", self.address, start)


def _submit(
    client: Any, jobs: Mapping[str, CaseJob], timeout: float, ahead: int, watch: _Watch
) -> Iterator[tuple[str, Any]]:
    """Hand the jobs over, ``ahead`` of them at a time, and yield each case and its future."""
    from distributed import as_completed

    def submit(case: str) -> Any:
        future = client.submit(_work_apart, jobs[case], timeout, pure=False)
        cases[future.key] = case
        return future

    waiting, cases = iter(jobs), dict[str, str]()
    running = as_completed([submit(case) for case in islice(waiting, ahead)])
    while not running.is_empty():
        if not running.has_ready():
            watch.pause()
            continue
        future = next(running)
        yield cases.pop(future.key), future
        for case in islice(waiting, 1):
            running.add(submit(case))


def _lost(address: str) -> ConfigError:
    return ConfigError(f"the scheduler at {address} was lost: run again")


def _work_apart(job: CaseJob, timeout: float) -> Outcome:
    """Convert one case in a process of its own; runs in a worker of the cluster."""
    # Dask marks its workers as daemons, to which multiprocessing gives no children. Ours end with
    # the worker by themselves.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # Forked from a clean server that has imported everything once: 0.4 s a case instead of 2 s.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["amae_nnunet.convert.processes"])
    return dict(run_local({"": job}, 1, timeout, context))[""]


def _outcome(future: Any, error: BaseException | None) -> Outcome:
    if error is None:
        outcome: Outcome = future.result()
        if isinstance(outcome, Converted) and not outcome.folder.is_dir():
            raise ConfigError(
                f"the workers' files are not to be seen in {outcome.folder.parent}: --dask needs "
                "a file system that all machines share, under the same path"
            )
        return outcome
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise error
    reason = f"unexpected {type(error).__name__}: run with -v and report what it says"
    return Failure("E_UNEXPECTED", reason, repr(error))


@contextmanager
def _connected(address: str, limit: float) -> Iterator[Any]:
    """A client of the scheduler, once it has a worker; its tasks are forgotten when it leaves."""
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("--dask needs Dask: pip install 'amae-nnunet[dask]'") from None
    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address} ({error}): start it") from None
    with client:
        watch = _Watch(client, address, limit)
        while not watch.workers:
            watch.pause()
        try:
            versions = set(client.run(_installed_version).values()) - {__version__}
        except Exception as error:
            raise ConfigError(
                f"the workers of {address} cannot import this package "
                f"({type(error).__name__}): install amae-nnunet {__version__} there"
            ) from None
        if versions:
            raise ConfigError(
                f"the workers of {address} have amae-nnunet {', '.join(sorted(versions))}: "
                f"install {__version__} there"
            )
        yield client


def _installed_version() -> str:
    return __version__
