"""Jobs in processes of their own, each of which may die of its job without stopping the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from amae_nnunet.errors import AMAEError

Schedule = Callable[[Callable[..., Any], tuple[Any, ...]], "Future[Any]"]
Job = tuple[Any, Callable[..., Any], tuple[Any, ...]]  # what it is for, function, arguments


def ahead(schedule: Schedule, jobs: Iterable[Job], count: int) -> Iterator[tuple[Any, Future[Any]]]:
    """The jobs in their order, with their futures; ``count`` more are under way."""
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    for subject, function, arguments in jobs:
        waiting.append((subject, schedule(function, arguments)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _at_once(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


@contextmanager
def workers(processes: int, timeout: float | None = None) -> Iterator[Schedule]:
    """Run jobs in processes, each of which may die of its job; without any, run them here.

    Args:
        processes: how many; 0 for none but this one.
        timeout: of a job, s; its process is killed then, and its error is a ``TimeoutError``.
    """
    if not processes:
        yield _at_once
        return
    pool = ProcessPool(processes, context=get_context("spawn"))
    try:
        yield lambda function, arguments: pool.schedule(function, arguments, timeout=timeout)
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


def reason(error: BaseException) -> str:
    """In one line, why a job failed."""
    if isinstance(error, ProcessExpired):
        return "its process died, perhaps out of memory: run again with fewer processes"
    if isinstance(error, BrokenProcessPool):
        return (
            "its process was ended from outside, or none can be started: run again, and if that "
            "does not help with no process but this one (-npp 0 -nps 0, or -np 0)"
        )
    if isinstance(error, AMAEError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
