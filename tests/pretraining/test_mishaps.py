import os
import signal

import pytest

from amae_nnunet.errors import AMAEError
from amae_nnunet.pretraining.mishaps import in_one_line


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


def test_other_errors_are_left_as_they_are(torchs_watch):
    with pytest.raises(RuntimeError, match="shapes"), in_one_line("run it again"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="DataLoader"):
        os.kill(os.getpid(), signal.SIGCHLD)
