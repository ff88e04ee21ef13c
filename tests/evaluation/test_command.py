"""The command on real model folders: what it predicts, writes, keeps, and refuses."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import nibabel
import numpy as np
import pytest
import torch
from conftest import CPU, DATASET
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from schemas import check, faults

from amae_nnunet.cli import evaluate, predict

QUICK = ["-device", "cpu", "-np", "0", "--disable_tta", "--disable_progress_bar"]
ALL = ["ADC+TRACE+T2", "ADC+TRACE", "ADC+T2", "TRACE+T2", "ADC", "TRACE", "T2"]


@pytest.fixture(scope="module")
def labels(place, nnunet, tmp_path_factory):
    """The labels of the cases that have images, beside a dataset.json."""
    folder = tmp_path_factory.mktemp("truth") / "labels"
    folder.mkdir()
    for case in {path.name[:-12] for path in place.inputs.iterdir()}:
        shutil.copy(nnunet / "studies" / case / "seg.nii.gz", folder / f"{case}.nii.gz")
    shutil.copy(nnunet / "raw" / DATASET / "dataset.json", folder.parent)
    return folder


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def run(*words):
    return evaluate.main([*map(str, words), *QUICK])


@pytest.fixture(scope="module")
def evaluated(place, labels, tmp_path_factory):
    """A trained model and perfect predictions, evaluated with all that can be withheld."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("evaluated") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda _: None)
        assert run(
            "-m", place.model, f"perfect={labels}", "-i", place.inputs, "-gt", labels, "-f", 0,
            "-o", output, "--drop", "T2", "--subsets", "all",
        ) == 0  # fmt: skip
    return output


@pytest.fixture(scope="module")
def stock(place, nnunet, tiny_plans):
    """A model folder of stock nnUNetTrainer, as its training leaves it, with random weights."""
    folder = nnunet / "preprocessed" / DATASET
    plans = json.loads((folder / "AMAEPlans.json").read_text())
    dataset_json = json.loads((folder / "dataset.json").read_text())
    model = nnunet / "results" / DATASET / "nnUNetTrainer__AMAEPlans__predicts"
    torch.manual_seed(0)
    trainer = nnUNetTrainer({**plans, "continue_training": False}, tiny_plans, 0, dataset_json, CPU)
    trainer.initialize()
    (model / "fold_0").mkdir(parents=True)
    trainer.save_checkpoint(str(model / "fold_0" / "checkpoint_final.pth"))
    for name, content in (("dataset", dataset_json), ("plans", trainer.plans_manager.plans)):
        (model / f"{name}.json").write_text(json.dumps(content))
    return model


def results(folder):
    found = json.loads((folder / "results.json").read_text())
    check("results", found)
    return found


def rows(folder):
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_subset_is_predicted_as_amae_nnunet_predict_does_from_missing_files(
    evaluated, place, names, tmp_path
):
    made = evaluated / "predictions" / "AMAETrainer"
    assert sorted(path.name for path in made.iterdir()) == sorted([*ALL, "model.json"])
    check("model", json.loads((made / "model.json").read_text()))
    inputs = place.folder(tmp_path / "in", **{names[0]: ("T2",), names[1]: ("ADC", "TRACE")})
    words = ["-npp", "0", "-nps", "0", "-f", "0", "-device", "cpu", "--disable_tta"]
    predict.main(["-m", str(place.model), "-i", str(inputs), "-o", str(tmp_path / "out"), *words])
    for case, subset in ((names[0], "ADC+TRACE"), (names[1], "T2")):
        one, other = made / subset / f"{case}.nii.gz", tmp_path / "out" / f"{case}.nii.gz"
        assert one.read_bytes() == other.read_bytes()
        record = json.loads((made / subset / f"{case}.json").read_text())
        assert record["present"] == subset.split("+")
    kinds = {(made / subset / f"{names[0]}.nii.gz").read_bytes() for subset in ALL}
    assert len(kinds) > 3  # the model does see what it is given


def test_a_stock_model_is_given_files_of_zeros_and_compared_with_ours(
    stock, place, labels, names, tmp_path, caplog
):
    words = ["-tr", "nnUNetTrainer", "AMAETrainer", "-p", "AMAEPlans", "-c", "predicts", "-f", 0]
    where = ["-i", place.inputs, "-gt", labels, "-o", tmp_path / "out"]
    assert run("-d", 950, *words, *where, "--drop", "T2") == 0
    assert caplog.text == ""  # not a word on what a stock model cannot have
    zeros = shutil.copytree(place.inputs, tmp_path / "zeros")
    for path in zeros.glob("*_0002.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    predictor = nnUNetPredictor(device=CPU, use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(stock), (0,), "checkpoint_final.pth")
    (tmp_path / "stock").mkdir()
    predictor.predict_from_files_sequential(str(zeros), str(tmp_path / "stock"))
    for case in names:
        made = tmp_path / "out" / "predictions" / "nnUNetTrainer" / "ADC+TRACE"
        one, other = (folder / f"{case}.nii.gz" for folder in (made, tmp_path / "stock"))
        assert one.read_bytes() == other.read_bytes()
        assert 0 < np.asarray(nibabel.load(one).dataobj).mean() < 1
    found = [c for c in results(tmp_path / "out")["comparisons"] if c["metric"] == "dice"]
    assert [(c["condition"], c["first"], c["second"], c["n"]) for c in found] == [
        (condition, "nnUNetTrainer", "AMAETrainer", 2)
        for condition in ("as each case is", "without T2")
    ]


def test_numbers_that_cannot_be_are_faults_of_the_results(evaluated):
    found = results(evaluated)
    wrong = [
        {**found, "schema": 2},
        {**found, "means": [{**found["means"][0], "metric": "dise"}]},
        {**found, "comparisons": [{**found["comparisons"][0], "p": 1.5}]},
        {key: found[key] for key in found if key != "worths"},
    ]
    assert [len(faults("results", content)) for content in wrong] == [1] * len(wrong)


def test_the_tables_follow_from_the_rows(evaluated, names):
    found = results(evaluated)
    table = [row for row in rows(evaluated) if row["model"] == "AMAETrainer"]
    assert [row["given"] for row in table] == [s for _ in names for s in sorted_by_size(table)]
    assert {row["had"] for row in table} == {ALL[0]}

    def mean(given):
        return np.mean([float(row["dice"]) for row in table if row["given"] == given])

    for condition, given in (("as each case is", ALL[0]), ("without T2", "ADC+TRACE")):
        entry = next(
            m for m in found["means"]
            if (m["model"], m["condition"], m["metric"]) == ("AMAETrainer", condition, "dice")
        )  # fmt: skip
        assert entry["mean"] == pytest.approx(mean(given))
        assert entry["n"] == 2
    for group in found["by_given"]:
        if group["model"] == "AMAETrainer":
            assert group["means"]["dice"] == pytest.approx(mean("+".join(group["given"])))
    worth = [w["mean"] for w in found["worths"] if w["metric"] == "dice" and w["had"] is None]
    assert len(worth) == 3
    assert sum(worth) == pytest.approx(mean(ALL[0]))  # of an empty prediction it is 0
    (pair,) = [c for c in found["comparisons"] if c["metric"] == "dice"]
    assert (pair["first"], pair["second"], pair["n"]) == ("AMAETrainer", "perfect", 2)
    assert pair["difference"] == pytest.approx(1 - mean(ALL[0]))
    assert pair["effect"] == 1
    assert [w["first"] for w in found["withheld"] if w["metric"] == "dice"] == ["without T2"]


def sorted_by_size(table):
    return list(dict.fromkeys(row["given"] for row in table))


class Page(HTMLParser):
    """Tags that are left open, and what the page would load or run."""

    VOID = ("meta", "img", "path", "use", "rect", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.headings, self.pictures = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.loads += [v for k, v in found.items() if k in ("src", "href", "xlink:href")]
        self.pictures += tag in ("svg", "img")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_page_is_whole_loads_nothing_and_names_no_place(evaluated, tmp_path_factory):
    text = (evaluated / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.loads)
    assert not re.search(r"@[A-Z_]+@|<script|#01020\d|\bnan\b", text)
    assert page.headings == [
        "How the models score", "Dice of each case", "Models against each other",
        "What is lost without it", "By what each case had", "From each subset of the contrasts",
        "What each contrast is worth", "The lowest Dice of each model",
        "How the numbers are made",
    ]  # fmt: skip
    assert page.pictures >= 6
    for file in (
        "report.html",
        "results.json",
        "cases.csv",
        "scores.jsonl",
        "predictions/AMAETrainer/model.json",
    ):
        assert str(tmp_path_factory.getbasetemp()) not in (evaluated / file).read_text()


def test_a_second_run_predicts_and_scores_nothing_and_writes_the_same(evaluated, place, labels):
    files = [*sorted(evaluated.rglob("*.nii.gz")), evaluated / "scores.jsonl"]
    times = [path.stat().st_mtime_ns for path in files]
    pages = [(evaluated / name).read_bytes() for name in ("report.html", "results.json")]
    words = ["-m", place.model, f"perfect={labels}", "-i", place.inputs, "-gt", labels, "-f", 0]
    assert run(*words, "-o", evaluated, "--drop", "T2", "--subsets", "all") == 0
    assert [path.stat().st_mtime_ns for path in files] == times
    assert [(evaluated / name).read_bytes() for name in ("report.html", "results.json")] == pages


def test_predictions_of_another_model_are_not_taken_for_this_one(
    evaluated, place, labels, tmp_path, capsys
):
    output = shutil.copytree(evaluated, tmp_path / "out")
    words = ["-m", place.model, "-i", place.inputs, "-gt", labels, "-o", output]
    assert run(*words, "-f", 1) == 2
    captured = capsys.readouterr()
    assert "holds predictions of another model" in captured.err
    assert captured.out == ""  # nnU-Net tells of its search for the trainer
    assert run(*words, "-f", 0, "-step_size", 0.7) == 2
    for path in output.rglob("model.json"):
        path.write_text("{")  # whose they are is not known
    assert run(*words, "-f", 0) == 2
    assert "holds predictions of another model" in capsys.readouterr().err


def test_a_bad_case_is_told_and_stops_no_other(place, labels, names, tmp_path, caplog):
    inputs = place.folder(tmp_path / "in", **{names[0]: ("TRACE",)})
    for name in ("broken", "unlabelled"):
        for channel in range(3):
            file = f"{names[0] if channel != 1 else names[1]}_{channel:04d}.nii.gz"
            shutil.copy(inputs / file, inputs / f"{name}_{channel:04d}.nii.gz")
    truth = shutil.copytree(labels.parent, tmp_path / "truth") / "labels"
    shutil.copy(truth / f"{names[0]}.nii.gz", truth / "broken.nii.gz")
    image = nibabel.load(inputs / "broken_0001.nii.gz")
    nibabel.save(image.slicer[:-2], inputs / "broken_0001.nii.gz")
    shutil.copy(truth / f"{names[0]}.nii.gz", truth / "lonely.nii.gz")
    output = tmp_path / "out"
    words = ["-m", place.model, "-i", inputs, "-gt", truth, "-f", 0, "-o", output]
    assert run(*words, "--drop", "T2") == 4
    found = results(output)
    assert {(f["case"], f["model"], "+".join(f["given"])) for f in found["failures"]} == {
        ("broken", "AMAETrainer", "ADC+TRACE+T2"), ("broken", "AMAETrainer", "ADC+TRACE"),
        ("lonely", "", ""),
    }  # fmt: skip
    assert sorted({row["case"] for row in rows(output)}) == names
    given = {row["case"]: row["had"] for row in rows(output)}
    assert given == {names[0]: "ADC+T2", names[1]: "ADC+TRACE+T2"}
    assert "What failed" in (output / "report.html").read_text()
    assert "case broken failed: its images differ in size" in caplog.text


def test_predictions_alone_need_no_images(labels, names, tmp_path):
    worse = shutil.copytree(labels, tmp_path / "worse")
    for path in worse.iterdir():
        image = nibabel.load(path)
        voxels = np.roll(np.asarray(image.dataobj), 2, axis=0)
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)
    (worse / f"{names[1]}.nii.gz").unlink()
    output = tmp_path / "out"
    assert run("-m", worse, f"perfect={labels}", "-gt", labels, "-o", output) == 4
    found = {m["model"]: m for m in results(output)["means"] if m["metric"] == "dice"}
    assert found["perfect"]["mean"] == 1
    assert found["perfect"]["n"] == found["worse"]["n"] == 1  # the case that both have
    assert 0 < found["worse"]["mean"] < 1
    assert not (output / "predictions").exists()
    page = Page((output / "report.html").read_text())
    assert "By what each case had" not in page.headings
    assert "From each subset of the contrasts" not in page.headings


@pytest.fixture
def folds(place, nnunet, monkeypatch):
    """A split of five cases into three folds, of which the model has 0 and 1."""
    path = nnunet / "preprocessed" / DATASET / "splits_final.json"
    before = path.read_text() if path.exists() else None
    cases = sorted(p.name[:-7] for p in (nnunet / "raw" / DATASET / "labelsTr").iterdir())
    judged = {0: cases[3:5], 1: cases[:1], 2: cases[1:3]}
    splits = [{"train": sorted({*cases} - {*val}), "val": val} for val in judged.values()]
    path.write_text(json.dumps(splits))
    yield judged
    path.unlink() if before is None else path.write_text(before)


WORDS = ["-d", 950, "-c", "predicts", "-p", "AMAEPlans", "--crossval"]


def test_in_a_cross_validation_each_case_is_predicted_by_the_fold_that_validated_on_it(
    folds, place, nnunet, tmp_path
):
    assert run(*WORDS, "-o", tmp_path / "out", "--drop", "T2") == 0
    judged = {case: fold for fold in (0, 1) for case in folds[fold]}
    assert {row["case"] for row in rows(tmp_path / "out")} == set(judged)
    raw = nnunet / "raw" / DATASET
    made = tmp_path / "out" / "predictions" / "AMAETrainer"
    for fold in (0, 1):
        other = nnUNetPredictor(device=CPU, use_mirroring=False, allow_tqdm=False)
        other.initialize_from_trained_model_folder(
            str(place.model), (fold,), "checkpoint_final.pth"
        )
        for case in folds[fold]:
            files = [str(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz") for channel in range(3)]
            other.predict_from_files_sequential([files], [str(tmp_path / case)])
            had = next(r["had"] for r in rows(tmp_path / "out") if r["case"] == case)
            ours = made / f"fold_{fold}" / had / f"{case}.nii.gz"
            assert ours.read_bytes() == (tmp_path / f"{case}.nii.gz").read_bytes()
    assert sorted(path.name for path in made.iterdir()) == ["fold_0", "fold_1"]
    assert run(*WORDS, "-o", tmp_path / "one", "-f", 1) == 0
    assert {row["case"] for row in rows(tmp_path / "one")} == {*folds[1]}


def test_a_cross_validation_that_cannot_be_is_refused(folds, place, nnunet, tmp_path, capsys):
    def error(*words):
        assert run(*WORDS, "-o", tmp_path / "out", *words) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "fold all is none of" in error("-f", "all")
    assert "fold 3 is none of" in error("-f", 3)
    assert "has no fold_2/checkpoint_final.pth" in error("-f", 2)
    assert "--crossval takes the training cases" in error("-i", place.inputs)
    path = nnunet / "preprocessed" / DATASET / "splits_final.json"
    splits = json.loads(path.read_text())
    path.write_text(json.dumps([splits[0], splits[0]]))
    assert f"folds 0 and 1 both validate on {folds[0][0]}" in error()
    path.write_text(json.dumps(splits))
    assert "no fold is trained in all models" in error("-chk", "checkpoint_best.pth")


def test_a_judged_case_without_a_label_is_told(folds, nnunet, tmp_path, capsys):
    path = nnunet / "preprocessed" / DATASET / "splits_final.json"
    splits = json.loads(path.read_text())
    splits[0]["val"].append("nobody")
    path.write_text(json.dumps(splits))
    assert run(*WORDS, "-o", tmp_path / "out", "-f", 0) == 4
    (failure,) = results(tmp_path / "out")["failures"]
    assert failure["case"] == "nobody"
    assert failure["reason"] == "it is judged by a fold and has no label"
    splits[0]["val"] = ["nobody"]
    path.write_text(json.dumps(splits))
    assert run(*WORDS, "-o", tmp_path / "none", "-f", 0) == 3
    assert "has no label of nobody, nor of any judged case" in capsys.readouterr().err


def test_a_cross_validation_of_several_models_takes_the_folds_that_all_have(folds, stock, tmp_path):
    words = ["-tr", "AMAETrainer", "nnUNetTrainer", "-o", tmp_path]  # of the stock model: fold 0
    assert run(*WORDS, *words) == 0
    assert {row["case"] for row in rows(tmp_path)} == {*folds[0]}


def test_models_of_the_same_name_are_trainings_of_one_method(labels, names, tmp_path, capsys):
    for shift in (1, 2):
        worse = shutil.copytree(labels, tmp_path / f"{shift}")
        for path in worse.iterdir():
            image = nibabel.load(path)
            voxels = np.roll(np.asarray(image.dataobj), shift, axis=0)
            nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), path)
    words = [f"worse={tmp_path / '1'}", f"perfect={labels}", f"worse={tmp_path / '2'}"]
    assert run("-m", *words, "-gt", labels, "-o", tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert found["models"] == ["worse 1", "perfect", "worse 2"]
    dice = {m["model"]: m["mean"] for m in found["means"] if m["metric"] == "dice"}
    of_method = {m["method"]: m["values"] for m in found["methods"] if m["metric"] == "dice"}
    assert of_method == {"worse": [dice["worse 1"], dice["worse 2"]], "perfect": [1]}
    assert re.search(r"as each case is: worse +2 ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which models? give -m"),
        (["-m", "x", "-d", "950"], "which models? give -m"),
        (["-d", "950"], "-d needs -c"),
        (["-m", "x"], "give the folder of the labels with -gt"),
        (["-m", "x", "-gt", "gt"], "x is not a folder: give a model folder"),
        (["-m", "gt", "-gt", "gt", "-tolerance", "-1"], "-tolerance -1: give a length"),
        (["-m", "gt", "-gt", "gt", "-step_size", "2"], "-step_size 2: give a number above 0"),
        (["-m", "gt", "gt", "-gt", "gt"], "two models are called gt"),
        (["-m", "a=gt", "a=../{cwd}/gt", "-gt", "gt"], "gt is given twice as a training of a"),
        (["-m", "a=gt", "a=.", "a 1=.", "-gt", "gt"], "two models are called a 1"),
        (["-m", "../a=gt", "-gt", "gt"], "model name '../a': use letters"),
        (["-m", "gt", "-gt", "gt", "--drop", "T2"], "give a model folder, not predictions"),
        (["-m", "gt", "-gt", "none"], "none is not a folder"),
        (["-m", "gt", "-gt", "gt"], "no dataset.json lies beside"),
        (["-m", "{model}", "-gt", "gt"], "is a model to predict with: give images, -i"),
        (["-m", "{model}", "-gt", "{labels}", "-i", "{inputs}", "--drop", "T9"], "'T9' names no"),
        (["-m", "{model}", "-gt", "{labels}", "-i", "{inputs}", "-f", "3"], "has no fold_3/"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(
    words, message, capsys, tmp_path, monkeypatch, place, labels
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gt").mkdir()
    known = {"cwd": tmp_path.name, "model": place.model, "labels": labels, "inputs": place.inputs}
    assert run(*(word.format(**known) for word in words), "-o", "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_of_labels_has_nothing_usable(place, tmp_path, capsys):
    (tmp_path / "gt").mkdir()
    words = ["-m", place.model, "-gt", tmp_path / "gt", "-i", place.inputs, "-o", tmp_path / "o"]
    assert run(*words) == 3
    assert "holds no label" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line_and_exit_5(place, labels, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(place.model, model)
    weights = model / "fold_0" / "checkpoint_final.pth"
    weights.write_bytes(weights.read_bytes()[:1000])
    words = ["-m", model, "-i", place.inputs, "-gt", labels, "-f", 0, "-o", tmp_path / "out"]
    assert run(*words) == 5
    said = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said[-1].startswith(f"amae-nnunet-evaluate: error: {weights} ")
