"""A model folder as a training leaves it, of a tiny network with random weights, and inputs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import DATASET

from amae_nnunet.subsets import Score, SubsetScore, SubsetScores

CONTRASTS = ("ADC", "TRACE", "T2")
CPU = torch.device("cpu")


@dataclass
class Place:
    """The model, and a folder in which each of two cases has all three contrasts."""

    model: Path
    inputs: Path

    def folder(self, path, **without):
        """A copy of the inputs in which cases lack the named channels."""
        shutil.copytree(self.inputs, path)
        for case, channels in without.items():
            for channel in channels:
                (path / f"{case}_{CONTRASTS.index(channel):04d}.nii.gz").unlink()
        return path


@pytest.fixture(scope="session")
def place(nnunet, tiny_plans, tmp_path_factory):
    from amae_nnunet.training.trainer import AMAETrainerNoPretraining

    folder = nnunet / "preprocessed" / DATASET
    plans = json.loads((folder / "AMAEPlans.json").read_text())
    plans["continue_training"] = False
    dataset_json = json.loads((folder / "dataset.json").read_text())
    model = nnunet / "results" / DATASET / "AMAETrainer__AMAEPlans__predicts"
    for fold in (0, 1):
        torch.manual_seed(fold)
        trainer = AMAETrainerNoPretraining(plans, tiny_plans, fold, dataset_json, CPU)
        trainer.initialize()
        (model / f"fold_{fold}").mkdir(parents=True)
        trainer.save_checkpoint(str(model / f"fold_{fold}" / "checkpoint_final.pth"))
        cases = [(CONTRASTS, 0.6 + fold / 10), (("ADC", "TRACE"), 0.5)]
        scores = [SubsetScore(names, 1, {"infarct": Score(1, dice)}) for names, dice in cases]
        SubsetScores.of(CONTRASTS, True, scores[: 2 - fold]).write(model / f"fold_{fold}")
    for name, content in (("dataset", dataset_json), ("plans", trainer.plans_manager.plans)):
        (model / f"{name}.json").write_text(json.dumps(content))
    inputs = tmp_path_factory.mktemp("inputs") / "all"
    inputs.mkdir()
    for source in sorted((nnunet / "studies").iterdir()):
        files = [source / f"{name}.nii.gz" for name in CONTRASTS]
        if all(path.exists() for path in files) and len(list(inputs.iterdir())) < 6:
            for channel, path in enumerate(files):
                shutil.copy(path, inputs / f"{source.name}_{channel:04d}.nii.gz")
    assert len(list(inputs.iterdir())) == 6
    return Place(model, inputs)


@pytest.fixture
def names(place):
    """Of the two cases."""
    return sorted({path.name[:-12] for path in place.inputs.iterdir()})
