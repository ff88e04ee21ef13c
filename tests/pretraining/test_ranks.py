"""Two real processes of torchrun (gloo, CPU) against one: gradients, kills, signals, restarts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pretraining import two_ranks
from pretraining.test_loop import configured, folder_of

from amae_nnunet.cli import pretrain
from amae_nnunet.errors import AMAEError
from amae_nnunet.networks.checkpoint import read_checkpoint
from amae_nnunet.pretraining.ranks import Ranks, _lost_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds ranks in /proc"),
]

TORCHRUN = [Path(sys.executable).parent / "torchrun", "--nproc_per_node=2"]
#: Three studies on two processes, some with two contrasts and some with three, some masked whole.
STUDIES = ["pretraining.batch_size=3", "whole_contrast_prob=0.5"]
SLOTS = ["pretraining.slot_budget=4", "pretraining.passes=4"]
WORDS = [*STUDIES, "pretraining.num_epochs=3", "pretraining.iterations_per_epoch=20",
         "pretraining.lr=0.001"]  # fmt: skip
JOBS = ["studies", "studies+shard", "slots", "slots+shard"]


def arguments(name, *words):
    return ["950", name, "-p", "AMAEPlans", "-device", "cpu", *words]


@pytest.fixture(scope="module")
def on_two(nnunet, dataset, tmp_path_factory):
    """What both ranks have after some steps, for each job."""
    configured("studies", *STUDIES)
    configured("slots", *SLOTS)
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([*TORCHRUN, two_ranks.__file__, folder, *JOBS], check=True)
    return {job: [torch.load(folder / f"{job}_{rank}.pth") for rank in (0, 1)] for job in JOBS}


@pytest.fixture(scope="module")
def on_one(nnunet, dataset, on_two):
    torch.set_default_dtype(torch.float64)
    try:
        cpu = torch.device("cpu")
        return {name: two_ranks.result(name, Ranks(), cpu, False) for name in ("studies", "slots")}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("job", JOBS)
def test_no_rank_goes_on_before_the_state_is_on_disk(on_two, job):
    assert [found["state_is_there"] for found in on_two[job]] == [True, True]


@pytest.mark.parametrize("job", JOBS)
def test_two_ranks_have_the_gradients_and_weights_of_one_process(on_one, on_two, job):
    expected, ranks = on_one[job.partition("+")[0]], on_two[job]
    shares = [rank["own_studies"] for rank in ranks]
    assert shares[0] != shares[1]
    assert [sum(pair) for pair in zip(*shares, strict=True)] == expected["own_studies"]
    for found in ranks:
        for part, tolerance in (("gradients", 1e-12), ("weights", 1e-9)):
            for key, value in expected[part].items():
                assert (found[part][key] - value).norm() <= tolerance * value.norm(), key
        assert found["record"]["studies"] == expected["record"]["studies"]
        for key in ("steps", "sums"):
            torch.testing.assert_close(
                found["record"][key], expected["record"][key], rtol=1e-6, atol=0, equal_nan=True
            )


def start(name, *words):
    """A run on two processes."""
    return subprocess.Popen(
        [*TORCHRUN, "-m", "amae_nnunet.cli.pretrain", *arguments(name, *words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def signal_to(process, rank, number, after):
    """Send a signal to one rank once a file is there; the output in the end."""
    end = time.monotonic() + 120
    while not after.exists():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)
    (child,) = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0")
    ]
    os.kill(child, number)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 1, output
    return output


@pytest.fixture(scope="module")
def whole(nnunet, dataset):
    """The results of a run on one process that nothing disturbed."""
    name = configured("one", *WORDS)
    assert pretrain.main(arguments(name)) == 0
    return folder_of(nnunet, name)


def assert_like(whole, folder):
    """As equal as sums in float32 in another order can be."""
    one, other = (
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (whole, folder)
    )
    assert [row["epoch"] for row in other] == [0, 1, 2]
    for row, expected in zip(other, one, strict=True):
        assert row["studies"] == expected["studies"] == 60
        for key in ("loss", "contrast_loss", "skill_mean"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3)
    ours, theirs = (
        read_checkpoint(f / "checkpoint_final.safetensors").tensors for f in (folder, whole)
    )
    for key, value in theirs.items():
        assert (ours[key] - value).norm() <= 1e-2 * value.norm(), key


def test_a_killed_rank_ends_the_job_in_one_line_and_one_process_continues(nnunet, whole):
    name = configured("lost", *WORDS)
    folder = folder_of(nnunet, name)
    output = signal_to(start(name), 1, signal.SIGKILL, folder / "metrics.jsonl")
    lines = [line for line in output.splitlines() if "amae-nnunet-pretrain: error:" in line]
    assert len(lines) == 1
    assert "another of the 2 processes of this run ended" in lines[0]
    assert "continue with --c" in lines[0]
    assert "SIGKILL" in output
    assert pretrain.main(arguments(name, "--c")) == 0
    assert_like(whole, folder)


def test_a_signal_to_one_rank_stops_all_at_one_step_and_ddp_continues_what_fsdp_began(
    nnunet, whole
):
    name = configured("stopped", *WORDS)
    folder = folder_of(nnunet, name)
    output = signal_to(start(name, "--shard"), 1, signal.SIGTERM, folder / "metrics.jsonl")
    (steps,) = re.findall(r"stopped by SIGTERM: (\d+) of 60 steps are done and saved", output)
    assert "error:" not in output
    saved = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    assert 20 * saved["epoch"] + saved["iteration"] == int(steps)
    expected = torch.load(whole / "checkpoint_latest.pth", weights_only=True)
    shapes = [{k: v.shape for k, v in s["network_weights"].items()} for s in (saved, expected)]
    assert shapes[0] == shapes[1]
    process = start(name, "--c")
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    following = f"next: nnUNetv2_train 950 {name} 0 -tr AMAETrainer -p AMAEPlans -device cpu\n"
    assert output.count(following) == 1
    assert_like(whole, folder)


def test_what_broke_a_connection_is_told():
    error = RuntimeError("ProcessGroupNCCL.cpp:1\nNCCL error: /dev/shm has no space left")
    said = pytest.raises(AMAEError, match="cannot reach each other .*/dev/shm has no space left")
    with said, _lost_process(2):
        raise error
    with pytest.raises(RuntimeError, match="out of memory"), _lost_process(2):
        raise RuntimeError("CUDA out of memory")
