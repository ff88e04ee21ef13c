"""Many cases, in this process: what is redone, and what interruptions and failures leave."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from convert.studies import AFFINE, ledger, load, make_case, save, tree, voxels, write_template

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.convert import dataset, output
from amae_nnunet.convert.dataset import convert
from amae_nnunet.convert.target import Target, dataset_target
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError, InputError


@pytest.fixture
def raw(tmp_path):
    for name in ("a", "b"):
        make_case(tmp_path / "raw", name)
    return tmp_path / "raw"


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path)))


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / "Dataset001_Tiny", "train", "Dataset001_Tiny")


@pytest.fixture
def go(raw, template, target):
    def run(**changes):
        what = {"root": raw, "template": template, "target": target, "processes": 1, **changes}
        summary = convert(**what)
        return summary.done, summary.skipped, summary.failed

    return run


def training_cases(target):
    return json.loads((target.folder / "dataset.json").read_text())["numTraining"]


def test_what_is_done_is_skipped_and_what_changed_is_redone(go, raw, target):
    assert go() == (2, 0, 0)
    assert go() == (0, 2, 0)
    os.utime(raw / "a" / "seg.nii.gz", ns=(1, 1))
    assert go() == (1, 1, 0)
    (target.images / "a_0001.nii.gz").unlink()
    assert go() == (1, 1, 0)
    save(raw / "b" / "T1.nii.gz", voxels(9))
    (raw / "a" / "T1CE.nii.gz").unlink()
    assert go() == (2, 0, 0)
    assert np.array_equal(load(target.images / "b_0000.nii.gz")[0], voxels(9))
    record = ContrastRecord.read(target.folder)
    assert record.names_present("a") == ("T1", "FLAIR")
    assert [line["case"] for line in ledger(target.folder)] == ["a", "b"]


def test_another_required_contrast_redoes_all(go, tmp_path):
    go()
    changed = load_template(str(write_template(tmp_path, required=["T1"])))
    assert go(template=changed) == (2, 0, 0)


def test_a_failed_case_is_retried_and_its_old_files_are_gone(go, raw, target):
    go()
    good = (raw / "a" / "T1.nii.gz").read_bytes()
    (raw / "a" / "T1.nii.gz").write_bytes(good[:200])
    assert go() == (0, 1, 1)
    assert [name for name in tree(target.folder) if "/a" in name] == []
    assert training_cases(target) == 1
    assert [line["case"] for line in ledger(target.folder, "failures.jsonl")] == ["a"]
    (raw / "a" / "T1.nii.gz").write_bytes(good)
    assert go() == (1, 1, 0)
    assert ledger(target.folder, "failures.jsonl") == []
    assert training_cases(target) == 2


@pytest.mark.parametrize("again", [False, True])
def test_an_interruption_between_two_files_leaves_nothing_half(go, raw, target, monkeypatch, again):
    if again:
        go()
        save(raw / "b" / "T1.nii.gz", voxels(9))
    real = os.replace

    def interrupt(source, goal):
        if str(goal).endswith("b_0002.nii.gz"):
            raise KeyboardInterrupt
        real(source, goal)

    monkeypatch.setattr(output.os, "replace", interrupt)
    monkeypatch.setattr(output.Output, "finish", lambda self: None)  # killed: no time to tidy up
    with pytest.raises(KeyboardInterrupt):
        go()
    assert (target.images / "b_0000.nii.gz").exists()
    monkeypatch.undo()
    shutil.rmtree(raw / "b")  # so that b is not simply written again
    assert go() == (0, 1, 0)
    assert list(ContrastRecord.read(target.folder).cases) == ["a"]
    assert [name for name in tree(target.folder) if "/b" in name] == []
    assert not (target.folder / ".amae_tmp").exists()
    assert training_cases(target) == 1


def test_an_interrupted_run_still_writes_true_records(go, target, monkeypatch):
    real = output.Output.publish

    def interrupt(self, raw, key, facts):
        if raw.case == "b":
            raise KeyboardInterrupt
        real(self, raw, key, facts)

    monkeypatch.setattr(output.Output, "publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert training_cases(target) == 1
    assert list(ContrastRecord.read(target.folder).cases) == ["a"]
    assert not (target.folder / ".amae_tmp").exists()


def test_a_ledger_line_cut_short_is_left_out(go, target):
    go()
    path = target.folder / "cases.jsonl"
    path.write_text(path.read_text()[:-30])
    assert go() == (1, 1, 0)
    path.write_text("{\n")
    with pytest.raises(InputError, match="not a JSON-lines file"):
        go()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BrokenProcessPool(), "a process died, perhaps out of memory: run again with -np 1"),
        (ZeroDivisionError("/secret/path"), "unexpected ZeroDivisionError: run with -v"),
    ],
)
def test_a_case_that_ends_badly_does_not_stop_the_others(go, target, monkeypatch, error, said):
    real = dataset.convert_case

    def convert_case(job):
        if job.raw.case == "a":
            raise error
        return real(job)

    monkeypatch.setattr(dataset, "convert_case", convert_case)
    assert go() == (1, 0, 1)
    (failure,) = ledger(target.folder, "failures.jsonl")
    assert failure["error"].startswith(said)
    assert "/secret" not in failure["error"]
    assert [name for name in tree(target.folder) if "/a" in name] == []


def test_a_name_taken_by_another_folder_or_split_fails_and_changes_nothing(
    go, raw, target, tmp_path
):
    go()
    before = {name: (target.images / name).stat().st_mtime_ns for name in tree(target.images)}
    (raw / "a").rename(raw / "A")
    assert go() == (0, 1, 1)
    test = Target(target.folder, "test", target.dataset)
    make_case(tmp_path / "raw_test", "b")
    make_case(tmp_path / "raw_test", "c", label=False)
    assert go(root=tmp_path / "raw_test", target=test) == (1, 0, 1)
    said = [line["error"] for line in ledger(target.folder, "failures.jsonl")]
    assert said == [
        "folder A gets the same name as a: rename it",
        "it is in the data set already, in split train: rename one",
    ]
    assert all((target.images / name).stat().st_mtime_ns == then for name, then in before.items())
    assert training_cases(target) == 2


def test_unlabeled_and_train_do_not_mix(go, target, tmp_path):
    unlabeled = Target(target.folder, "unlabeled", target.dataset)
    assert go(target=unlabeled) == (2, 0, 0)
    assert training_cases(target) == 2
    assert not (target.folder / "labelsTr").exists()
    with pytest.raises(ConfigError, match="would hold train and unlabeled cases"):
        go()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"contrasts": {"T1": ["T1.*"], "FLAIR": ["FLAIR.*"]}},
            "has the contrasts T1, FLAIR, T1CE",
        ),
        ({"label": {"patterns": ["seg*"], "labels": {"background": 0}}}, "has the labels"),
    ],
)
def test_a_data_set_of_another_template_is_refused(go, tmp_path, changes, message):
    go()
    with pytest.raises(ConfigError, match=message):
        go(template=load_template(str(write_template(tmp_path, **changes))))


def test_a_foreign_folder_is_refused_and_left_alone(go, target, tmp_path):
    target.folder.mkdir()
    (target.folder / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose an empty folder"):
        go()
    assert tree(target.folder) == ["precious.txt"]
    go(target=Target(tmp_path / "Dataset002_Tiny", "train", "Dataset002_Tiny"))
    with pytest.raises(ConfigError, match="choose an empty folder"):
        go(target=Target(tmp_path / "Dataset002_Tiny"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        go(target=Target(tmp_path / "file"))


def test_output_inside_the_input_is_refused(go, raw):
    with pytest.raises(ConfigError, match="lies in the input folder"):
        go(target=Target(raw / "out"))
    assert not (raw / "out").exists()


def test_a_strange_case_in_the_images_is_counted_and_named(go, target, caplog):
    go()
    (target.images / "x_0000.nii.gz").touch()
    go()
    assert training_cases(target) == 3
    assert "imagesTr has case x, which is not in cases.jsonl: remove it" in caplog.text


def test_another_data_set_of_the_same_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    assert dataset_target(7, "Tiny", "train").folder == tmp_path / "Dataset007_Tiny"
    (tmp_path / "pre" / "Dataset007_Other").mkdir(parents=True)
    with pytest.raises(ConfigError, match="nnUNet_preprocessed has Dataset007_Other: choose"):
        dataset_target(7, "Tiny", "train")
    with pytest.raises(ConfigError, match="-d 1000"):
        dataset_target(1000, "Tiny", "train")
    with pytest.raises(ConfigError, match="letters, digits"):
        dataset_target(8, "../../x", "train")


def test_two_processes_write_what_one_writes(go, target, tmp_path):
    other = Target(tmp_path / "Dataset002_Tiny", "train", "Dataset001_Tiny")
    assert go() == (2, 0, 0)
    assert go(target=other, processes=2) == (2, 0, 0)
    for name in tree(target.folder):
        assert (target.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_a_contrast_that_covers_half_or_less_is_missing(go, raw, target, template):
    def shifted(voxels_away):
        affine = AFFINE.copy()
        affine[2, 3] += voxels_away * AFFINE[2, 2]
        return affine

    save(raw / "a" / "T1.nii.gz", voxels(), shifted(1))
    save(raw / "b" / "T1.nii.gz", voxels(), shifted(5))
    assert go() == (2, 0, 0)
    a, b = ledger(target.folder)
    assert (a["present"], b["present"]) == ("111", "011")
    assert a["contrasts"]["T1"]["status"] == "resampled"
    assert a["warnings"] == ["T1 covers 87.5% of the grid of FLAIR"]
    assert b["warnings"] == ["T1 covers 37.5% of the grid of FLAIR, it counts as missing"]
    assert not load(target.images / "b_0000.nii.gz")[0].any()


def test_torch_is_never_imported():
    rooms = ["dataset", "output", "target", "scan", "template", "nifti", "grid", "case"]
    lines = [f"import amae_nnunet.convert.{room}" for room in rooms]
    lines += ["import sys", "assert 'torch' not in sys.modules"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
