"""Stock nnU-Net's model and ours, trained and evaluated by the installed commands."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import DATASET
from shell import Shell

from amae_nnunet.contrasts import ContrastRecord

pytestmark = pytest.mark.slow

TRAINERS = ("nnUNetTrainerShort", "AMAETrainerNoPretraining")
MODEL = "-d 950 -c tiny -p AMAEPlans"
HOW = "-f 0 -device cpu --disable_tta"


@pytest.fixture(scope="module")
def shell(nnunet, tiny_plans):
    shell = Shell(nnunet)
    shell.run_all(
        *(f"nnUNetv2_train 950 tiny 0 -tr {t} -p AMAEPlans -device cpu" for t in TRAINERS)
    )
    return shell


@pytest.fixture(scope="module")
def evaluated(shell):
    images, labels = (f"raw/{DATASET}/{name}" for name in ("imagesTr", "labelsTr"))
    return shell.run(
        f"amae-nnunet-evaluate {MODEL} -tr {' '.join(TRAINERS)} -i {images} -gt {labels} "
        f"-o evaluation {HOW} -np 1 --drop T2 --subsets required TRACE"
    )


def test_a_stock_model_and_ours_are_compared_with_a_contrast_withheld(shell, evaluated):
    folder = shell.folder / "evaluation"
    record = ContrastRecord.read(shell.folder / "raw" / DATASET)
    had = {case: record.names_present(case) for case in record.cases}
    found = json.loads((folder / "results.json").read_text())
    assert found["failures"] == []
    assert {tuple(c["had"]): c["n"] for c in found["cases"]} == {
        names: list(had.values()).count(names) for names in had.values()
    }
    for trainer in TRAINERS:
        folders = filter(Path.is_dir, (folder / "predictions" / trainer).iterdir())
        made = {path.name: len(list(path.glob("*.nii.gz"))) for path in folders}
        with_t2 = sum("T2" in names for names in had.values())
        assert made == {"ADC+TRACE+T2": with_t2, "ADC+TRACE": len(had), "TRACE": len(had)}
        assert f"{trainer}: " in evaluated
    pairs = [c for c in found["comparisons"] if c["metric"] == "dice"]
    assert [(c["first"], c["second"], c["n"]) for c in pairs] == [(*TRAINERS, 6)] * 2
    assert {w["contrast"] for w in found["worths"]} == {"T2"}


def test_withheld_is_what_stock_nnunet_predicts_and_scores_on_files_of_zeros(shell, evaluated):
    zeros = shell.folder / "zeros"
    zeros.mkdir()
    for path in (shell.folder / "raw" / DATASET / "imagesTr").glob("*.nii.gz"):
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj)
        if path.name.endswith("_0002.nii.gz"):
            voxels = np.zeros_like(voxels)
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), zeros / path.name)
    shell.run(f"nnUNetv2_predict -i zeros -o stock {MODEL} -tr {TRAINERS[0]} {HOW} -npp 1 -nps 1")
    shell.run(f"nnUNetv2_evaluate_simple raw/{DATASET}/labelsTr stock -l 1 -np 1")
    ours = shell.folder / "evaluation" / "predictions" / TRAINERS[0] / "ADC+TRACE"
    for path in sorted((shell.folder / "stock").glob("*.nii.gz")):
        one, other = (np.asarray(nibabel.load(f / path.name).dataobj) for f in (ours, path.parent))
        np.testing.assert_array_equal(one, other)
    summary = json.loads((shell.folder / "stock" / "summary.json").read_text())
    results = json.loads((shell.folder / "evaluation" / "results.json").read_text())
    (mean,) = [
        m["mean"] for m in results["means"]
        if (m["model"], m["condition"], m["metric"]) == (TRAINERS[0], "without T2", "dice")
    ]  # fmt: skip
    assert mean == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-12)
    printed = next(line for line in evaluated.splitlines() if line.startswith("without T2"))
    assert f"{mean:.3f}" in printed.split()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_cross_validation_scores_what_nnunets_own_validation_scored(shell, trainer):
    words = f"{MODEL} -tr {trainer} -o crossval_{trainer} -f 0 -device cpu -np 1"
    shell.run(f"amae-nnunet-evaluate {words} --crossval")
    model = f"results/{DATASET}/{trainer}__AMAEPlans__tiny"
    path = shell.folder / model / "fold_0" / "validation" / "summary.json"
    theirs = {
        Path(case["prediction_file"]).name[:-7]: case["metrics"]["1"]["Dice"]
        for case in json.loads(path.read_text())["metric_per_case"]
    }
    with (shell.folder / f"crossval_{trainer}" / "cases.csv").open(newline="") as file:
        ours = {row["case"]: float(row["dice"] or "nan") for row in csv.DictReader(file)}
    assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)
    assert len(ours) == 2
