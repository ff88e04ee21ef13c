"""The whole path through the installed commands, each in a fresh process, on synthetic studies."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import TEMPLATE, TINY
from shell import Shell

from amae_nnunet.phantom.dataset import write_studies

pytestmark = pytest.mark.slow

TRAINERS = ["AMAETrainer", "AMAETrainerUNETR", "nnUNetTrainerShort"]
GRID = {"shape": (16, 40, 36), "spacing": (6.0, 4.5, 4.5)}
MODEL = "-d 951 -c tiny -p AMAEPlans"


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("pipeline"))
    folder, contrasts = shell.folder, ("ADC", "TRACE", "T2")
    sometimes = {"ADC": 1.0, "TRACE": 1.0, "T2": 0.5}
    write_studies(folder / "train", 6, 0, contrasts, availability=sometimes, **GRID)
    always, never = (dict.fromkeys(contrasts, 1.0), {**sometimes, "T2": 0.0})
    write_studies(folder / "new", 1, 7, contrasts, availability=always, prefix="full", **GRID)
    write_studies(folder / "new", 1, 7, contrasts, availability=never, prefix="part", **GRID)
    (folder / "Small.json").write_text(json.dumps(TEMPLATE))
    shell.run("amae-nnunet-convert -i train -d 951 -n Small -t Small.json -np 1")
    shell.run("amae-nnunet-convert -i new -t Small.json -o inputs -np 1")
    shell.run(
        "nnUNetv2_plan_and_preprocess -d 951 -c 3d_fullres --verify_dataset_integrity "
        "-npfp 2 -np 2",
        nnUNet_n_proc_DA="1",
    )
    words = " ".join(TINY)
    shell.run(f"amae-nnunet-configure 951 3d_fullres --name tiny {words} batch_size=2")
    return shell


@pytest.fixture(scope="module")
def trained(shell):
    output = shell.run("nnUNetv2_train 951 tiny 0 -tr AMAETrainer -p AMAEPlans -device cpu", code=1)
    assert "no pre-training checkpoint at" in output
    assert "run amae-nnunet-pretrain 951 tiny -p AMAEPlans" in output
    shell.run("amae-nnunet-pretrain 951 tiny -p AMAEPlans -device cpu")
    for trainer in TRAINERS:
        shell.run(f"nnUNetv2_train 951 tiny 0 -tr {trainer} -p AMAEPlans -device cpu --npz")
    return shell


def predict(shell, trainer):
    return shell.run(
        f"nnUNetv2_predict -i inputs -o out_{trainer} {MODEL} -f 0 -tr {trainer} "
        "-device cpu --disable_tta -npp 1 -nps 1 --save_probabilities"
    )


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_predicts_full_and_partial_cases_on_their_own_grid(trained, trainer):
    predict(trained, trainer)
    for case in ("full_000", "part_000"):
        source = nibabel.load(trained.folder / "inputs" / f"{case}_0000.nii.gz")
        found = nibabel.load(trained.folder / f"out_{trainer}" / f"{case}.nii.gz")
        assert found.shape == source.shape
        np.testing.assert_allclose(found.affine, source.affine, atol=1e-4)
        assert set(np.unique(found.dataobj)) <= {0, 1}


def test_the_model_knows_the_absent_contrast_as_absent(trained):
    """T2 given and T2 absent are not the same to it, and a file of zeros is what absent is."""
    probabilities = [
        np.load(trained.folder / "out_AMAETrainer" / f"{case}_000.npz")["probabilities"]
        for case in ("full", "part")
    ]
    assert probabilities[0].shape == probabilities[1].shape
    assert not np.allclose(*probabilities, atol=1e-4)


def test_a_model_folder_moved_elsewhere_predicts_the_same_without_the_checkpoint(trained):
    predict(trained, "AMAETrainer")
    results = trained.folder / "results" / "Dataset951_Small"
    moved = trained.folder / "elsewhere"
    shutil.copytree(results / "AMAETrainer__AMAEPlans__tiny", moved)
    hidden = results.rename(results.with_name("hidden"))
    try:
        said = trained.run(
            f"amae-nnunet-convert -i new -t Small.json -o moved --for_model {moved} -np 1"
        )
        (following,) = re.findall(r"^next: (amae-nnunet-predict .*)$", said, re.M)
        trained.run(f"{following} -device cpu --disable_tta -npp 1 -nps 1")
    finally:
        hidden.rename(results)
    one, other = (
        np.asarray(nibabel.load(trained.folder / name / "part_000.nii.gz").dataobj)
        for name in ("out_AMAETrainer", "moved_predicted")
    )
    np.testing.assert_array_equal(one, other)


def test_a_checkpoint_fine_tunes_another_configuration_through_the_plans(trained):
    """With tokens of another size, and with the rates of its layers apart."""
    checkpoint = next(trained.folder.glob("results/*/AMAEPretraining*/fold_all/*.safetensors"))
    short = "num_epochs=2 iterations_per_epoch=1 val_iterations_per_epoch=1 feature_size=2"
    output = trained.run(
        f"amae-nnunet-configure 951 3d_fullres -o FinePlans --checkpoint {checkpoint} {short} "
        "num_strides=2 layer_decay=0.75 warmup_epochs=1"
    )
    assert "its kernel will be resampled" in output
    output = trained.run("nnUNetv2_train 951 3d_fullres 0 -tr AMAETrainer -p FinePlans -device cpu")
    assert "loaded the pre-trained encoder of checkpoint_final.safetensors" in output
    assert "the tokenizer's kernel is resampled" in output


def test_no_result_names_the_place_of_another_file_or_a_training_case(trained):
    folder = trained.folder / "results" / "Dataset951_Small"
    for path in [*folder.rglob("plans.json"), *folder.glob("AMAEPretraining*/*/*.json*")]:
        text = path.read_text()
        assert str(trained.folder) not in text
        assert "case_0" not in text


def test_the_demo_ends_with_a_report_a_table_and_two_pictures(tmp_path):
    tool = Path(sys.executable).parent / "amae-nnunet-demo"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    result = subprocess.run(
        [tool, "-o", tmp_path / "demo"], env=environment, capture_output=True, text=True, check=True
    )
    assert "without T2, FLAIR" in result.stdout
    assert (tmp_path / "demo" / "evaluation" / "report.html").exists()
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000
    again = subprocess.run(
        [tool, "-o", tmp_path / "demo"], env=environment, capture_output=True, text=True, check=True
    )
    assert "[1/" not in again.stdout
