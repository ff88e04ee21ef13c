"""Jobs in processes of their own."""

import os
import time
from concurrent.futures import TimeoutError as OutOfTime

import pytest
from pebble import ProcessExpired

from amae_nnunet.workers import reason, workers


@pytest.mark.slow  # two processes start anew
def test_a_job_that_hangs_or_dies_costs_itself_only():
    with workers(1, timeout=5) as schedule:
        hanging, dying = schedule(time.sleep, (90,)), schedule(os._exit, (3,))
        good = schedule(divmod, (7, 2))
        with pytest.raises((OutOfTime, TimeoutError)) as late:
            hanging.result(timeout=60)
        assert hanging.done()  # it was stopped; nobody lost patience with it
        with pytest.raises(ProcessExpired) as dead:
            dying.result(timeout=120)
        assert good.result(timeout=120) == (3, 1)
    assert reason(late.value).startswith("TimeoutError")
    assert reason(dead.value).startswith("its process died, perhaps out of memory")
