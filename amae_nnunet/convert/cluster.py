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
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice
from typing import Any

from amae_nnunet import __version__
from amae_nnunet.convert.case import CaseJob
from amae_nnunet.convert.processes import run_local
from amae_nnunet.convert.worker import DISK_FULL, Converted, Failure, Outcome, Outcomes
from amae_nnunet.errors import ConfigError

_log = logging.getLogger(__name__)
_PATIENCE = 30  # s, until the scheduler answers
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
        ConfigError: a path is relative, Dask is not installed, the scheduler does not answer or
            is lost, or its workers have another version of this package or share no file system
            with this machine.
    """
    _check_paths(jobs)
    with _connected(address) as client:
        from distributed import KilledWorker

        workers = client.nthreads()
        _log.info("%s has %d workers, %d threads", address, len(workers), sum(workers.values()))
        left = dict(jobs)
        for ahead in (max(_AHEAD, 4 * sum(workers.values())), 1):
            lost = {}
            for case, future in _submit(client, left, timeout, ahead):
                error = future.exception()
                if isinstance(error, KilledWorker):
                    lost[case] = left[case]
                elif isinstance(error, CancelledError):
                    raise ConfigError(f"the scheduler at {address} was lost: run again")
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


def _submit(
    client: Any, jobs: Mapping[str, CaseJob], timeout: float, ahead: int
) -> Iterator[tuple[str, Any]]:
    """Hand the jobs over, ``ahead`` of them at a time, and yield each case and its future."""
    from distributed import as_completed

    def submit(case: str) -> Any:
        future = client.submit(_work_apart, jobs[case], timeout, pure=False)
        cases[future.key] = case
        return future

    waiting, cases = iter(jobs), dict[str, str]()
    running = as_completed([submit(case) for case in islice(waiting, ahead)])
    for future in running:
        yield cases.pop(future.key), future
        for case in islice(waiting, 1):
            running.add(submit(case))


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
def _connected(address: str) -> Iterator[Any]:
    """A client of the scheduler; what it was to do is forgotten when it leaves."""
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("--dask needs Dask: pip install 'amae-nnunet[dask]'") from None
    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address} ({error}): start it") from None
    with client:
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
