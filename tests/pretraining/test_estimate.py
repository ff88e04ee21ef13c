"""The estimate against what a run then does."""

import dataclasses
import io
import json
import os
import re
import sys

import pytest
import torch
from conftest import DATASET, TINY

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.pretraining.estimate import (
    TIMED,
    WARM_UP,
    disk_bytes,
    estimate,
    mean_seconds,
    shares,
)
from amae_nnunet.pretraining.loop import Options, prepare

WORDS = [*TINY, "embed_dim=48", "pretraining.num_epochs=3", "pretraining.iterations_per_epoch=20"]


@pytest.fixture(scope="module")
def measured(nnunet, dataset):
    assert configure.main(["950", "3d_fullres", "--name", "costly", *WORDS]) == 0
    opened = PreprocessedDataset.open("950", "costly", "AMAEPlans")
    run, _, batches = prepare(opened, Options())
    return run, batches, estimate(run, batches, 0)


def test_nothing_is_written_and_everything_is_printed(nnunet, measured, capsys):
    words = ["950", "costly", "-p", "AMAEPlans", "-device", "cpu", "--estimate"]
    assert pretrain.main(words) == 0
    folder = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__costly" / "fold_all"
    assert not folder.exists()
    output = capsys.readouterr().out
    assert re.search(r"time: [\d.]+ (s|min|h|days) an epoch, [\d.]+ \w+ in all", output)
    assert re.search(r"memory: [\d.]+ GB, disk: [\d.e-]+ GB", output)


def test_contrasts_are_those_of_the_timed_steps(measured):
    run, batches, result = measured
    size = run.config.batch_size
    samples = range(WARM_UP * size, (WARM_UP + 2 * TIMED) * size)
    counts = [batches.crops[n][1].sum().item() for n in samples]
    assert result.contrasts == pytest.approx(sum(counts) / len(counts))


def test_times_add_up(measured):
    result = measured[2]
    epoch = 20 * result.step_seconds + 8 * result.skill_seconds
    assert result.epoch_seconds == pytest.approx(epoch)
    assert result.total_seconds == pytest.approx(3 * epoch)
    assert result.memory_bytes > 1e8


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9, 17, 18, 19, 1000])
def test_no_more_steps_are_run_than_the_run_has(steps):
    warm_up, plain, slow = shares(steps)
    assert warm_up + plain + slow == min(steps, WARM_UP + 2 * TIMED)
    assert slow >= 1
    assert plain >= min(1, steps - 1)


def test_a_short_run_is_estimated_from_its_own_steps(nnunet, dataset):
    words = [*TINY, "embed_dim=48", "pretraining.num_epochs=1"]
    for steps in (1, 2):
        named = ["--name", f"short_{steps}", f"pretraining.iterations_per_epoch={steps}"]
        assert configure.main(["950", "3d_fullres", *words, *named]) == 0
        run, _, batches = prepare(
            PreprocessedDataset.open("950", f"short_{steps}", "AMAEPlans"), Options()
        )
        result = estimate(run, batches, 0)
        assert run.record.studies == steps * run.config.batch_size
        assert result.total_seconds > 0


def test_steps_in_which_something_is_compiled_do_not_count():
    assert mean_seconds([1.0, 2.0, 60.0, 3.0, 2.0]) == 2.0
    assert mean_seconds([1.0, 2.0, 9.0]) == 4.0  # a study with many contrasts is no such step


def test_a_busy_machine_is_named(measured, monkeypatch):
    run, batches, result = measured
    assert "busy" not in str(dataclasses.replace(result, load=0.9))
    assert "may be 3.5 times as fast" in str(dataclasses.replace(result, load=3.5))
    monkeypatch.setattr(os, "getloadavg", lambda: (6.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert estimate(run, batches, 0).load == 1.5


def test_a_bar_of_its_steps_is_shown_on_a_terminal(measured, monkeypatch):
    run, batches, _ = measured
    shown = io.StringIO()
    shown.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", shown)
    estimate(run, batches, 0)
    assert "18/18" in shown.getvalue()


def test_disk_is_what_the_files_then_take(nnunet, measured):
    run, _, result = measured
    assert pretrain.main(["950", "costly", "-p", "AMAEPlans", "-device", "cpu"]) == 0
    folder = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__costly" / "fold_all"
    state = (folder / "checkpoint_latest.pth").stat().st_size
    assert result.disk_bytes == disk_bytes(run)
    assert result.disk_bytes == pytest.approx(3 * state, rel=0.1)  # small tensors have headers
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert 0.1 < sum(row["seconds"] for row in rows) / result.total_seconds < 10  # a busy machine
    assert torch.load(folder / "checkpoint_latest.pth", weights_only=True)["epoch"] == 3
