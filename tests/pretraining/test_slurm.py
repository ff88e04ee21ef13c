"""scripts/pretrain.slurm with stand-ins for SLURM's commands: stopped, requeued and ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pretraining.test_loop import configured, folder_of

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain.slurm"
WORDS = ["pretraining.batch_size=3", "pretraining.num_epochs=3",
         "pretraining.iterations_per_epoch=20"]  # fmt: skip
#: A step is one process here; its number and its arguments are kept. Options stand before it.
STAND_INS = {
    "srun": 'echo "$$" > step; echo "$*" >> srun; while [[ $1 = --* ]]; do shift; done; exec "$@"',
    "scancel": '[ "$*" = "--signal=TERM 7" ]; kill -TERM "$(cat step)"',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$*" >> requeued; fi',
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder whose commands are found first, and the variables of a job."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\nset -e\n{body}\n")
        (tools / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for key, value in {
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "4", "MASTER_PORT": str(port),
        "nnUNet_n_proc_DA": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    return tmp_path


def submit(cluster, name):
    return subprocess.Popen(
        ["bash", SCRIPT, "950", name, "-p", "AMAEPlans", "-device", "cpu"],
        cwd=cluster, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_job_whose_time_is_up_saves_goes_back_into_the_queue_and_ends(nnunet, dataset, cluster):
    name = configured("slurm", *WORDS)
    folder = folder_of(nnunet, name)
    job = submit(cluster, name)
    end = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists():
        assert time.monotonic() < end, "it never came to that"
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.01)
    job.send_signal(signal.SIGUSR1)
    output = job.communicate(timeout=600)[0]
    assert job.returncode == 0, output
    assert "stopped by SIGTERM" in output
    assert "the time is up: job 7 goes back into the queue" in output
    assert (cluster / "requeued").read_text() == "requeue 7\n"
    assert not (folder / "checkpoint_final.safetensors").exists()

    job = submit(cluster, name)
    output = job.communicate(timeout=600)[0]
    assert job.returncode == 0, output
    assert "continuing after step" in output
    assert (folder / "checkpoint_final.safetensors").is_file()
    assert (cluster / "requeued").read_text() == "requeue 7\n"
    for line in (cluster / "srun").read_text().splitlines():
        assert line.startswith("--kill-on-bad-exit=1 --cpus-per-task=4 torchrun")
        assert "--nproc_per_node=2" in line


def test_an_error_ends_a_job_for_good(nnunet, dataset, cluster):
    name = configured("slurm_wrong", "pretraining.batch_size=1")
    job = submit(cluster, name)
    output = job.communicate(timeout=600)[0]
    assert job.returncode != 0
    assert "a batch of 1 studies cannot be cut in 2 passes on 2 processes" in output
    assert not (cluster / "requeued").exists()
