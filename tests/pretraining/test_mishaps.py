import os
import signal

import pytest
import torch

from amae_nnunet.errors import AMAEError
from amae_nnunet.pretraining.mishaps import in_one_line


def cuda_has_no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


@pytest.fixture
def torchs_watch():
    """A handler as torch installs it, which raises whenever a child dies."""

    def handler(number, frame):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, handler)
    yield
    signal.signal(signal.SIGCHLD, before)


def test_a_reader_that_died_is_told_once_however_often_its_signal_comes(torchs_watch):
    with (
        pytest.raises(AMAEError, match=r"a process that reads studies died.*: run it again, with"),
        in_one_line("run it again"),
    ):
        os.kill(os.getpid(), signal.SIGCHLD)
    os.kill(os.getpid(), signal.SIGCHLD)


@pytest.mark.parametrize(
    ("allocate", "size"),
    [
        (lambda: torch.empty(1 << 50), "4503599627370496 bytes"),
        (cuda_has_no_memory, "2.00 GiB"),
    ],
)
def test_too_little_memory_is_one_line(allocate, size):
    message = rf"memory does not suffice \(for {size} more\): .*pretraining.passes.*; then go on"
    with pytest.raises(AMAEError, match=message), in_one_line("go on"):
        allocate()


def test_other_errors_are_left_as_they_are(torchs_watch):
    with pytest.raises(RuntimeError, match="shapes"), in_one_line("run it again"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="DataLoader"):
        os.kill(os.getpid(), signal.SIGCHLD)
