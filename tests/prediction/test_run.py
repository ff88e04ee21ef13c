"""Cases, good and bad, through the run itself; results are compared with stock nnU-Net's."""

import hashlib
import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import CheckpointError, ConfigError, InputError
from amae_nnunet.prediction.inputs import check_complete, find_cases
from amae_nnunet.prediction.model import TrainedModel
from amae_nnunet.prediction.run import Options, Run

CONTRASTS, CPU = ("ADC", "TRACE", "T2"), torch.device("cpu")


@pytest.fixture(scope="module")
def model(place):
    torch.set_num_threads(1)
    return TrainedModel.open(place.model, [], "checkpoint_final.pth", CPU, allow_tqdm=False)


def predict(model, inputs, output, **options):
    cases = find_cases(inputs, ".nii.gz", model.contrasts)
    return Run(model, Options(output, npp=0, nps=0, **options)).predict(cases)


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def zero_filled(place, path, names, absent):
    """The inputs with files of zeros, as amae-nnunet-convert writes them for stock nnU-Net."""
    shutil.copytree(place.inputs, path)
    for case in names:
        for channel in absent.get(case, ()):
            file = path / f"{case}_{CONTRASTS.index(channel):04d}.nii.gz"
            image = nibabel.load(file)
            nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), file)
    return path


def test_missing_files_predict_what_stock_nnunet_predicts_from_files_of_zeros(
    place, names, model, tmp_path, capsys
):
    absent = {names[0]: ("T2",), names[1]: ("ADC",)}
    inputs = place.folder(tmp_path / "in", **absent)
    before = digests(inputs)
    capsys.readouterr()
    outcome = predict(model, inputs, tmp_path / "out", save_probabilities=True)
    assert outcome.done == names
    assert outcome.lacking == [names[1]]
    assert digests(inputs) == before
    printed = capsys.readouterr().out
    assert (
        f"[1/2] {names[0]}: ADC, TRACE (without T2): in validation Dice 0.500 (1 case)" in printed
    )
    assert f"{names[1]}: TRACE, T2 (without ADC): never validated; nearest subset" in printed

    stock = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(place.model), (0, 1), "checkpoint_final.pth")
    zeros = zero_filled(place, tmp_path / "zeros", names, absent)
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(zeros), str(tmp_path / "stock"), True)
    for case in names:
        for name in (f"{case}.nii.gz", f"{case}.npz"):
            ours, theirs = tmp_path / "out" / name, tmp_path / "stock" / name
            if name.endswith("gz"):
                assert ours.read_bytes() == theirs.read_bytes()
                assert len(np.unique(voxels(ours))) == 2  # else the comparison would say little
            else:
                one, other = (np.load(p)["probabilities"] for p in (ours, theirs))
                np.testing.assert_array_equal(one, other)
    theirs = {path.name for path in (tmp_path / "stock").iterdir()}
    ours = {path.name for path in (tmp_path / "out").iterdir()}
    assert ours - theirs == {f"{case}.json" for case in names}
    assert theirs - ours == {"predict_from_raw_data_args.json"}


def spoil(folder, names):
    """One good case, and one for each thing that can be wrong with a case."""
    good, other = names
    files = [folder / f"{good}_{channel:04d}.nii.gz" for channel in range(3)]
    for path in folder.glob(f"{other}_*"):
        path.unlink()

    def case(name, channels=(0, 1, 2)):
        for channel in channels:
            shutil.copy(files[channel % 3], folder / f"{name}_{channel:04d}.nii.gz")
        return folder / f"{name}_0000.nii.gz"

    cut = case("cut")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    changed = case("changed")
    content = bytearray(changed.read_bytes())
    content[-8] ^= 1
    changed.write_bytes(content)
    text = case("text")
    text.write_text("no image")
    case("extra", (0, 1, 2, 3))
    case("plans")
    image = nibabel.load(case("size"))
    nibabel.save(image.slicer[:-2], folder / "size_0000.nii.gz")
    case("zero")
    for channel in range(3):
        zeros = nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
        nibabel.save(zeros, folder / f"zero_{channel:04d}.nii.gz")
    (folder / "notes.txt").write_text("not an image")
    shutil.copy(files[0], folder / "T1.nii.gz")
    (folder / f"._{good}_0000.nii.gz").write_bytes(b"what a Mac puts beside a file")
    return good


def test_bad_cases_stop_no_other_one_and_leave_nothing(place, names, model, tmp_path, caplog):
    inputs = place.folder(tmp_path / "in")
    good = spoil(inputs, names)
    output = tmp_path / "out"
    output.mkdir()
    for name in ("text.nii.gz", "text.npz", "extra.nii.gz", "extra.json"):
        (output / name).write_text("an earlier run's")
    outcome = predict(model, inputs, output)
    assert outcome.done == [good]
    assert sorted(outcome.failed) == ["changed", "cut", "extra", "plans", "size", "text", "zero"]
    assert {path.name for path in output.iterdir()} == {
        "dataset.json", "plans.json", f"{good}.json", f"{good}.nii.gz"
    }  # fmt: skip
    for line in (
        "case extra failed: extra_0003.nii.gz is of a channel that the model has not",
        "case plans failed: plans.json is a file of nnU-Net's",
        "case cut failed: cut_0000.nii.gz is damaged (Compressed file ended before the end",
        "case changed failed: changed_0000.nii.gz is damaged (CRC check failed",
        "case size failed: its images differ in size or spacing",
        "case zero failed: all its images are zero",
        "not called CASE_0000.nii.gz, so not read: T1.nii.gz",
    ):
        assert line in caplog.text
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records)


def test_a_run_goes_on_where_it_stopped(place, names, model, tmp_path):
    inputs = place.folder(tmp_path / "in", **{names[0]: ("ADC",)})
    output = tmp_path / "out"
    assert predict(model, inputs, output).done == names
    (output / f"{names[1]}.json").unlink()  # as if stopped before the last file of the second
    kept = (output / f"{names[0]}.nii.gz").stat().st_mtime_ns
    outcome = predict(model, inputs, output, continue_prediction=True)
    assert (outcome.skipped, outcome.done) == ([names[0]], [names[1]])
    assert outcome.lacking == [names[0]]
    assert (output / f"{names[0]}.nii.gz").stat().st_mtime_ns == kept
    assert predict(model, inputs, output).done == names


def test_images_that_were_changed_are_predicted_again(place, names, model, tmp_path, caplog):
    inputs, output = place.folder(tmp_path / "in"), tmp_path / "out"
    assert predict(model, inputs, output).done == names
    changed = inputs / f"{names[0]}_0001.nii.gz"
    changed.write_bytes((inputs / f"{names[1]}_0001.nii.gz").read_bytes())
    outcome = predict(model, inputs, output, continue_prediction=True)
    assert (outcome.skipped, outcome.done) == ([names[1]], [names[0]])
    assert f"the images of case {names[0]} are not those that were predicted" in caplog.text
    (inputs / f"{names[1]}_0001.nii.gz").unlink()  # a contrast less
    outcome = predict(model, inputs, output, continue_prediction=True)
    assert (outcome.skipped, outcome.done) == ([names[0]], [names[1]])


def test_it_does_not_go_on_with_what_another_model_predicted(place, names, model, tmp_path, caplog):
    inputs, output = place.folder(tmp_path / "in"), tmp_path / "out"
    assert predict(model, inputs, output, save_probabilities=True).done == names
    record = json.loads((output / f"{names[0]}.json").read_text())
    for key in ("sha256", "step_size"):  # as an earlier version wrote it
        del record["model"][key]
        (output / f"{names[0]}.json").write_text(json.dumps(record))
        assert predict(model, inputs, output, continue_prediction=True).skipped == names
    record["model"]["sha256"] = {"0": "f" * 64, "1": "f" * 64}
    (output / f"{names[0]}.json").write_text(json.dumps(record))
    (output / f"{names[1]}.json").write_text("[]")  # none of ours
    outcome = predict(model, inputs, output, continue_prediction=True)
    assert (outcome.skipped, outcome.done) == ([], names)
    assert f"case {names[0]} was predicted by another model or with other" in caplog.text
    assert not list(output.glob("*.np?")) + list(output.glob("*.pkl"))  # nor its probabilities


def test_our_own_errors_stay_what_they_are(place, monkeypatch):
    def refuse(*_):
        raise ConfigError("this cannot be")

    monkeypatch.setattr(nnUNetPredictor, "initialize_from_trained_model_folder", refuse)
    with pytest.raises(ConfigError, match="^this cannot be$"):
        TrainedModel.open(place.model, [], "checkpoint_final.pth", CPU)


@pytest.mark.parametrize("kind", ["cut", "trainer", "weights", "other"])
def test_a_model_that_cannot_be_opened_is_one_line(place, tmp_path, kind):
    copy = shutil.copytree(place.model, tmp_path / "model")
    file = copy / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    if kind == "trainer":
        content["trainer_name"] = "nnUNetTrainerOfSomebody"
    if kind == "weights":
        content["network_weights"].popitem()
    torch.save({} if kind == "other" else content, file)
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        TrainedModel.open(copy, ["0"], "checkpoint_final.pth", CPU)
    assert str(copy) in str(caught.value)
    assert ("is damaged: copy it again" in str(caught.value)) == (kind == "cut")
    assert ("is the trainer installed here" in str(caught.value)) == (kind != "cut")
    assert len(str(caught.value)) < 700


def test_the_record_beside_a_segmentation(place, names, model, tmp_path):
    predict(model, place.folder(tmp_path / "in", **{names[1]: ("T2",)}), tmp_path / "out")
    content = json.loads((tmp_path / "out" / f"{names[0]}.json").read_text())
    assert content["present"] == list(CONTRASTS)
    assert content["validation"]["n"] == 2  # of two folds
    assert content["validation"]["dice"] == pytest.approx(0.65)
    assert content["model"] == {
        "trainer": "AMAETrainerNoPretraining", "plans": "AMAEPlans", "configuration": "predicts",
        "folds": ["0", "1"], "checkpoint": "checkpoint_final.pth", "mirrored": True,
        "step_size": 0.5,
        "sha256": {
            fold: hashlib.sha256(
                (place.model / f"fold_{fold}" / "checkpoint_final.pth").read_bytes()
            ).hexdigest()
            for fold in ("0", "1")
        },
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(content)


def test_a_plain_nifti_file_that_ends_early_is_damaged(place, names, tmp_path):
    image = nibabel.load(place.inputs / f"{names[0]}_0000.nii.gz")
    nibabel.save(image, tmp_path / "whole.nii")
    check_complete(tmp_path / "whole.nii")
    content = (tmp_path / "whole.nii").read_bytes()
    (tmp_path / "short.nii").write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"short\.nii is damaged \(it ends after"):
        check_complete(tmp_path / "short.nii")


def test_inputs_that_cannot_be_are_refused_at_once(place, tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        find_cases(tmp_path / "none", ".nii.gz", CONTRASTS)
    with pytest.raises(InputError, match=r"holds no file CASE_0000\.nii\.gz"):
        find_cases(tmp_path, ".nii.gz", CONTRASTS)
    record = ContrastRecord(("TRACE", "ADC", "T2"))
    record.add("a", (True, True, True), "test", "a")
    inputs = place.folder(tmp_path / "in")
    record.write(inputs)
    with pytest.raises(InputError, match="was converted for TRACE, ADC, T2 but the model knows"):
        find_cases(inputs, ".nii.gz", CONTRASTS)
    (inputs / "contrasts.json").unlink()
    record.write(inputs.parent)  # as beside a data set's imagesTs; it is of another case
    name = find_cases(inputs, ".nii.gz", CONTRASTS)[0].name
    record.add(name, (True, True, True), "test", name)
    record.write(inputs.parent)
    with pytest.raises(InputError, match="was converted for TRACE, ADC, T2 but the model knows"):
        find_cases(inputs, ".nii.gz", CONTRASTS)


@pytest.mark.parametrize(("folds", "checkpoint"), [(["4"], "checkpoint_final.pth"),
                                                   ([], "checkpoint_bost.pth")])  # fmt: skip
def test_of_a_model_that_is_not_there_it_is_said_what_is(place, tmp_path, folds, checkpoint):
    there = r"there are fold_0/checkpoint_\w+\.pth, .* \(see -f and -chk\)"
    with pytest.raises(ConfigError, match=rf"has no fold_[04]/{checkpoint}: {there}"):
        TrainedModel.open(place.model, folds, checkpoint, CPU)
    wrong = place.model.with_name(place.model.name.replace("AMAETrainer", "AMAETrainr"))
    there = rf"there are .*{place.model.name}.* \(see -tr, -p and -c\)"
    with pytest.raises(ConfigError, match=rf"{wrong.name} has no fold_[04]/{checkpoint}: {there}"):
        TrainedModel.open(wrong, folds, checkpoint, CPU)
    with pytest.raises(ConfigError, match=rf"no fold_[04]/{checkpoint}: train it with nnUNetv2_"):
        TrainedModel.open(tmp_path, folds, checkpoint, CPU)


def test_a_model_of_all_cases_wants_f_all(place, tmp_path):
    model = shutil.copytree(place.model, tmp_path / "model")
    (model / "fold_0").rename(model / "fold_all")
    for fold in model.glob("fold_[0-9]"):
        shutil.rmtree(fold)
    with pytest.raises(ConfigError, match=r"has no fold_0/checkpoint_final\.pth: give -f all"):
        TrainedModel.open(model, [], "checkpoint_final.pth", CPU)
    TrainedModel.open(model, ["all"], "checkpoint_final.pth", CPU)


def test_a_fold_without_scores_predicts_and_says_so(place, tmp_path, caplog):
    copy = shutil.copytree(place.model, tmp_path / "model")
    (copy / "fold_0" / "subsets.json").unlink()
    model = TrainedModel.open(copy, ["0"], "checkpoint_final.pth", CPU)
    assert model.scores is None
    assert "validate again with nnUNetv2_train ... --val" in caplog.text
