import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DATASET, TINY

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.config import PretrainingConfig
from amae_nnunet.errors import ConfigError
from amae_nnunet.lock import LOCK, locked
from amae_nnunet.networks.checkpoint import load_mae, read_checkpoint
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.pretraining import loop
from amae_nnunet.pretraining.metrics import EpochRecord, read_rows, write_rows
from amae_nnunet.pretraining.run import learning_rate
from amae_nnunet.pretraining.skill import SKILL_STEPS


def folder_of(nnunet, configuration, fold="all"):
    folder = nnunet / "results" / DATASET / f"AMAEPretraining__AMAEPlans__{configuration}"
    return folder / f"fold_{fold}"


def run(configuration, *words):
    return pretrain.main(["950", configuration, "-p", "AMAEPlans", "-device", "cpu", *words])


def configured(name, *words):
    assert configure.main(["950", "3d_fullres", "--name", name, *TINY, *words]) == 0
    return name


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_metrics_its_picture_and_a_checkpoint(nnunet, pretrained):
    folder = pretrained.parent
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint_final.safetensors", "checkpoint_latest.pth", "checkpoint_previous.pth",
        "metrics.jsonl", "progress.png", "reconstruction_epoch_002.png", LOCK,
    }  # fmt: skip
    rows = lines(folder)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert all(row["studies"] == 6 for row in rows)
    assert set(rows[0]["contrast_loss"]) == {"ADC", "TRACE", "T2"}
    assert all(math.isfinite(value) for value in rows[0]["contrast_loss"].values())
    checkpoint = read_checkpoint(pretrained)
    assert checkpoint.facts["plan"]["configuration"] == "tiny"
    assert checkpoint.facts["pretraining"]["mask_ratio"] == 0.7
    assert "case_" not in json.dumps(checkpoint.facts)
    load_mae(checkpoint)


def test_results_are_never_overwritten_silently(nnunet, pretrained, capsys):
    before = pretrained.read_bytes()
    assert run("tiny") == 2
    assert "continue it with --c, or delete it" in capsys.readouterr().err
    assert run("tiny", "--c") == 0
    assert read_checkpoint(pretrained).tensors.keys()
    assert pretrained.read_bytes() == before


def test_a_new_run_says_that_there_was_nothing_to_continue(nnunet, dataset, caplog):
    name = configured("nothing", "pretraining.num_epochs=1")
    assert run(name, "--c") == 0
    assert f"{folder_of(nnunet, name)} holds nothing to continue: a new run begins" in caplog.text


def test_damaged_metrics_are_named_and_the_run_continues_without(nnunet, pretrained, capsys):
    name = configured("damaged", "pretraining.num_epochs=3")
    folder = shutil.copytree(pretrained.parent, folder_of(nnunet, name))
    (folder / pretrained.name).unlink()
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 2, "lo')  # of an epoch that is made again
    first, _, rest = path.read_text().partition("\n")
    path.write_text(f"{first[:9]}\n{rest}")
    assert run(name, "--c") == 3
    assert f"{path}: line 1 is damaged: repair it, or delete" in capsys.readouterr().err
    path.write_text(f"{first}\n{rest}")
    assert run(name, "--c") == 0
    assert [row["epoch"] for row in lines(folder)] == [0, 1, 2]


def test_a_model_that_cannot_be_trained_is_told_before_anything_is_preprocessed(
    nnunet, dataset, more_as, capsys
):
    other = more_as("Dataset952_Waiting").name
    plan = PreprocessedDataset.open("950", "3d_fullres", "nnUNetPlans").configuration
    strides = plan["architecture"]["arch_kwargs"]["strides"]
    token = [math.prod(stride[axis] for stride in strides) for axis in range(3)]
    words = [f"patch_size={','.join(map(str, token))}", f"num_strides={len(strides) - 1}"]
    assert run(configured("one_token", *words), "--unlabeled", "952") == 2
    assert "a patch is one token: nothing could be masked" in capsys.readouterr().err
    assert not list((nnunet / "preprocessed").rglob(other))


def test_a_run_whose_plans_name_a_checkpoint_says_that_trainers_take_that_one(
    nnunet, pretrained, caplog, capsys
):
    name = configured("named", "--checkpoint", str(pretrained), "pretraining.num_epochs=1")
    assert run(name) == 0
    place = pretrained.relative_to(nnunet / "results")
    assert f"AMAEPlans names the checkpoint {place}: the trainers start from that" in caplog.text
    written = folder_of(nnunet, name) / "checkpoint_final.safetensors"
    following = f"next: amae-nnunet-configure 950 {name} --checkpoint {written}\n"
    assert capsys.readouterr().out.endswith(following)
    assert configure.main(following.split()[2:]) == 0
    block = PreprocessedDataset.open("950", name, "AMAEPlans").block
    assert block.checkpoint["path"] == str(written.relative_to(nnunet / "results"))


def test_an_unlabelled_data_set_in_the_place_of_the_labelled_one_is_told(more, capsys):
    assert pretrain.main(["940", "3d_fullres"]) == 3
    message = f"it has no labels: name the labelled data set, and {more} with --unlabeled"
    assert message in capsys.readouterr().err


def test_metrics_that_a_user_deleted_on_the_way_tell_no_epoch_twice(tmp_path):
    write_rows(tmp_path, [{"epoch": epoch} for epoch in range(100, 155)])
    assert read_rows(tmp_path, 150) == [{"epoch": epoch} for epoch in range(100, 150)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["950", "tiny", "-p", "AMAEPlans"], 2, "continue it with --c, or delete it"),
        (["950", "tiny"], 3, "AMAEPlans has it: add -p AMAEPlans"),
        (["777", "tiny"], 3, "there is no data set 777"),
        (["950", "tiny", "--add_contrast", "PD", "--estimate"], 2, "leave out --estimate"),
        (["950", "tiny", "--add_contrast", "PD", "--c"], 2, "trains nothing: leave out --c"),
    ],
)
def test_what_cannot_be_is_told_before_torch_is_imported(pretrained, words, code, message):
    answer = subprocess.run(
        [Path(sys.executable).parent / "amae-nnunet-pretrain", *words],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    said = [line for line in answer.stderr.splitlines() if not line.startswith("import time:")]
    assert (answer.returncode, len(said)) == (code, 1)
    assert message in said[0]
    assert "torch" not in re.findall(r"\| +(\w+)$", answer.stderr, re.MULTILINE)


def test_a_fold_never_sees_its_validation_cases(nnunet, dataset, monkeypatch):
    name = configured("folded", "pretraining.num_epochs=1")
    seen = set()
    original = loop.RandomCrops.study_of

    def spy(self, sample):
        seen.add(original(self, sample).case)
        return original(self, sample)

    monkeypatch.setattr(loop.RandomCrops, "study_of", spy)
    assert run(name, "-f", "0") == 0
    splits = json.loads((nnunet / "preprocessed" / DATASET / "splits_final.json").read_text())
    assert seen == set(splits[0]["train"])
    assert not folder_of(nnunet, name).exists()
    facts = read_checkpoint(folder_of(nnunet, name, "0") / "checkpoint_final.safetensors").facts
    recorded = SeenCases.from_json(facts["seen_cases"])
    assert [f"{DATASET}/{case}" in recorded for case in splits[0]["train"]] == [True] * len(seen)
    assert not any(f"{DATASET}/{case}" in recorded for case in splits[0]["val"])


@pytest.mark.parametrize("fold", ["5", "00", "-1", "../all", "ALL"])
def test_a_fold_that_is_none_is_refused(nnunet, tiny_plans, capsys, fold):
    assert run(tiny_plans, f"-f={fold}") == 2
    assert f"fold {fold}: give 'all' or a number under 5" in capsys.readouterr().err
    assert not folder_of(nnunet, tiny_plans, fold).exists()


def test_learning_rate_is_constant_or_warm_up_and_cosine():
    constant = PretrainingConfig(schedule="constant", lr=1e-5)
    assert {learning_rate(constant, step, 100) for step in range(100)} == {1e-5}
    cosine = PretrainingConfig(lr=1.0)
    rates = [learning_rate(cosine, step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[52] == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95)))
    assert rates[99] < 1e-3


def test_two_runs_do_not_write_into_one_folder(nnunet, dataset, capsys):
    name = configured("owned", "pretraining.num_epochs=1")
    folder = folder_of(nnunet, name)
    folder.mkdir(parents=True)
    with locked(folder / LOCK):
        assert run(name, "--c") == 2
    assert f"another run writes into {folder}" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_a_run_that_another_began_in_the_meantime_is_not_overwritten(nnunet, pretrained, dataset):
    name = configured("meantime", "pretraining.num_epochs=1")
    folder = folder_of(nnunet, name)
    with loop._owned(folder, new=True):
        shutil.copy(pretrained, folder)
    with pytest.raises(ConfigError, match="holds a pre-training"), loop._owned(folder, new=True):
        pass
    with loop._owned(folder, new=False):
        pass


def test_a_finished_run_whose_states_were_deleted_is_not_trained_anew(nnunet, pretrained, capsys):
    name = configured("tidied", "pretraining.num_epochs=1")
    folder = folder_of(nnunet, name)
    folder.mkdir(parents=True)
    shutil.copy(pretrained, folder)
    assert run(name, "--c") == 5
    error = capsys.readouterr().err
    assert "no checkpoint_latest.pth to continue from: the run is finished" in error
    assert (folder / pretrained.name).read_bytes() == pretrained.read_bytes()


class Arrival:
    """Stands for a CUDA event: it notes that somebody waits for it."""

    def __init__(self, name, waited):
        self.name, self.waited = name, waited

    def synchronize(self):
        self.waited.append(self.name)


def test_who_reads_a_loss_waits_for_its_step_and_no_later_one():
    record, waited = EpochRecord(), []
    record.steps = [torch.tensor([float(step), 1.0]) for step in range(3)]
    record._copies.extend(Arrival(step, waited) for step in range(3))
    assert [record.loss(2), record.loss()] == [1.0, 2.0]
    assert waited == [1, 2]
    assert record.state()["steps"].shape == (3, 2)
    assert waited == [1, 2, 2]
    one = EpochRecord()
    assert one.loss(2) == 0.0
    one.add(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0]), 1)
    assert one.loss(2) == one.loss() == 3.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(nnunet, dataset, monkeypatch):
    """PyTorch raises at whatever waits for it, once the skill of the epoch is taken."""
    monkeypatch.setenv("nnUNet_compile", "f")
    flash = ["embed_dim=32", "num_heads=2", "decoder_embed_dim=32", "decoder_num_heads=2"]
    name = configured("waits", *flash, "pretraining.iterations_per_epoch=40")
    opened = PreprocessedDataset.open("950", name, "AMAEPlans")
    run, _, batches = loop.prepare(opened, loop.Options(device=torch.device("cuda")))
    passes = batches.own(0, 20, None)
    parts = iter(loop.crop_loader(batches.crops, passes, 0, pin_memory=True))
    try:
        for step in range(20):
            if step == SKILL_STEPS:
                torch.cuda.set_sync_debug_mode("error")
            loop.train_step(run, [next(parts)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
