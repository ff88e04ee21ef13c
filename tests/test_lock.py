import fcntl
import logging
import threading

import pytest

from amae_nnunet.errors import ConfigError
from amae_nnunet.lock import locked


def test_two_may_not_write_but_two_may_share(tmp_path):
    path = tmp_path / ".lock"
    said = pytest.raises(ConfigError, match=f"another run writes into {tmp_path}")
    with locked(path, shared=True), locked(path, shared=True), said, locked(path):
        pass
    with locked(path):
        pass


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_locked_where_locks_are_those_of_fcntl_as_on_nfs(
    tmp_path, monkeypatch, caplog, shared
):
    monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
    with locked(tmp_path / ".lock", shared):
        assert not caplog.messages


def test_who_waits_goes_on_when_the_other_has_ended(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    said, entered = threading.Event(), threading.Event()
    caplog.handler.addFilter(lambda _: said.set() or True)

    def second():
        with locked(tmp_path / ".lock", wait=True):
            entered.set()

    waiter = threading.Thread(target=second)
    with locked(tmp_path / ".lock"):
        waiter.start()
        assert said.wait(30)
        assert not entered.is_set()
    waiter.join(30)
    assert entered.is_set()
    assert caplog.messages == [f"waiting for another run that writes into {tmp_path}"]
