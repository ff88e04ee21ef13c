import json
import shutil

import numpy as np
import pytest
from conftest import DATASET

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.errors import AMAEError, ConfigError, ContrastError, InputError
from amae_nnunet.plans.preprocessed import (
    PreprocessedDataset,
    case_reader,
    check_cases,
    check_normalization,
    dataset_name,
    nonzero_channels,
    travel_record,
)


def open_small():
    return PreprocessedDataset.open("950", "3d_fullres", "nnUNetPlans")


def check(opened, cases=None):
    notes = []
    check_cases(
        opened.name, opened.data_folder, opened.dataset_json, cases or opened.cases(), notes.append
    )
    return notes


def test_record_travels_and_agrees_with_the_voxels(nnunet, dataset):
    opened = open_small()
    assert check(opened) == []
    copied = ContrastRecord.read(nnunet / "preprocessed" / DATASET)
    assert copied == ContrastRecord.read(nnunet / "raw" / DATASET)
    assert len({entry.present for entry in copied.cases.values()}) == 2


def test_a_record_that_is_not_true_is_found(nnunet, dataset):
    opened = open_small()
    folder = nnunet / "raw" / DATASET
    true = ContrastRecord.read(folder)
    case = next(name for name, entry in true.cases.items() if entry.present[2])
    false = ContrastRecord(true.contrasts, true.required, dict(true.cases))
    false.add(case, (True, True, False), "train", case)
    false.write(folder)
    try:
        with pytest.raises(ContrastError, match=f"{case}: .* says T2 is absent but .* not zero"):
            check(opened)
        del false.cases[case]
        false.write(folder)
        with pytest.raises(ContrastError, match=f"{case} is not in contrasts.json"):
            check(opened)
    finally:
        true.write(folder)


def test_the_copy_of_a_record_is_written_only_where_it_changed(nnunet, dataset):
    copy = nnunet / "preprocessed" / DATASET / "contrasts.json"
    travel_record(DATASET)
    before = copy.stat()
    travel_record(DATASET)
    assert copy.stat().st_ino == before.st_ino
    text = copy.read_text()
    copy.write_text(text.replace("train", "test", 1))
    travel_record(DATASET)
    assert copy.read_text() == text


def cut_short(folder, case):
    path = folder / f"{case}.b2nd"
    path.write_bytes(path.read_bytes()[:-100])


def overwritten(folder, case):
    path = folder / f"{case}.b2nd"
    content = path.read_bytes()
    path.write_bytes(content[:400] + b"x" * (len(content) - 800) + content[-400:])


def emptied(folder, case):
    (folder / f"{case}.b2nd").write_bytes(b"")


def without_properties(folder, case):
    (folder / f"{case}.pkl").write_bytes(b"")


def without_segmentation(folder, case):
    (folder / f"{case}_seg.b2nd").unlink()


@pytest.mark.parametrize(
    "damage", [cut_short, overwritten, emptied, without_properties, without_segmentation]
)
def test_a_damaged_preprocessed_case_is_named_in_one_line(dataset, tmp_path, damage):
    opened = open_small()
    folder = shutil.copytree(opened.data_folder, tmp_path / "data")
    case = opened.cases()[1]
    damage(folder, case)
    message = f"case {case}: its files in {folder} are damaged, or not all there .*: run nnUNetv2_"
    with pytest.raises(InputError, match=message) as said:
        check_cases(opened.name, folder, opened.dataset_json, opened.cases(), print)
    assert "\n" not in str(said.value)


def test_a_data_set_without_a_record_is_known_by_its_zeros(nnunet, dataset):
    opened = open_small()
    raw, copy = nnunet / "raw" / DATASET, nnunet / "preprocessed" / DATASET
    true = ContrastRecord.read(raw)
    for folder in (raw, copy):
        (folder / "contrasts.json").unlink(missing_ok=True)
    try:
        assert travel_record(DATASET) is None
        assert "has no contrasts.json" in check(opened)[0]
    finally:
        true.write(raw)


def test_a_missing_channel_is_named_with_its_case(nnunet, dataset, tmp_path):
    opened = open_small()
    case = opened.cases()[0]
    fewer = {**opened.dataset_json, "channel_names": {"0": "ADC", "1": "TRACE"}}
    (nnunet / "raw" / DATASET / "contrasts.json").rename(tmp_path / "contrasts.json")
    (nnunet / "preprocessed" / DATASET / "contrasts.json").unlink(missing_ok=True)
    try:
        with pytest.raises(InputError, match=f"case {case} has 3 channels, dataset.json 2"):
            check_cases(opened.name, opened.data_folder, fewer, [case], print)
    finally:
        (tmp_path / "contrasts.json").rename(nnunet / "raw" / DATASET / "contrasts.json")


@pytest.mark.parametrize("files", [[], ["a.b2nd", "b.npz"], ["a.b2nd", "b.b2nd.tmp"], ["a.txt"]])
def test_a_folder_that_a_killed_preprocessing_left_is_named(tmp_path, files):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{tmp_path.name} has no .* nnUNetv2_preprocess again"):
        case_reader(tmp_path)


def test_folds_are_those_of_stock_nnunet(nnunet, dataset):
    opened = open_small()
    path = nnunet / "preprocessed" / DATASET / "splits_final.json"
    assert opened.training_cases("all") == opened.cases()
    training = opened.training_cases("1")
    splits = json.loads(path.read_text())
    assert training == sorted(splits[1]["train"])
    assert set(training) | set(splits[1]["val"]) == set(opened.cases())
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    assert splits == generate_crossval_split(opened.cases(), seed=12345, n_splits=5)
    for wrong in ("5", "x", "-1"):
        with pytest.raises(ConfigError, match="fold"):
            opened.training_cases(wrong)


@pytest.mark.parametrize("scheme", ["CTNormalization", "NoNormalization"])
def test_a_normalization_that_breaks_the_presence_rule_is_refused(scheme):
    with pytest.raises(ConfigError, match=scheme):
        check_normalization(["ZScoreNormalization", scheme])
    check_normalization(["ZScoreNormalization"])


def test_nonzero_channels_looks_at_every_voxel():
    data = np.zeros((3, 5, 4, 4))
    data[1, 0, 3, 3] = 1e-30
    data[2] = 1
    assert nonzero_channels(data) == [False, True, True]


def test_variables_that_are_not_set_are_named(monkeypatch, dataset):
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(AMAEError, match="nnUNet_preprocessed is not set: export"):
        open_small()


def test_other_plans_that_have_the_configuration_are_named(tiny_plans):
    assert tiny_plans == "tiny"
    with pytest.raises(InputError) as refusal:
        PreprocessedDataset.open("950", "tiny", "nnUNetPlans")
    assert str(refusal.value) == (
        f"nnUNetPlans of {DATASET} has no configuration tiny: AMAEPlans has it: add -p AMAEPlans"
    )
    with pytest.raises(InputError, match="has no configuration none: it has 2d, 3d_fullres"):
        PreprocessedDataset.open("950", "none", "nnUNetPlans")


def test_an_unknown_number_of_a_data_set_is_told_with_those_that_there_are(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnUNet_results", raising=False)
    none = "there is no data set 777 in nnUNet_raw, nnUNet_preprocessed or nnUNet_results; "
    unset = r" \(nnUNet_results not set\)"
    with pytest.raises(InputError, match=f"^{none}they hold none: convert it first{unset}$"):
        dataset_name("777")
    for name in ("Dataset600_B", "Dataset501_A"):
        (tmp_path / "raw" / name).mkdir()
    (tmp_path / "preprocessed" / "Dataset501_A").mkdir()
    with pytest.raises(InputError, match=f"^{none}there are 501, 600{unset}$"):
        dataset_name("777")
    (tmp_path / "preprocessed" / "Dataset501_B").mkdir()
    with pytest.raises(InputError, match="^data set 501 is Dataset501_A or Dataset501_B: give"):
        dataset_name("501")
    for number in range(900, 999):
        (tmp_path / "raw" / f"Dataset{number}_C").mkdir()
    with pytest.raises(InputError, match=r"there are 501, 600, 900, .*909, \.\.\. \("):
        dataset_name("777")
    assert dataset_name("600") == "Dataset600_B"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"train": ["a"],}]', "is not JSON"),
        ('[{"val": ["a"]}]', "is no list of folds with train and val"),
        ('{"train": ["a"]}', "is no list of folds with train and val"),
        ("3", "is no list of folds with train and val"),
    ],
)
def test_a_split_that_is_none_is_one_line(nnunet, tiny_plans, text, message):
    opened = PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")
    path = opened.folder / "splits_final.json"
    before = path.read_text() if path.exists() else None
    path.write_text(text)
    try:
        with pytest.raises(InputError, match=rf"{message}.*: repair it, or delete it"):
            opened.training_cases("0")
    finally:
        path.unlink()
        if before is not None:
            path.write_text(before)


def test_json_that_is_no_plans_file_is_named(tiny_plans):
    with pytest.raises(InputError, match=r"dataset\.json is no plans file: name another, or run"):
        PreprocessedDataset.open("950", tiny_plans, "dataset")


def test_a_case_with_voxels_that_are_not_finite_is_named(nnunet, tiny_plans, tmp_path):
    """Stock preprocessing makes all voxels NaN where one was; the loss would be NaN, too."""
    opened = PreprocessedDataset.open("950", tiny_plans, "AMAEPlans")
    folder = shutil.copytree(opened.data_folder, tmp_path / "data")
    case = opened.cases()[0]
    reader = case_reader(folder)(str(folder), [case])
    data, seg, _, properties = reader.load_case(case)
    data, seg = np.asarray(data[:]).copy(), np.asarray(seg[:])
    data[0] = np.nan
    for path in folder.glob(f"{case}*"):
        path.unlink()
    reader.save_case(
        data, seg, properties, str(folder / case), chunks=data.shape, blocks=data.shape,
        chunks_seg=seg.shape, blocks_seg=seg.shape,
    )  # fmt: skip
    words = (opened.name, folder, opened.dataset_json, [case], list)
    with pytest.raises(InputError, match=f"case {case} has voxels that are NaN or infinite"):
        check_cases(*words)
