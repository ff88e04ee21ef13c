import json

import pytest
import torch
from conftest import DATASET, TINY

from amae_nnunet.cli import configure, pretrain
from amae_nnunet.pretraining.run import compiles_on


def losses(nnunet, name, *words):
    """The losses of a short pre-training, an epoch each; or the exit code if it failed."""
    assert configure.main(["950", "3d_fullres", "--name", name, *TINY, *words]) == 0
    code = pretrain.main(["950", name, "-p", "AMAEPlans", "-device", "cpu"])
    if code:
        return code
    folder = nnunet / "results" / DATASET / f"AMAEPretraining__AMAEPlans__{name}"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], *line["contrast_loss"].values()) for line in lines]


def test_a_slot_budget_and_checkpointing_train_as_without(nnunet, dataset, capsys):
    plain = losses(nnunet, "plain", "pretraining.lr=0.01")
    filled = losses(
        nnunet, "filled", "pretraining.lr=0.01", "pretraining.slot_budget=8",
        "pretraining.activation_checkpointing=true",
    )  # fmt: skip
    assert len(plain) == 2
    for row, other in zip(plain, filled, strict=True):
        assert other == pytest.approx(row, rel=1e-4)
    assert losses(nnunet, "narrow", "pretraining.slot_budget=2") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "but slot_budget=2: raise pretraining.slot_budget" in error


def test_networks_are_compiled_on_cuda_unless_nnunets_variable_says_no(monkeypatch):
    monkeypatch.delenv("nnUNet_compile", raising=False)
    assert compiles_on(torch.device("cuda"))
    assert not compiles_on(torch.device("cpu"))
    monkeypatch.setenv("nnUNet_compile", "f")
    assert not compiles_on(torch.device("cuda"))
