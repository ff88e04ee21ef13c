"""Stopping by signal: the step is finished and the state saved (not in the paper).

A cluster sends SIGTERM some seconds before it kills; a user presses Ctrl-C. Either is only noted,
and the loop looks for it after each step. A second Ctrl-C ends the run at once; a second SIGTERM
does not, since torchrun passes on the one that its processes may have got already.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The run was stopped by a signal, and its state is saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {message}")
        self.exit_code = 128 + number


class StopSignals:
    """A context in which the signals are noted in ``number`` (0: none came)."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python handles signals there
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number


@contextmanager
def signals_held() -> Iterator[None]:
    """A context in which signals wait, and processes that are started never get them.

    A new process would else die of a Ctrl-C while it still imports, before ``ignore_signals``.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(_: int) -> None:
    """For processes that read data: a signal to all processes leaves them to the main one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
