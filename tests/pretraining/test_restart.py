"""Runs that are stopped, killed, out of disk or out of range: real processes, real signals."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pretraining.test_loop import configured, folder_of
from shell import small_disk

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.networks.checkpoint import read_checkpoint
from amae_nnunet.pretraining import loop, state
from amae_nnunet.pretraining.parallel import load_optimizer
from amae_nnunet.pretraining.stop import Stopped, StopSignals

pytestmark = pytest.mark.slow  # processes, or real work for half a minute

WORDS = ["pretraining.num_epochs=3", "pretraining.iterations_per_epoch=20", "pretraining.lr=0.001",
         "schedule=cosine", "whole_contrast_prob=0.3"]  # fmt: skip


def arguments(name, *words):
    return ["950", name, "-p", "AMAEPlans", "-device", "cpu", *words]


def start(name, *words, prefix=(), **variables):
    tool = Path(sys.executable).parent / "amae-nnunet-pretrain"
    return subprocess.Popen(
        [*prefix, tool, *arguments(name, *words)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def tensors(folder):
    return read_checkpoint(folder / "checkpoint_final.safetensors").tensors


def same_state(one, other):
    """Weights, moments of the optimizer and place, bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same_state(one[k], other[k]) for k in one if k != "seconds"
        )
    if isinstance(one, (list, tuple)):
        return all(same_state(a, b) for a, b in zip(one, other, strict=True))
    return one == other


@pytest.fixture(scope="module")
def whole(nnunet, dataset):
    """The results of a run that nothing disturbed."""
    name = configured("whole", *WORDS)
    assert pretrain.main(arguments(name)) == 0
    return folder_of(nnunet, name)


def assert_equal_to(whole, folder):
    assert rows(folder) == rows(whole)
    assert len(rows(folder)) == 3
    one, other = tensors(whole), tensors(folder)
    assert all(torch.equal(one[key], other[key]) for key in one)
    states = [torch.load(f / "checkpoint_latest.pth", weights_only=True) for f in (whole, folder)]
    for content in states:
        del content["identity"]
    assert same_state(*states)


def test_sigterm_finishes_the_step_saves_and_continues_bit_by_bit(nnunet, whole):
    """To the whole process group, as a cluster sends it, with processes that read data."""
    name = configured("terminated", *WORDS)
    folder = folder_of(nnunet, name)
    process = start(name, nnUNet_n_proc_DA="1")
    wait_for(lambda: (folder / "metrics.jsonl").exists())
    os.killpg(process.pid, signal.SIGTERM)
    output, error = process.communicate(timeout=600)
    assert process.returncode == 143, error
    assert "stopped by SIGTERM" in output
    assert "continue with --c" in output
    assert "Traceback" not in error
    saved = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    assert 0 < saved["epoch"] * 20 + saved["iteration"] < 60
    assert pretrain.main(arguments(name, "--c")) == 0
    assert_equal_to(whole, folder)


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_little_and_continues_bit_by_bit(nnunet, whole):
    name = configured("killed", *WORDS)
    folder = folder_of(nnunet, name)
    for epochs in (1, 2):
        process = start(name, "--c")
        wait_for(lambda: len(saved_rows(folder)) >= epochs)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert (folder / "checkpoint_latest.pth").exists() or (
        folder / "checkpoint_previous.pth"
    ).exists()
    assert pretrain.main(arguments(name, "--c")) == 0
    assert_equal_to(whole, folder)


def saved_rows(folder):
    """Lines of metrics, once there is a state as well."""
    states = ("checkpoint_latest.pth", "checkpoint_previous.pth")
    return rows(folder) if any((folder / name).exists() for name in states) else []


def stopped_after(monkeypatch, name, steps, *words):
    """Run until so many steps are done, then let a real SIGINT come."""
    original, done = loop.train_step, []

    def step(*args):
        original(*args)
        done.append(1)
        if len(done) == steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "train_step", step)
    assert pretrain.main(arguments(name, *words)) == 130
    monkeypatch.undo()


@pytest.mark.parametrize("steps", [1, 20, 33, 59])
def test_a_run_continues_from_any_step_bit_by_bit(nnunet, whole, monkeypatch, steps):
    name = configured(f"broken{steps}", *WORDS)
    stopped_after(monkeypatch, name, steps)
    with (folder_of(nnunet, name) / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": 7}\n')  # written, then killed before the state was
    assert pretrain.main(arguments(name, "--c")) == 0
    assert_equal_to(whole, folder_of(nnunet, name))


def test_a_second_signal_ends_the_run_at_once():
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert Stopped(signal.SIGTERM, "x").exit_code == 143


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b""),
                                    Path.unlink])  # fmt: skip
def test_a_damaged_state_falls_back_to_the_one_before(nnunet, whole, monkeypatch, caplog, damage):
    name = configured(f"damaged{len(list(nnunet.glob('results/*/*damaged*')))}", *WORDS)
    folder = folder_of(nnunet, name)
    stopped_after(monkeypatch, name, 45)
    previous = torch.load(folder / "checkpoint_previous.pth", weights_only=True)
    assert (previous["epoch"], previous["iteration"]) == (2, 0)
    damage(folder / "checkpoint_latest.pth")
    assert pretrain.main(arguments(name, "--c")) == 0
    assert "checkpoint_latest.pth is damaged or lost: trying the state saved before" in caplog.text
    assert "continuing after step 40 of 60" in caplog.text
    assert_equal_to(whole, folder)


def test_two_damaged_states_are_refused(nnunet, whole, tmp_path, capsys):
    name = configured("ruined", *WORDS)
    folder = folder_of(nnunet, name)
    folder.mkdir(parents=True)
    for path in ("checkpoint_latest.pth", "checkpoint_previous.pth"):
        shutil.copy(whole / path, folder)
        truncate(folder / path)
    assert pretrain.main(arguments(name, "--c")) == 5
    assert "delete both to start anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flags", "message"),
    [
        (["depth=1"], [], r"of another model than the plans describe \(depth was 2\)"),
        (["pretraining.batch_size=3"], [], "was trained with batch_size 2, the plans now say 3"),
        (
            ["pretraining.iterations_per_epoch=41"],
            [],
            "with iterations 20, the plans now say 41",
        ),
        (["seed=1"], [], "was trained with seed 0, the plans now say 1"),
        (["mask_ratio=0.5"], [], "with mask_ratio 0.7, the plans now say 0.5"),
        (["whole_contrast_prob=0.1"], [], "with whole_contrast_prob 0.3, the plans now say 0.1"),
    ],
)
def test_a_run_that_would_not_be_the_same_is_refused(nnunet, whole, capsys, words, flags, message):
    name = configured(f"changed{len(list(nnunet.glob('results/*/*changed*')))}", *WORDS, *words)
    folder_of(nnunet, name).mkdir(parents=True)
    shutil.copy(whole / "checkpoint_latest.pth", folder_of(nnunet, name))
    assert pretrain.main(arguments(name, "--c", *flags)) == 5
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("words", [[], ["pretraining.slot_budget=4"]])
def test_studies_that_came_since_are_left_out_and_the_run_continues_bit_by_bit(
    nnunet, more_as, monkeypatch, caplog, capsys, words
):
    """An unlabelled case is repaired while the run is interrupted; then another one is gone."""
    number = 943 + len(words)
    copied = more_as(f"Dataset{number}_Late")
    broken, other = (copied / "imagesTr" / f"more_00{n}_0001.nii.gz" for n in (2, 4))
    aside = broken.rename(nnunet / broken.name)
    flags = ["--unlabeled", str(number), "-np", "1"]
    names = [configured(f"{kind}_{number}", *WORDS, *words) for kind in ("straight", "late")]
    assert pretrain.main(arguments(names[0], *flags)) == 0
    stopped_after(monkeypatch, names[1], 33, *flags)
    aside.rename(broken)
    assert pretrain.main(arguments(names[1], *flags, "--c")) == 0
    assert "1 of 11 studies came after this run began and are left out" in caplog.text
    folders = [folder_of(nnunet, name) for name in names]
    assert_equal_to(*folders)
    facts = [read_checkpoint(f / "checkpoint_final.safetensors").facts for f in folders]
    assert facts[0]["seen_cases"] == facts[1]["seen_cases"]
    other.unlink()
    capsys.readouterr()
    assert pretrain.main(arguments(names[1], *flags, "--c")) == 5
    assert "was trained on 10 studies, of which 1 are gone" in capsys.readouterr().err


def test_a_study_that_has_other_contrasts_by_now_is_told(nnunet, more_as, monkeypatch, caplog):
    copied = more_as("Dataset945_Other")
    flags, name = ["--unlabeled", "945", "-np", "1"], configured("other", *WORDS)
    stopped_after(monkeypatch, name, 33, *flags)
    record = json.loads((copied / "contrasts.json").read_text())
    case = next(c for c in sorted(record["cases"]) if record["cases"][c]["present"] == "111")
    record["cases"][case]["present"] = "101"
    (copied / "contrasts.json").write_text(json.dumps(record))
    path = copied / "imagesTr" / f"{case}_0001.nii.gz"
    image = nibabel.load(path)
    zeros = np.zeros(image.shape, np.float32)
    nibabel.save(nibabel.Nifti1Image(zeros, image.affine, image.header), path)
    assert pretrain.main(arguments(name, *flags, "--c")) == 0
    found = re.findall(r"(\d+) studies had (\w+) when this run began, and (\d+) have", caplog.text)
    ((before, contrast, now),) = found
    assert (contrast, int(before) - int(now)) == ("T2", 1)


def test_rate_decay_and_length_may_change(nnunet, whole):
    name = configured("longer", *WORDS, "pretraining.num_epochs=4", "pretraining.weight_decay=0.5")
    folder = folder_of(nnunet, name)
    folder.mkdir(parents=True)
    shutil.copy(whole / "metrics.jsonl", folder)
    saved = torch.load(whole / "checkpoint_latest.pth", weights_only=True)
    for group in saved["optimizer_state"]["param_groups"]:
        group["fused"] = True  # as on a GPU
    torch.save(saved, folder / "checkpoint_latest.pth")
    assert pretrain.main(arguments(name, "--c")) == 0
    assert [row["epoch"] for row in rows(folder)] == [0, 1, 2, 3]
    assert rows(folder)[:3] == rows(whole)
    saved = torch.load(folder / "checkpoint_latest.pth", weights_only=True)
    groups = saved["optimizer_state"]["param_groups"]
    assert [(group["weight_decay"], group["fused"]) for group in groups] == [
        (0.5, False),
        (0.0, False),
    ]


def test_the_count_of_steps_is_where_the_kind_of_update_wants_it():
    def optimizer(device, fused):
        adam = torch.optim.AdamW([torch.zeros(3, device=device, requires_grad=True)])
        adam.param_groups[0]["fused"] = fused
        return adam

    on_cpu = optimizer("cpu", fused=False)
    on_cpu.param_groups[0]["params"][0].grad = torch.ones(3)
    on_cpu.step()
    elsewhere = optimizer("meta", fused=True)  # as on a GPU, whose kernel reads the count there
    load_optimizer(elsewhere, on_cpu.state_dict())
    (state,) = elsewhere.state.values()
    assert {name: value.device.type for name, value in state.items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )
    assert elsewhere.param_groups[0]["fused"]


def test_a_run_that_is_made_shorter_than_it_is_ends_with_what_it_has(nnunet, whole, monkeypatch):
    name = configured("shortened", *WORDS)
    shutil.copytree(whole, folder_of(nnunet, name))
    final = folder_of(nnunet, name) / "checkpoint_final.safetensors"
    final.unlink()
    assert configure.main(["950", name, "pretraining.num_epochs=1"]) == 0
    assert pretrain.main(arguments(name, "--c")) == 0
    assert read_checkpoint(final).facts["epochs"] == 3
    assert same_state(tensors(final.parent), tensors(whole))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_last_good_state_stays(nnunet, whole, tmp_path):
    """The results lie on a disk that has room for one state and a half."""
    name = configured("full", *WORDS)
    results, rescued = tmp_path / "results", tmp_path / "rescued"
    results.mkdir()
    size = (whole / "checkpoint_latest.pth").stat().st_size
    prefix = small_disk(int(1.5 * size / 1000), results)
    tool = Path(sys.executable).parent / "amae-nnunet-pretrain"
    script = '"$@"; code=$?; cp -r "$nnUNet_results" "$RESCUED"; exit $code'
    process = subprocess.run(
        [*prefix, "sh", "-c", script, "sh", tool, *arguments(name)],
        env={**os.environ, "nnUNet_results": str(results), "RESCUED": str(rescued)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    errors = [line for line in process.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "cannot write" in errors[0]
    assert "make room and continue with --c" in errors[0]
    assert "Traceback" not in process.stderr
    saved = next(rescued.rglob("fold_all"))
    assert not list(saved.glob("*.tmp"))
    folder = folder_of(nnunet, name)
    shutil.copytree(saved, folder)
    assert torch.load(folder / "checkpoint_latest.pth", weights_only=True)["epoch"] == 1
    assert pretrain.main(arguments(name, "--c")) == 0
    assert_equal_to(whole, folder)


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_good_state_stays(
    nnunet, whole, capsys
):
    name = configured("wild", *WORDS, "pretraining.num_epochs=6", "pretraining.lr=1e30",
                      "schedule=constant")  # fmt: skip
    folder = folder_of(nnunet, name)
    folder.mkdir(parents=True)
    for file in ("checkpoint_latest.pth", "metrics.jsonl"):
        shutil.copy(whole / file, folder)
    before = (folder / "checkpoint_latest.pth").read_bytes()
    assert pretrain.main(arguments(name, "--c")) == 1
    error = capsys.readouterr().err
    assert "lower pretraining.lr with amae-nnunet-configure and continue with --c" in error
    assert (folder / "checkpoint_latest.pth").read_bytes() == before
    assert not (folder / "checkpoint_final.safetensors").exists()
    configure.main(["950", name, "pretraining.lr=0.0001"])
    assert pretrain.main(arguments(name, "--c")) == 0
    assert len(rows(folder)) == 6


def test_weights_that_are_not_finite_are_never_saved(nnunet, whole, monkeypatch, capsys):
    """The gradient of a step may be NaN where its loss was not."""
    name = configured("poisoned", *WORDS)
    original = loop.end_epoch

    def poisoned(run):
        if run.epoch == 1:
            with torch.no_grad():
                run.model.mask_token[0] = float("nan")
        original(run)

    monkeypatch.setattr(loop, "end_epoch", poisoned)
    assert pretrain.main(arguments(name)) == 1
    assert "a weight became infinite or NaN" in capsys.readouterr().err
    saved = torch.load(folder_of(nnunet, name) / "checkpoint_latest.pth", weights_only=True)
    assert saved["epoch"] == 1
    monkeypatch.undo()
    assert pretrain.main(arguments(name, "--c")) == 0
    assert_equal_to(whole, folder_of(nnunet, name))


def test_a_long_epoch_is_saved_on_the_way(nnunet, whole, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    name = configured("slow", *WORDS)
    saves, original = [], loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda run: (saves.append(run.step), original(run)))
    assert pretrain.main(arguments(name)) == 0
    assert saves == list(range(1, 61))
    assert_equal_to(whole, folder_of(nnunet, name))


def test_large_states_are_not_written_after_every_short_epoch(nnunet, whole, monkeypatch):
    monkeypatch.setattr(loop, "LARGE", 0)
    monkeypatch.setattr(loop, "PAUSE", 3600.0)
    name = configured("large", *WORDS)
    saves, original = [], loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda run: (saves.append(run.step), original(run)))
    train_step = loop.train_step

    def crashes(run, batch):
        if run.step == 50:
            raise KeyboardInterrupt
        if run.step == 25 and not saves:
            run.saved -= 3600.0  # an hour later
        train_step(run, batch)

    monkeypatch.setattr(loop, "train_step", crashes)
    assert pretrain.main(arguments(name)) == 130
    (saved,) = saves  # at the end of the epoch that was under way
    assert 25 < saved < 50
    monkeypatch.setattr(loop, "train_step", train_step)
    assert pretrain.main(arguments(name, "--c")) == 0
    assert saves == [saved, 60]
    assert_equal_to(whole, folder_of(nnunet, name))


def test_a_reading_process_that_dies_is_one_line(nnunet, whole, monkeypatch, capsys):
    name = configured("orphaned", *WORDS)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    original = loop.train_step

    def kills(*args):
        original(*args)
        for reader in multiprocessing.active_children():
            reader.kill()

    monkeypatch.setattr(loop, "train_step", kills)
    assert pretrain.main(arguments(name)) == 1
    assert "a process that reads studies died" in capsys.readouterr().err


def test_the_state_can_be_read_without_running_code(whole):
    content = torch.load(whole / state.LATEST_NAME, weights_only=True)
    assert "case_" not in content["identity"]
    assert str(whole) not in content["identity"]
