"""Rows of scores from files: nnU-Net's own summary, and what cannot be read."""

import csv
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from schemas import check

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.evaluation.cases import (
    Case,
    Labels,
    collect_cases,
    find_dataset_json,
    find_labels,
)
from amae_nnunet.evaluation.compare import ALL_LABELS, means
from amae_nnunet.evaluation.kept import KeptScores
from amae_nnunet.evaluation.scores import Prediction, Row, Scores, score_case, write_csv
from amae_nnunet.evaluation.shapley import worths
from amae_nnunet.evaluation.subsets import Condition, powerset
from amae_nnunet.subsets import subset_name

SHAPE, SPACING = (6, 12, 10), (1.5, 1.25, 4.0)
DATASET = {
    "channel_names": {"0": "ADC", "1": "T2"},
    "labels": {"background": 0, "infarct": 1, "bleed": 2, "ignore": 3},
    "file_ending": ".nii.gz",
    "numTraining": 1,
}
REGIONS = {**DATASET, "labels": {"background": 0, "all": [1, 2], "bleed": 2}}
REGIONS["regions_class_order"] = [1, 2]


def write(path, voxels, spacing=SPACING, origin=(0, 0, 0), flipped=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if flipped:  # the same places in another order
        image = sitk.DICOMOrient(image, "RPS")
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def folders(tmp_path):
    """Labels and predictions of five cases; the first has no bleed, drawn or predicted."""
    rng = np.random.default_rng(0)
    for number in range(5):
        drawn = rng.choice(4, SHAPE, p=(0.5, 0.3, 0.1, 0.1)).astype(np.uint8)
        predicted = np.where(rng.random(SHAPE) < 0.6, drawn % 3, rng.integers(0, 3, SHAPE))
        if number == 0:
            drawn[drawn == 2], predicted[predicted == 2] = 0, 0
        write(tmp_path / "labels" / f"case_{number}.nii.gz", drawn)
        write(tmp_path / "predicted" / f"case_{number}.nii.gz", predicted.astype(np.uint8))
    return tmp_path


def score_folder(folders, dataset_json):
    files = find_labels(folders / "labels", ".nii.gz")
    labels = Labels.of(dataset_json, next(iter(files.values())))
    rows = []
    for name, file in files.items():
        case = Case(name, file)
        predicted = Prediction("M", (), folders / "predicted" / f"{name}.nii.gz")
        predictions = [Prediction.of_nothing(case), predicted]
        found, failures = score_case(case, predictions, labels, 2.0)
        assert failures == []
        rows += found
    return Scores(rows, ["M"], [], list(labels.values))


@pytest.mark.parametrize("dataset_json", [DATASET, REGIONS], ids=["ignore label", "regions"])
def test_dice_is_that_of_nnunets_own_summary(folders, dataset_json):
    reader = Labels.of(dataset_json, folders / "labels" / "case_0.nii.gz").reader()
    values = [
        v for name, v in dataset_json["labels"].items() if name not in ("background", "ignore")
    ]
    keys = [tuple(value) if isinstance(value, list) else value for value in values]
    compute_metrics_on_folder(
        str(folders / "labels"), str(folders / "predicted"), str(folders / "summary.json"),
        reader, ".nii.gz", keys, dataset_json["labels"].get("ignore"), num_processes=1,
    )  # fmt: skip
    summary = json.loads((folders / "summary.json").read_text())
    scores = score_folder(folders, dataset_json)
    undefined = 0
    for entry, case in zip(summary["metric_per_case"], scores.cases, strict=True):
        assert entry["prediction_file"].endswith(f"{case}.nii.gz")
        for name, key in zip(scores.labels, keys, strict=True):
            theirs = entry["metrics"][str(key)]
            ours = scores.value("M", case, (), "dice", [name])
            assert ours == pytest.approx(theirs["Dice"], abs=0, nan_ok=True)
            undefined += math.isnan(ours)
            ml = math.prod(SPACING) / 1000
            for metric, count in (("label_ml", "n_ref"), ("predicted_ml", "n_pred")):
                ours = scores.value("M", case, (), metric, [name])
                assert ours == pytest.approx(theirs[count] * ml)
    assert undefined == 1
    found = {mean.label: mean.mean for mean in means(scores, [Condition()], ["dice"])}
    for name, key in zip(scores.labels, keys, strict=True):
        assert found[name] == pytest.approx(summary["mean"][str(key)]["Dice"], abs=1e-15)
    assert found[ALL_LABELS] == pytest.approx(summary["foreground_mean"]["Dice"], abs=1e-15)


def test_what_cannot_be_scored_is_told_and_stops_nothing(folders, tmp_path):
    labels = Labels.of(DATASET, folders / "labels" / "case_0.nii.gz")
    case = Case("case_1", folders / "labels" / "case_1.nii.gz", ("ADC", "T2"))
    good = folders / "predicted" / "case_1.nii.gz"
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(good.read_bytes()[:-20])
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(good)))
    files = {
        "there is no prediction": tmp_path / "none.nii.gz",
        "cut.nii.gz is damaged": cut,
        "has 5 x 12 x 10 voxels of 4 x 1.25 x 1.5 mm, the label 6 x 12 x 10 of": write(
            tmp_path / "small.nii.gz", voxels[1:]
        ),
        "voxels of 4 x 1.25 x 3 mm": write(tmp_path / "wide.nii.gz", voxels, (3, 1.25, 4)),
        "elsewhere (a corner is 10 voxels away)": write(
            tmp_path / "flipped.nii.gz", voxels, flipped=True
        ),
        "elsewhere (a corner is 2 voxels away)": write(
            tmp_path / "moved.nii.gz", voxels, origin=(3, 0, 0)
        ),
    }
    predictions = [Prediction(f"M{n}", ("ADC",), file) for n, file in enumerate(files.values())]
    near = write(tmp_path / "near.nii.gz", voxels, origin=(0.1, 0.1, 0.1))
    others = [Prediction.of_nothing(case), Prediction("M", ("ADC",), near)]
    rows, failures = score_case(case, [*predictions, *others], labels, 2.0)
    assert {(row.model, row.label) for row in rows} == {
        (model, label) for model in ("", "M") for label in ("infarct", "bleed")
    }
    for failure, message in zip(failures, files, strict=True):
        assert message in failure.reason
        assert (failure.case, failure.given) == ("case_1", ("ADC",))
    lost, failures = score_case(Case("x", cut), predictions, labels, 2.0)
    assert lost == []
    assert [(f.case, f.model) for f in failures] == [("x", "")]
    assert "its label: cut.nii.gz is damaged" in failures[0].reason


def test_what_cannot_be_read_is_said_without_the_folders_it_lies_in(tmp_path):
    folder = tmp_path / "Jane Doe"
    folder.mkdir()
    files = {name: folder / f"{name}.nrrd" for name in ("label", "broken")}
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(SHAPE, np.uint8)), str(files["label"]))
    files["broken"].write_bytes(b"NRRD0004 of no image")
    labels = Labels.of({**DATASET, "file_ending": ".nrrd"}, files["label"])
    case = Case("label", files["label"])
    _, failures = score_case(case, [Prediction("M", (), files["broken"])], labels, 2.0)
    _, failed = collect_cases(files, {"label": {}, "broken": {"T2": files["broken"]}}, None, labels)
    for reason in (failures[0].reason, failed["broken"]):
        assert reason.startswith("broken.nrrd cannot be read (")
        assert "Jane" not in reason
        assert str(tmp_path) not in reason


def test_scores_are_kept_while_what_they_follow_from_stays(folders):
    files = find_labels(folders / "labels", ".nii.gz")
    labels = Labels.of(DATASET, files["case_0"])
    path = folders / "out" / "scores.jsonl"
    predicted = {name: folders / "predicted" / f"{name}.nii.gz" for name in files}
    cases = {name: Case(name, file, ("ADC",)) for name, file in files.items()}
    wanted = {
        name: [
            Prediction.of_nothing(case),
            Prediction("M", ("ADC",), predicted[name]),
            Prediction("N", ("ADC",), folders / "none.nii.gz"),
        ]
        for name, case in cases.items()
    }
    kept = KeptScores(path, labels, 2.0)
    rows = {}
    for name, case in cases.items():
        assert kept.split(case, wanted[name]) == ([], wanted[name])
        rows[name], failures = score_case(case, wanted[name], labels, 2.0)
        assert len(failures) == 1
        kept.add(case, wanted[name], rows[name])
    for line in path.read_text().splitlines():
        check("scores", json.loads(line))

    def left(tolerance=2.0, labels=labels):
        kept = KeptScores(path, labels, tolerance)
        found = {name: kept.split(case, wanted[name]) for name, case in cases.items()}
        for name, (known, _) in found.items():
            same = [row for row in rows[name] if (row.model, row.given) in models(known)]
            assert repr(known) == repr(same)  # NaN and all
        return {name: [one.model for one in left] for name, (_, left) in found.items()}

    def models(known):
        return {(row.model, row.given) for row in known}

    failed = {name: ["N"] for name in cases}
    assert left() == failed  # what failed is tried again
    with path.open("a") as file:
        file.write('{"key": "ab')  # killed here
    assert left() == failed
    again = KeptScores(path, labels, 2.0)
    again.split(cases["case_2"], wanted["case_2"])
    again.add(cases["case_2"], wanted["case_2"], rows["case_2"])
    assert left() == failed  # the next line is whole
    assert left(tolerance=1.0) == {name: ["", "M", "N"] for name in cases}
    assert left(labels=Labels.of(REGIONS, files["case_0"])) == left(tolerance=1.0)
    again.split(cases["case_1"], wanted["case_1"])
    write(predicted["case_1"], np.ones(SHAPE, np.uint8))  # while the old one is scored
    again.add(cases["case_1"], wanted["case_1"], rows["case_1"])
    assert left() == {**failed, "case_1": ["M", "N"]}
    write(files["case_3"], np.ones(SHAPE, np.uint8))
    assert left() == {**failed, "case_1": ["M", "N"], "case_3": ["", "M", "N"]}
    path.write_bytes(path.read_bytes().replace(b'"key": "', b'"key": "\xff'))
    assert left() == left(tolerance=1.0)  # a damaged file is none


def test_the_table_holds_every_number_and_leaves_empty_what_is_undefined(folders):
    scores = score_folder(folders, DATASET)
    path = write_csv(folders / "cases.csv", scores)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(scores.rows) == 10
    for found, row in zip(rows, scores.rows, strict=True):
        assert (found["model"], found["case"], found["label"]) == (row.model, row.case, row.label)
        for name, value in row.values.items():
            assert (float(found[name]) if found[name] else math.nan) == pytest.approx(
                value, abs=0, nan_ok=True
            )
    assert rows[0]["label"] == "infarct"
    assert rows[1]["dice"] == ""


def test_rows_go_by_model_then_case_then_subset_with_the_largest_first():
    wanted = [
        (model, case, given)
        for model in ("Z", "A")  # as they were given, not by name
        for case in ("a", "b")
        for given in (("ADC", "T2"), ("ADC",), ("T2",))
    ]
    rows = [Row(case, model, ("ADC", "T2"), given, "x", {}) for model, case, given in wanted]
    for order in (rows, rows[::-1], rows[5:] + rows[:5]):
        found = Scores(order, ["Z", "A"], [], ["x"]).rows
        assert [(row.model, row.case, row.given) for row in found] == wanted


def test_a_model_that_sees_nothing_but_one_contrast_gives_it_all_the_worth(tmp_path):
    """Through files: predictions are a threshold of the ADC image, empty where it is withheld."""
    rng = np.random.default_rng(0)
    rows, had = [], ("ADC", "TRACE", "T2")
    labels = Labels.of(DATASET, write(tmp_path / "x.nii.gz", np.zeros(SHAPE, np.uint8)))
    for name in ("a", "b", "c", "d"):
        adc = rng.random(SHAPE)
        file = write(tmp_path / "labels" / f"{name}.nii.gz", (adc < 0.2).astype(np.uint8))
        case = Case(name, file, had)
        predictions = [Prediction.of_nothing(case)]
        for given in powerset(had):
            seen = adc < 0.3 if "ADC" in given else np.zeros(SHAPE, bool)
            path = tmp_path / subset_name(given) / f"{name}.nii.gz"
            predictions.append(Prediction("M", given, write(path, seen.astype(np.uint8))))
        rows += score_case(case, predictions, labels, 2.0)[0]
    scores = Scores(rows, ["M"], ["M"], list(labels.values))
    for metric in ("dice", "sensitivity", "precision", "hd95", "volume_error", "lesion_f1"):
        found = {w.contrast: w for w in worths(scores, [metric], had, ()) if w.had is None}
        assert found["ADC"].mean > 0
        assert found["ADC"].mean > max(found[other].mean for other in ("TRACE", "T2"))
        assert [found[other].mean for other in ("TRACE", "T2")] == pytest.approx([0, 0], abs=1e-12)
        gains = [
            abs(
                scores.value("M", c, had, metric, ["infarct"])
                - scores.value("", c, (), metric, ["infarct"])
            )
            for c in scores.cases
        ]
        assert found["ADC"].mean == pytest.approx(np.mean(gains))


def images_of(folder, **cases):
    """Image files by case and contrast; a contrast of zeros is absent."""
    return {
        case: {
            contrast: write(
                folder / f"{case}_{contrast}.nii.gz", np.full(SHAPE, flag == "1", np.float32)
            )
            for contrast, flag in zip(("ADC", "T2"), flags, strict=True)
        }
        for case, flags in cases.items()
    }


def test_what_a_case_had_is_in_the_record_or_else_in_the_voxels(folders):
    labels = Labels.of(DATASET, folders / "labels" / "case_0.nii.gz")
    files = find_labels(folders / "labels", ".nii.gz")
    images = images_of(folders, case_0="11", case_1="01", case_2="00", case_3="11")
    del images["case_3"]["T2"]
    record = ContrastRecord(("ADC", "T2"))
    record.add("case_3", (True, True), "test", "s")
    record.add("case_1", (False, True), "test", "s")
    (folders / "raw" / "imagesTs").mkdir(parents=True)
    record.write(folders / "raw")
    cases, failed = collect_cases(
        files, images, ContrastRecord.beside(folders / "raw" / "imagesTs"), labels
    )
    assert {case.name: case.had for case in cases} == {"case_0": ("ADC", "T2"), "case_1": ("T2",)}
    assert set(cases[1].images) == {"T2"}
    assert failed == {
        "case_2": "all its images are zero: there is nothing to predict from",
        "case_3": "contrasts.json says that it has T2: its file is missing",
        "case_4": "it has a label and no images",
    }
    cases, failed = collect_cases(files, {}, record, labels)  # predictions alone
    assert failed == {}
    assert {case.name: case.had for case in cases}["case_3"] == ("ADC", "T2")
    with pytest.raises(InputError, match="no case can be evaluated: all its images are zero"):
        collect_cases({"case_2": files["case_2"]}, images, None, labels)


def test_labels_and_the_data_set_are_found_or_asked_for(folders):
    before = find_labels(folders / "labels", ".nii.gz")
    (folders / "labels" / "._case_0.nii.gz").write_bytes(b"what a Mac puts beside a file")
    assert find_labels(folders / "labels", ".nii.gz") == before
    with pytest.raises(InputError, match=r"holds no label CASE\.nii\.gz: give its folder with -gt"):
        find_labels(folders, ".nii.gz")
    with pytest.raises(ConfigError, match="give one with -djfile"):
        find_dataset_json([folders / "labels"])
    for content in ("{}", "[]"):
        (folders / "dataset.json").write_text(content)
        with pytest.raises(InputError, match="is not nnU-Net's dataset"):
            find_dataset_json([folders / "labels"])
    (folders / "dataset.json").write_text(json.dumps(DATASET))
    assert find_dataset_json([folders / "labels"]) == DATASET
    assert find_dataset_json([folders / "dataset.json"]) == DATASET
    with pytest.raises(ConfigError, match="no label but background"):
        Labels.of({**DATASET, "labels": {"background": 0}}, folders / "labels" / "case_0.nii.gz")
