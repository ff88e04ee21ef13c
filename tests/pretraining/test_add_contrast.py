"""A contrast of the small data set is added to models that do not know it."""

import dataclasses
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DATASET
from shell import small_disk
from tiny import shake

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.errors import AMAEError, InputError
from amae_nnunet.networks.checkpoint import Checkpoint, load_mae, read_checkpoint, save_checkpoint
from amae_nnunet.networks.mae import AdaptiveMAE
from amae_nnunet.networks.transfer import contrast_tables, for_contrasts
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.plans.seen import SeenCases
from amae_nnunet.pretraining import add_contrast as add_contrast_module
from amae_nnunet.pretraining.add_contrast import (
    FitConfig,
    add_contrast,
    fit_contrast,
    studies_with,
)
from amae_nnunet.pretraining.data import RandomCrops, crop_loader
from amae_nnunet.pretraining.loop import Options
from amae_nnunet.pretraining.rebuild import masks_of, run_model

OLD, NEW = ("TRACE", "ADC"), ("TRACE", "ADC", "T2")
FACTS = {"pretraining": {"mask_ratio": 0.7}, "seen_cases": SeenCases.of(["Dataset1_A/b"]).to_json()}


@pytest.fixture
def opened(tiny_plans):
    return PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")


def autoencoder(opened, **changes):
    config = opened.block.model_config(opened.configuration)
    return AdaptiveMAE(dataclasses.replace(config, **{"contrasts": OLD, **changes}))


@pytest.fixture
def path(opened, tmp_path):
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, shake(autoencoder(opened)), FACTS)
    return path


def run(path, name, *words):
    base = ["950", "tiny", "-p", "AMAEPlans", "-device", "cpu", "--checkpoint", str(path)]
    return pretrain.main([*base, "--add_contrast", name, *words])


@pytest.mark.parametrize("vectors", ["learned", "one_hot"])
def test_everything_but_the_new_vectors_stays_bit_for_bit(opened, path, vectors):
    torch.manual_seed(1)
    save_checkpoint(path, shake(autoencoder(opened, contrast_vectors=vectors)), FACTS)
    before = path.read_bytes()
    written = add_contrast(path, "T2", opened, Options(), FitConfig(steps=3))
    assert path.read_bytes() == before
    assert written == path.with_name("checkpoint_final_T2.safetensors")
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, written.name]
    old, new = read_checkpoint(path), read_checkpoint(written)
    assert new.config == dataclasses.replace(old.config, contrasts=NEW)
    tables = contrast_tables(old.config)
    start = for_contrasts(old.tensors, old.config, NEW)
    for name, tensor in new.tensors.items():
        if name in tables:
            dim = tables[name]
            assert torch.equal(tensor.narrow(dim, 0, 2), old.tensors[name])
            assert (tensor.select(dim, 2) != start[name].select(dim, 2)).any()
        else:
            assert torch.equal(tensor, start[name])
            assert vectors == "one_hot" or torch.equal(tensor, old.tensors[name])


def test_the_new_file_says_what_was_added_and_which_cases_it_saw(opened, path):
    facts = read_checkpoint(add_contrast(path, "T2", opened, Options(), FitConfig(steps=1))).facts
    studies = studies_with("T2", NEW, opened, Options())
    assert facts["added_contrasts"][0]["contrast"] == "T2"
    assert facts["added_contrasts"][0]["studies"] == len(studies) == facts["num_cases"] - 1
    seen = SeenCases.from_json(facts["seen_cases"])
    assert "Dataset1_A/b" in seen
    assert [f"{DATASET}/{case}" in seen for case in opened.cases()] == [
        case in {study.case for study in studies} for case in opened.cases()
    ]


def test_only_studies_that_have_the_contrast_are_used_by_name(opened):
    studies = studies_with("T2", NEW, opened, Options())
    assert 0 < len(studies) < 6
    order = opened.block.contrasts
    for study in studies:
        pairs = dict(zip(study.contrasts, study.channels, strict=True))
        assert {NEW[row]: order[channel] for row, channel in pairs.items()} == {n: n for n in NEW}
    alone = studies_with("T2", ("ADC", "T2"), opened, Options())
    assert all(len(study.contrasts) == 2 for study in alone)
    with pytest.raises(InputError, match="none of 6 studies has PD"):
        studies_with("PD", ("ADC", "PD"), opened, Options())


def test_what_cannot_be_added_is_one_line_and_nothing_is_written(nnunet, path, capsys):
    def refused(code, *words):
        assert run(path, *words) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "knows ADC already (it knows TRACE, ADC)" in refused(2, "ADC")
    assert "contrast name '../x'" in refused(3, "../x")
    assert "none of 6 studies has PD (they have ADC, TRACE, T2)" in refused(3, "PD")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    there = path.with_name("checkpoint_final_T2.safetensors")
    there.write_text("mine")
    assert "checkpoint_final_T2.safetensors exists" in refused(2, "T2")
    assert there.read_text() == "mine"
    words = ["950", "tiny", "-p", "AMAEPlans", "--checkpoint", str(path)]
    assert pretrain.main(words) == 2
    assert "--checkpoint goes with --add_contrast" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_fit(opened):
    model = autoencoder(opened)
    config = dataclasses.replace(model.config, contrasts=NEW)
    tensors = for_contrasts(model.state_dict(), model.config, NEW)
    tensors["mask_token"] = tensors["mask_token"] * torch.nan
    model = load_mae(Checkpoint(config, {}, tensors))
    with pytest.raises(AMAEError, match="loss became nan in step 0: nothing is written"):
        fit_contrast(model, studies_with("T2", NEW, opened, Options()), 0.7, FitConfig(steps=1))


@pytest.fixture(scope="module")
def trained(nnunet, tiny_plans):
    """A model that was really trained on TRACE and T2, and knows no ADC, which looks otherwise."""
    words = ["embed_dim=48", "decoder_embed_dim=48", "depth=2", "decoder_depth=1"]
    assert configure.main(["950", "3d_fullres", "--name", "wider", *words]) == 0
    opened = PreprocessedDataset.open("950", "wider", "AMAEPlans")
    torch.manual_seed(0)
    model = autoencoder(opened, contrasts=("TRACE", "T2"))
    studies = studies_with("TRACE", ("TRACE", "T2"), opened, Options())
    optimizer = torch.optim.AdamW(model.parameters(), 0.002)
    crops = RandomCrops(studies, 2, model.config.patch_size, 0)
    batches = [[at, at + 1, at + 2] for at in range(0, 3000, 3)]
    for x, present, seeds in crop_loader(crops, batches, 0, False):
        slots, masked = masks_of(present, seeds.tolist(), model.config.num_tokens, 0.7)
        loss = run_model(model, x, slots, masked, model.config).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.slow
def test_the_fitted_vector_rebuilds_unseen_studies_better_than_the_mean(
    trained, tmp_path, capsys, caplog
):
    path = tmp_path / "checkpoint_final.safetensors"
    save_checkpoint(path, trained, FACTS)
    words = ["950", "wider", "-p", "AMAEPlans", "-device", "cpu", "--checkpoint", str(path)]
    assert pretrain.main([*words, "--add_contrast", "ADC"]) == 0
    written = path.with_name("checkpoint_final_ADC.safetensors")
    assert f"wrote {written}" in capsys.readouterr().out
    added = read_checkpoint(written).facts["added_contrasts"][0]
    errors = added["masked_error"]
    assert (added["studies"], errors["held_out"]) == (5, True)
    assert errors["fitted"] < 0.95 * errors["mean_vector"]
    assert "error of ADC alone, in the middle of 1 held-out of 6 studies: " in caplog.text
    words = ["950", "3d_fullres", "-o", "AddedPlans", "--checkpoint", str(written)]
    assert configure.main(words) == 0
    assert "contrasts: ADC, TRACE, T2 from the checkpoint\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_reading_process_that_dies_is_one_line_and_nothing_is_written(path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    original = add_contrast_module.run_model

    def kills(*args):
        for reader in multiprocessing.active_children():
            reader.kill()
        return original(*args)

    monkeypatch.setattr(add_contrast_module, "run_model", kills)
    assert run(path, "T2") == 1
    error = capsys.readouterr().err
    assert "a process that reads studies died, perhaps out of memory: run it again, with" in error
    assert "Traceback" not in error
    assert "--c " not in error
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(opened, path, tmp_path, nnunet):
    """The checkpoint lies on a disk that has room for it and a half."""
    disk, rescued = tmp_path / "disk", tmp_path / "rescued"
    disk.mkdir()
    prefix = small_disk(int(1.5 * path.stat().st_size / 1000), disk)
    tool = Path(sys.executable).parent / "amae-nnunet-pretrain"
    script = 'cp "$FILE" "$DISK"; "$@"; code=$?; cp -r "$DISK" "$RESCUED"; exit $code'
    words = ["950", "tiny", "-p", "AMAEPlans", "-device", "cpu", "--add_contrast", "T2"]
    process = subprocess.run(
        [*prefix, "sh", "-c", script, "sh", tool, *words, "--checkpoint", disk / path.name],
        env={**os.environ, "FILE": str(path), "DISK": str(disk), "RESCUED": str(rescued)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if "error:" in line]
    assert "cannot write" in line
    assert "make room and run it again" in line
    assert "--c" not in line.partition("MB free")[2]
    assert "Traceback" not in process.stderr
    assert [p.name for p in rescued.iterdir()] == [path.name]
    assert (rescued / path.name).read_bytes() == path.read_bytes()
