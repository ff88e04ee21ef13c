"""Every stock command of nnU-Net with our trainers, as ``docs/stock-commands.md`` has them.

All share one small data set and the models that ``trained`` makes of it.
"""

import json
import pickle
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import DATASET, TINY
from shell import Shell

from amae_nnunet.cli import configure
from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.plans.preprocessed import PreprocessedDataset
from amae_nnunet.subsets import SubsetScores

pytestmark = pytest.mark.slow

PLANS = "StockPlans"
SCRATCH = "AMAETrainerNoPretraining"
ON = f"-p {PLANS} -device cpu"
TWO_FOLDS = "-f 0 1 -chk checkpoint_best.pth --save_probabilities -device cpu"


def result(shell, trainer, configuration="tiny", plans=PLANS, dataset=DATASET):
    return shell.folder / "results" / dataset / f"{trainer}__{plans}__{configuration}"


def log_of(fold):
    return "".join(path.read_text() for path in sorted(fold.glob("training_log_*.txt")))


def last_line(output):
    return output.strip().splitlines()[-1]


def probabilities(folder, case):
    return np.load(folder / f"{case}.npz")["probabilities"]


def dice_of(fold):
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    return [case["metrics"]["1"]["Dice"] for case in summary["metric_per_case"]]


@pytest.fixture(scope="module")
def shell(nnunet, pretrained):
    """Plans that start from a checkpoint, and a case with all contrasts and one without T2."""
    shell = Shell(nnunet)
    checkpoint = ["--checkpoint", str(pretrained), "batch_size=2", *TINY]
    assert configure.main(["950", "3d_fullres", "-o", PLANS, "--name", "tiny", *checkpoint]) == 0
    PreprocessedDataset.open("950", "tiny", PLANS).training_cases("0")  # makes the splits
    (nnunet / "inputs").mkdir()
    record = ContrastRecord.read(nnunet / "raw" / DATASET)
    present = {case: entry.present[2] for case, entry in record.cases.items()}
    for name, flag in (("full", True), ("part", False)):
        case = next(case for case, has in present.items() if has is flag)
        for path in (nnunet / "raw" / DATASET / "imagesTr").glob(f"{case}_*"):
            shutil.copy(path, nnunet / "inputs" / path.name.replace(case, name))
    return shell


@pytest.fixture(scope="module")
def trained(shell):
    """Two folds of one trainer, one of another, and one of stock nnU-Net's network."""
    shell.run_all(
        f"nnUNetv2_train 950 tiny 0 -tr AMAETrainer {ON} --npz",
        f"nnUNetv2_train 950 tiny 1 -tr AMAETrainer {ON} --npz --val_best",
        f"nnUNetv2_train 950 tiny 0 -tr AMAETrainerUNETR {ON} --npz",
        f"nnUNetv2_train 950 tiny 0 -tr nnUNetTrainerShort {ON} --npz",
        f"nnUNetv2_train 950 tiny all -tr AMAETrainer {ON} --disable_checkpointing",
    )
    return shell


@pytest.fixture(scope="module")
def predicted(trained):
    """What nnUNetv2_predict says, with mirroring, of two folds; and the rival of its ensemble."""
    model = f"-d 950 -c tiny -p {PLANS}"
    trained.run_all(
        f"nnUNetv2_predict -i inputs -o two_folds {model} -tr AMAETrainer {TWO_FOLDS} "
        "-npp 2 -nps 2",
        f"nnUNetv2_predict -i inputs -o rival {model} -tr nnUNetTrainerShort -f 0 -device cpu "
        "--save_probabilities --disable_tta -npp 1 -nps 1",
    )
    return trained


@pytest.fixture(scope="module")
def others(shell, pretrained):
    """Trainings of other plans and other labels."""
    write_other_labels(
        shell,
        "Dataset952_Regions",
        half_is_core,
        labels={"background": 0, "lesion": [1, 2], "core": [2]},
        regions_class_order=[1, 2],
    )
    write_other_labels(
        shell,
        "Dataset953_Ignore",
        ignore_a_side,
        labels={"background": 0, "infarct": 1, "ignore": 2},
    )
    write_cascade_plans(shell)
    shell.run("nnUNetv2_plan_experiment -d 950 -pl nnUNetPlannerResEncM", nnUNet_n_proc_DA="1")
    shell.run_all(
        "nnUNetv2_preprocess -d 950 -plans_name CascadePlans -c 3d_lowres -np 1",
        "nnUNetv2_preprocess -d 952 -c 3d_fullres -np 1",
        "nnUNetv2_preprocess -d 953 -c 3d_fullres -np 1",
    )
    words = ["-p", "nnUNetResEncUNetMPlans", "-o", "ResEncPlans", "batch_size=2", "--checkpoint"]
    assert configure.main(["950", "3d_fullres", *words, str(pretrained), *TINY]) == 0
    for number in ("952", "953"):
        assert configure.main([number, "3d_fullres", *TINY, "batch_size=2"]) == 0
    shell.run_all(
        f"nnUNetv2_train 950 3d_lowres 0 -tr {SCRATCH} -p CascadePlans -device cpu",
        "nnUNetv2_train 950 3d_fullres 0 -tr AMAETrainer -p ResEncPlans -device cpu",
        f"nnUNetv2_train 952 3d_fullres 0 -tr {SCRATCH} -p AMAEPlans -device cpu",
        f"nnUNetv2_train 953 3d_fullres 0 -tr {SCRATCH} -p AMAEPlans -device cpu",
    )
    return shell


def write_cascade_plans(shell):
    """As nnU-Net plans them for larger images, which this data set's are not."""
    path = shell.folder / "preprocessed" / DATASET / "CascadePlans.json"
    plans = json.loads(path.with_name(f"{PLANS}.json").read_text())
    settings = plans["configurations"]["tiny"]["amae"]
    plans["plans_name"] = "CascadePlans"
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "CascadePlans_3d_lowres",
        "spacing": [6.0, 6.0, 6.0],
        "next_stage": "3d_cascade_fullres",
        "amae": {key: settings[key] for key in ("model", "training")},
    }
    plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    path.write_text(json.dumps(plans))


def write_other_labels(shell, dataset, change, **values):
    """The data set again: ``change`` makes the new label map, ``values`` go to dataset.json."""
    old, prepared = (shell.folder / part / DATASET for part in ("raw", "preprocessed"))
    raw, folder = (shell.folder / part / dataset for part in ("raw", "preprocessed"))
    shutil.copytree(old, raw)
    for path in (raw / "labelsTr").glob("*.nii.gz"):
        image = nibabel.load(path)
        label = change(np.asarray(image.dataobj).astype(np.uint8))
        nibabel.save(nibabel.Nifti1Image(label, image.affine, image.header), path)
    dataset_json = {**json.loads((old / "dataset.json").read_text()), **values}
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    folder.mkdir()
    for name in ("dataset_fingerprint.json", "splits_final.json"):
        shutil.copy(prepared / name, folder)
    shutil.copy(raw / "dataset.json", folder)
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    (folder / "nnUNetPlans.json").write_text(json.dumps({**plans, "dataset_name": dataset}))


def half_is_core(label):
    """Half of the lesion becomes 2, which a region of its own and the whole lesion have."""
    first = np.argwhere(label)[: label.sum() // 2]
    label[tuple(first.T)] = 2
    return label


def ignore_a_side(label):
    label[:8] = 2
    return label


@pytest.fixture(scope="module")
def refused(others):
    """The last line of what cannot be trained."""
    commands = {
        "-num_gpus": f"nnUNetv2_train 950 tiny 0 -tr AMAETrainer {ON} -num_gpus 2",
        "2d": "nnUNetv2_train 950 2d 0 -tr AMAETrainer -device cpu",
        "cascade": f"nnUNetv2_train 950 3d_cascade_fullres 0 -tr {SCRATCH} -p CascadePlans "
        "-device cpu",
    }
    outputs = others.run_all(*commands.values(), code=1)
    assert "Traceback" not in outputs[1]
    return dict(zip(commands, map(last_line, outputs), strict=True))


def test_train_folds(trained):
    for trainer, fold in (("AMAETrainer", 0), ("AMAETrainer", 1), ("AMAETrainerUNETR", 0)):
        folder = result(trained, trainer) / f"fold_{fold}"
        for name in ("checkpoint_final.pth", "checkpoint_best.pth", "progress.png"):
            assert (folder / name).exists()
        assert "loaded the pre-trained encoder of checkpoint_final.safetensors" in log_of(folder)
        best = (trainer, fold) == ("AMAETrainer", 1)
        expected = f"checkpoint_{'best' if best else 'final'}.pth"
        assert SubsetScores.read(folder).checkpoint == expected
        cases = json.loads(
            (trained.folder / "preprocessed" / DATASET / "splits_final.json").read_text()
        )[fold]["val"]
        for case in cases:
            assert probabilities(folder / "validation", case).shape == (2, 16, 32, 32)


def test_train_all_without_checkpoints(trained):
    folder = result(trained, "AMAETrainer") / "fold_all"
    assert "loaded the pre-trained encoder" in log_of(folder)
    assert len(dice_of(folder)) == 6
    assert SubsetScores.read(folder).checkpoint is None
    assert not list(folder.glob("*.pth"))


def test_train_continue(trained, pretrained):
    """The checkpoint of the pre-training is not asked for."""
    longer = ["950", "tiny", "-o", PLANS, "num_epochs=3"]
    assert configure.main(longer) == 0
    hidden = pretrained.rename(pretrained.with_suffix(".hidden"))
    try:
        output = trained.run(f"nnUNetv2_train 950 tiny 0 -tr AMAETrainerUNETR {ON} --c")
    finally:
        hidden.rename(pretrained)
        assert configure.main([*longer[:-1], "num_epochs=2"]) == 0
    assert "Epoch 2" in output
    assert "Epoch 1" not in output
    assert "loaded the pre-trained encoder" not in output


def test_train_val(trained, pretrained):
    """The validation again, to the last digit, of the last and of the best checkpoint."""
    folders = [result(trained, "AMAETrainer") / f"fold_{fold}" for fold in (0, 1)]
    before = [dice_of(folder) for folder in folders]
    for folder in folders:
        shutil.rmtree(folder / "validation")
    hidden = pretrained.rename(pretrained.with_suffix(".hidden"))
    try:
        trained.run_all(
            f"nnUNetv2_train 950 tiny 0 -tr AMAETrainer {ON} --val --npz",
            f"nnUNetv2_train 950 tiny 1 -tr AMAETrainer {ON} --val --val_best --npz",
        )
    finally:
        hidden.rename(pretrained)
    assert [dice_of(folder) for folder in folders] == before
    names = [SubsetScores.read(folder).checkpoint for folder in folders]
    assert names == ["checkpoint_final.pth", "checkpoint_best.pth"]


def test_train_pretrained_weights(trained):
    weights = result(trained, "AMAETrainer") / "fold_0" / "checkpoint_final.pth"
    trained.run(f"nnUNetv2_train 950 tiny 2 -tr AMAETrainer {ON} -pretrained_weights {weights}")
    log = log_of(result(trained, "AMAETrainer") / "fold_2")
    assert "started from the weights of -pretrained_weights, not from a pre-training" in log
    assert "loaded the pre-trained encoder" not in log


def test_train_num_gpus(refused):
    assert "DDP training" in refused["-num_gpus"]
    assert "only implemented for cuda devices. Your device: cpu" in refused["-num_gpus"]


def test_train_2d(refused):
    assert refused["2d"] == (
        "error: this is a 2d configuration: the method is 3-D, use 3d_fullres or 3d_lowres"
    )


def test_train_lowres_and_cascade(others, refused):
    folder = result(others, SCRATCH, "3d_lowres", "CascadePlans")
    predictions = list((folder / "fold_0" / "validation").glob("*.nii.gz"))
    assert [nibabel.load(path).shape for path in predictions] == [(32, 32, 16)] * 2
    assert not (folder / "predicted_next_stage").exists()
    assert refused["cascade"] == (
        "error: 3d_cascade_fullres is the second stage of a cascade, whose extra "
        "channels would pass for contrasts: use 3d_fullres or 3d_lowres"
    )


def test_train_with_residual_encoder_plans(others):
    folder = result(others, "AMAETrainer", "3d_fullres", "ResEncPlans") / "fold_0"
    assert "loaded the pre-trained encoder" in log_of(folder)
    assert len(dice_of(folder)) == 2


def test_train_regions(others):
    folder = result(others, SCRATCH, "3d_fullres", "AMAEPlans", "Dataset952_Regions")
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == {"(1, 2)", "(2,)"}
    others.run(
        f"nnUNetv2_predict_from_modelfolder -i inputs -o regions -m {folder} -f 0 -device cpu "
        "--disable_tta -npp 1 -nps 1 --save_probabilities"
    )
    for case in ("full", "part"):
        assert probabilities(others.folder / "regions", case).shape == (2, 16, 32, 32)
        found = nibabel.load(others.folder / "regions" / f"{case}.nii.gz")
        assert set(np.unique(found.dataobj)) <= {0, 1, 2}


def test_train_ignore_label(others):
    folder = result(others, SCRATCH, "3d_fullres", "AMAEPlans", "Dataset953_Ignore") / "fold_0"
    predictions = list((folder / "validation").glob("*.nii.gz"))
    assert len(predictions) == 2
    for path in predictions:
        assert set(np.unique(nibabel.load(path).dataobj)) <= {0, 1}
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    for case in summary["metric_per_case"]:
        counts = case["metrics"]["1"]
        assert sum(counts[key] for key in ("TP", "TN", "FP", "FN")) == 24 * 32 * 16


def test_predict_and_predict_from_modelfolder(predicted):
    """Two folds, the best checkpoint, mirroring: the same from a folder that was moved."""
    moved = predicted.folder / "moved"
    shutil.copytree(result(predicted, "AMAETrainer"), moved)
    predicted.run(
        f"nnUNetv2_predict_from_modelfolder -i inputs -o from_moved -m {moved} {TWO_FOLDS} "
        "-npp 1 -nps 1"
    )
    for case in ("full", "part"):
        one, other = (
            probabilities(predicted.folder / name, case) for name in ("two_folds", "from_moved")
        )
        np.testing.assert_array_equal(one, other)
        image = nibabel.load(predicted.folder / "inputs" / f"{case}_0000.nii.gz")
        found = nibabel.load(predicted.folder / "two_folds" / f"{case}.nii.gz")
        assert found.shape == image.shape
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)


def test_predict_with_wrong_channel_files(trained):
    inputs = trained.folder / "inputs"
    missing, surplus = (trained.folder / name for name in ("missing", "surplus"))
    for folder in (missing, surplus):
        shutil.copytree(inputs, folder)
    (missing / "part_0001.nii.gz").unlink()
    shutil.copy(inputs / "full_0000.nii.gz", surplus / "full_0003.nii.gz")
    model = f"-d 950 -c tiny -p {PLANS} -f 0 -tr AMAETrainer -device cpu -npp 1 -nps 1"
    outputs = trained.run_all(
        f"nnUNetv2_predict -i missing -o none {model}",
        f"nnUNetv2_predict -i surplus -o none {model}",
        code=1,
    )
    assert not any("Traceback" in output for output in outputs)
    lines = list(map(last_line, outputs))
    assert "case part in missing lacks the file of channel 0001 (TRACE)" in lines[0]
    assert "case full in surplus has a file of channel 0003 too many" in lines[1]
    for line in lines:
        assert "one file a contrast (0000 ADC, 0001 TRACE, 0002 T2)" in line
        assert "amae-nnunet-convert --for_model" in line
    assert not list((trained.folder / "none").iterdir())


def test_python_interface(predicted):
    """An array and files give what the command gave, for the case without T2."""
    files = [f"inputs/part_{channel:04d}.nii.gz" for channel in range(3)]
    program = Path(__file__).with_name("predict_in_python.py")
    model = result(predicted, "AMAETrainer")
    predicted.run(f"{Path(sys.executable).name} {program} {model} {' '.join(files)} api.npz")
    expected = probabilities(predicted.folder / "two_folds", "part")
    found = np.load(predicted.folder / "api.npz")
    for name in ("of_array", "of_files"):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6)


def test_find_best_configuration_ensemble_and_postprocessing(predicted):
    output = predicted.run(
        f"nnUNetv2_find_best_configuration 950 -p {PLANS} -c tiny -f 0 -np 1 "
        "-tr AMAETrainer nnUNetTrainerShort"
    )
    for trainer in ("AMAETrainer", "nnUNetTrainerShort"):
        assert f"{trainer}__{PLANS}__tiny: " in output
    best = json.loads(
        (predicted.folder / "results" / DATASET / "inference_information.json").read_text()
    )
    assert len(best["all_results"]) == 3
    predicted.run("nnUNetv2_ensemble -i two_folds rival -o both -np 1 --save_npz")
    for case in ("full", "part"):
        mean = (
            probabilities(predicted.folder / "two_folds", case)
            + probabilities(predicted.folder / "rival", case)
        ) / 2
        np.testing.assert_allclose(probabilities(predicted.folder / "both", case), mean, atol=2e-3)
    rules = best["best_model_or_ensemble"]["postprocessing_file"]
    plans = best["best_model_or_ensemble"]["some_plans_file"]
    predicted.run(
        f"nnUNetv2_apply_postprocessing -i both -o clean -pp_pkl_file {rules} -plans_json {plans} "
        "-np 1"
    )
    functions, arguments = pickle.loads(Path(rules).read_bytes())
    assert len(functions) == len(arguments)
    for case in ("full", "part"):
        raw, clean = (
            np.asarray(nibabel.load(predicted.folder / name / f"{case}.nii.gz").dataobj)
            for name in ("both", "clean")
        )
        assert not (clean & ~raw.astype(bool)).any()


def test_export_and_install_elsewhere(predicted, tmp_path):
    """In another nnUNet_results: no checkpoint of the pre-training, no training data."""
    predicted.run(
        f"nnUNetv2_export_model_to_zip -d 950 -o model.zip -c tiny -p {PLANS} -tr AMAETrainer "
        "-f 0 1 -chk checkpoint_best.pth"
    )
    shutil.move(predicted.folder / "model.zip", tmp_path)
    shutil.copytree(predicted.folder / "inputs", tmp_path / "inputs")
    elsewhere = Shell(tmp_path)
    elsewhere.run("nnUNetv2_install_pretrained_model_from_zip model.zip")
    elsewhere.run(
        f"nnUNetv2_predict -i inputs -o out -d {DATASET} -c tiny -p {PLANS} -tr AMAETrainer "
        f"{TWO_FOLDS} -npp 1 -nps 1"
    )
    for case in ("full", "part"):
        np.testing.assert_array_equal(
            probabilities(tmp_path / "out", case),
            probabilities(predicted.folder / "two_folds", case),
        )
