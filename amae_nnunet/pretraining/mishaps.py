"""What a user is told when memory or disk is full, a study damaged, or a process that reads dies.

None is a fault of the code, so they are one line each, which says how to go on. Not in the paper.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from amae_nnunet.errors import AMAEError, CannotWrite, InputError

#: How PyTorch says that a device, or the CPU, has no memory left.
_ALLOCATION = re.compile(r"tried to allocate ([\d.]+ \w+)", re.IGNORECASE)


@contextmanager
def in_one_line(again: str) -> Iterator[None]:
    """A context, or a decorator, that turns each of these mishaps into one line.

    Args:
        again: how to go on, as in ``continue with --c``.

    Raises:
        InputError: a study cannot be read.
        AMAEError: a file cannot be written, memory is short, or a process that reads studies died
            or hangs.
    """
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(error.what, again) from None
    except InputError as error:  # torch puts the traceback of a reading process before it
        _end_readers()
        raise InputError(error.args[0].rpartition("InputError: ")[2].strip()) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        if wanted := _ALLOCATION.search(str(error)):
            raise AMAEError(
                f"memory does not suffice (for {wanted[1]} more): set pretraining.passes to parts "
                "that the batch is cut in (or make pretraining.slot_budget smaller), or "
                "pretraining.activation_checkpointing=true, with amae-nnunet-configure; then "
                f"{again}"
            ) from None
        if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
            raise
        _hear_no_more()
        what = "died, perhaps out of memory"
        if "timed out" in str(error):
            what = "hangs (is the disk, or /tmp, full or gone?)"
            _end_readers()
        raise AMAEError(
            f"a process that reads studies {what}: {again}, with fewer of them (export "
            "nnUNet_n_proc_DA=2)"
        ) from None


def _end_readers() -> None:
    """End the reading processes, which ignore what torch sends: the command would wait for them."""
    _hear_no_more()
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def _hear_no_more() -> None:
    """Take no note of children that die from now on.

    The death is known, but its signal may come once more while torch puts its readers away, where
    torch's handler raises a second time and Python prints a traceback of what it cannot raise.
    """
    if threading.current_thread() is threading.main_thread():
        for _ in range(2):  # the first call may be met by a signal that has come already
            with suppress(RuntimeError):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
