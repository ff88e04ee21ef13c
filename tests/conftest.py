"""One small data set, made of phantom studies by the real converter and the real nnU-Net.

And what comes of it: a pre-training, and a model folder as a training leaves it.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

# nnU-Net reads this one when it is imported.
os.environ["nnUNet_def_n_proc"] = "1"

import pytest
import torch

from amae_nnunet.phantom.dataset import write_studies
from amae_nnunet.subsets import Score, SubsetScore, SubsetScores

DATASET = "Dataset950_Small"
MORE = "Dataset940_More"
ORDER = ("FLAIR", "T2", "TRACE")  # of 940: another order, one that 950 lacks, and ADC is missing
CONTRASTS = ("ADC", "TRACE", "T2")
CPU = torch.device("cpu")
TEMPLATE = {
    "name": "Small",
    "description": "phantom studies",
    "contrasts": {name: [f"{name}.nii.gz"] for name in CONTRASTS},
    "required": ["ADC", "TRACE"],
    "label": {"patterns": ["seg.nii.gz"], "labels": {"background": 0, "infarct": 1}},
}
TINY = [
    "embed_dim=12", "depth=2", "decoder_embed_dim=12", "decoder_depth=1", "feature_size=2",
    "num_epochs=2", "iterations_per_epoch=2", "val_iterations_per_epoch=1",
    "pretraining.num_epochs=2", "pretraining.batch_size=2",
]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def nnunet(tmp_path_factory):
    """The three folders of nnU-Net, which it reads once, and its fastest settings for a few cores.

    For all tests, so that none imports nnU-Net without them, whichever runs first.
    """
    root = tmp_path_factory.mktemp("nnunet")
    patch = pytest.MonkeyPatch()
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir()
        patch.setenv(f"nnUNet_{name}", str(root / name))
    patch.setenv("nnUNet_n_proc_DA", "0")
    patch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield root
    patch.undo()


@pytest.fixture(scope="session")
def dataset(nnunet):
    """Name of a preprocessed data set of six cases, of which some lack T2."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    from amae_nnunet.cli import convert

    write_studies(
        nnunet / "studies",
        6,
        contrasts=CONTRASTS,
        shape=(16, 32, 32),
        spacing=(6.0, 5.0, 5.0),
        availability={"ADC": 1.0, "TRACE": 1.0, "T2": 0.5},
    )
    template = nnunet / "Small.json"
    template.write_text(json.dumps(TEMPLATE))
    words = f"-i {nnunet / 'studies'} -d 950 -n Small -t {template} -np 1"
    assert convert.main(words.split()) == 0
    fingerprint = DatasetFingerprintExtractor(950, num_processes=1)
    fingerprint.num_foreground_voxels_for_intensitystats = 1000
    fingerprint.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "1")  # the planner makes it a number of threads
        ExperimentPlanner(950).plan_experiment()
    raw = nnunet / "raw" / DATASET
    shutil.copy(raw / "dataset.json", nnunet / "preprocessed" / DATASET)
    shutil.copytree(raw / "labelsTr", nnunet / "preprocessed" / DATASET / "gt_segmentations")
    DefaultPreprocessor().run(950, "3d_fullres", "nnUNetPlans", num_processes=1)
    return DATASET


@pytest.fixture(scope="session")
def tiny_plans(dataset):
    """Configuration ``tiny`` of ``AMAEPlans``: small networks, two short epochs."""
    from amae_nnunet.cli import configure

    assert configure.main(["950", "3d_fullres", "--name", "tiny", *TINY]) == 0
    return "tiny"


@pytest.fixture(scope="session")
def pretrained(tiny_plans, nnunet) -> Path:
    """The checkpoint of a short pre-training of ``tiny``."""
    from amae_nnunet.cli import pretrain

    assert pretrain.main(["950", tiny_plans, "-p", "AMAEPlans", "-device", "cpu"]) == 0
    folder = nnunet / "results" / DATASET / "AMAEPretraining__AMAEPlans__tiny" / "fold_all"
    return folder / "checkpoint_final.safetensors"


@pytest.fixture(scope="session")
def more(nnunet, dataset) -> str:
    """Name of an unlabelled data set of five cases, of which some lack T2."""
    from amae_nnunet.cli import convert

    write_studies(
        nnunet / "more", 5, 3, ORDER, (16, 32, 32), (6.0, 5.0, 5.0),
        {"FLAIR": 1.0, "T2": 0.5, "TRACE": 1.0}, prefix="more",
    )  # fmt: skip
    template = {
        "name": "More",
        "description": "phantom studies without labels",
        "contrasts": {name: [f"{name}.nii.gz"] for name in ORDER},
        "required": [],
        "label": TEMPLATE["label"],
    }
    (nnunet / "More.json").write_text(json.dumps(template))
    words = f"-i {nnunet / 'more'} -d 940 -n More -t {nnunet / 'More.json'} -np 1"
    assert convert.main([*words.split(), "--split", "unlabeled"]) == 0
    return MORE


@pytest.fixture
def more_as(nnunet, more):
    """Copies the unlabelled data set under another name; what is made of a copy ends with the test.

    Else other tests, whichever come after it in this process, would find its cases.
    """
    names = []

    def copy(name):
        names.append(name)
        return shutil.copytree(nnunet / "raw" / more, nnunet / "raw" / name)

    yield copy
    for name in names:
        for folder in (nnunet / "raw" / name, *(nnunet / "preprocessed").rglob(name)):
            shutil.rmtree(folder)


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
    """A model folder as a training leaves it, of a tiny network with random weights, and inputs."""
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
