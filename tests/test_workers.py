"""Jobs in processes of their own."""

import os
import subprocess
import sys
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
            hanging.result(timeout=600)
        assert hanging.done()  # it was stopped; nobody lost patience with it
        with pytest.raises(ProcessExpired) as dead:
            dying.result(timeout=600)
        assert good.result(timeout=600) == (3, 1)
    assert reason(late.value).startswith("TimeoutError")
    assert reason(dead.value).startswith("its process died, perhaps out of memory")


@pytest.mark.slow  # two processes start anew
def test_processes_that_cannot_start_end_the_wait(tmp_path):
    script = (
        "from concurrent.futures import as_completed\n"
        "from amae_nnunet.workers import reason, workers\n"
        "with workers(2, 100) as schedule:\n"
        "    jobs = [schedule(abs, (-3,)) for _ in range(5)]\n"
        "    print({reason(job.exception()) for job in as_completed(jobs, 100)})\n"
    )  # has no file that a process could start from
    done = subprocess.run(
        [sys.executable], input=script, capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert "{'its process was ended from outside, or none can be started" in done.stdout, (
        done.stderr
    )
