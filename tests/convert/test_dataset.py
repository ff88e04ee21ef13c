"""Many cases, in this process: what is redone, and what interruptions and failures leave."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from convert.studies import (
    AFFINE,
    contents,
    ledger,
    load,
    make_case,
    save,
    tree,
    voxels,
    write_template,
)

from amae_nnunet.contrasts import ContrastRecord
from amae_nnunet.convert import output, worker
from amae_nnunet.convert.case import Options
from amae_nnunet.convert.dataset import convert
from amae_nnunet.convert.output import recorded_keys
from amae_nnunet.convert.parts import Part
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.source import NiftiFile
from amae_nnunet.convert.table import scan_table, write_table
from amae_nnunet.convert.target import Target, dataset_target
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError, InputError
from amae_nnunet.lock import locked


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
    def run(change=lambda cases: cases, root=raw, template=template, target=target, **more):
        cases = change(scan(root, template))
        more = {"processes": 1, "timeout": 0, "options": Options(montages=False), **more}
        summary = convert(cases, template, target, **more)
        return summary.done, summary.skipped, summary.failed

    return run


def training_cases(target):
    return json.loads((target.folder / "dataset.json").read_text())["numTraining"]


def test_a_table_whose_columns_were_swapped_is_converted_anew(template, target, tmp_path):
    """Files of one name, one size and one time, as a folder a contrast has them."""
    for number, name in enumerate(("T1", "FLAIR", "T1CE")):
        save(tmp_path / name / "p.nii", voxels(number))
        os.utime(tmp_path / name / "p.nii", ns=(1, 1))
    options = Options(montages=False)
    inference = Target(tmp_path / "inputs")
    for columns in ("T1,FLAIR", "FLAIR,T1"):
        (tmp_path / "t.csv").write_text(f"case,{columns}\np,T1/p.nii,FLAIR/p.nii\n")
        cases = scan_table(tmp_path / "t.csv", template)
        summary = convert(cases, template, inference, processes=1, timeout=0, options=options)
        assert (summary.done, summary.skipped) == (1, 0)
    np.testing.assert_array_equal(load(inference.folder / "p_0000.nii.gz")[0], voxels(1))


def test_another_part_of_the_same_files_is_converted_anew(go):
    """As another stack of one archive is, when a sheet chooses it."""

    def taking(part):
        kind = type("Stack", (NiftiFile,), {"part": part})
        return lambda cases: [
            replace(raw, contrasts={n: kind(s.path, s.name) for n, s in raw.contrasts.items()})
            for raw in cases
        ]

    assert go(taking("one")) == (2, 0, 0)
    assert go(taking("one")) == (0, 2, 0)
    assert go(taking("other")) == (2, 0, 0)


def test_a_case_that_a_table_calls_by_its_name_is_the_case_of_its_folder(raw, go, template, target):
    (raw / "a").rename(raw / "pat 1")
    assert go() == (2, 0, 0)
    write_table(scan(raw, template), raw / "cases.csv", template)
    cases = scan_table(raw / "cases.csv", template)
    assert [(case.case, case.source) for case in cases] == [("b", "b"), ("pat-1", "pat-1")]
    for change in (lambda _: cases, lambda cases: cases):  # and back
        assert go(change)[2] == 0
    entries = {entry["case"]: entry["source"] for entry in ledger(target.folder)}
    assert entries == {"b": "b", "pat-1": "pat 1"}


def test_of_two_folders_whose_names_become_one_the_second_is_refused(raw, go, target, tmp_path):
    make_case(tmp_path / "one", "pat 1")
    make_case(tmp_path / "two", "pat-1")
    assert go(root=tmp_path / "one") == (1, 0, 0)
    with pytest.raises(InputError, match="the case could not be converted"):
        go(root=tmp_path / "two")
    (failure,) = ledger(target.folder, "failures.jsonl")
    assert failure["error"] == "pat-1 gets the same name as pat 1: rename it"


def test_what_is_done_is_skipped_and_what_changed_is_redone(go, raw, target):
    assert go() == (2, 0, 0)
    assert go() == (0, 2, 0)
    os.utime(raw / "a" / "seg.nii.gz", ns=(1, 1))
    assert go() == (1, 1, 0)
    (target.folder / "imagesTr" / "a_0001.nii.gz").unlink()
    assert go() == (1, 1, 0)
    save(raw / "b" / "T1.nii.gz", voxels(9))
    (raw / "a" / "T1CE.nii.gz").unlink()
    assert go() == (2, 0, 0)
    assert np.array_equal(load(target.folder / "imagesTr" / "b_0000.nii.gz")[0], voxels(9))
    record = ContrastRecord.read(target.folder)
    assert record.names_present("a") == ("T1", "FLAIR")
    assert [line["case"] for line in ledger(target.folder)] == ["a", "b"]


def test_what_the_input_says_of_a_case_is_part_of_it(go):
    def say(**facts):
        def change(cases):
            a, b = cases
            t1 = replace(a.contrasts["T1"], **facts)
            return [replace(a, contrasts={**a.contrasts, "T1": t1}), b]

        return change

    go()
    assert go(say()) == (0, 2, 0)
    assert go(say(facts={"b": 1000.0})) == (1, 1, 0)
    assert go(say(warnings=("W_B_VALUE: x",))) == (1, 1, 0)
    assert go(say(name="T1w.nii.gz")) == (1, 1, 0)
    assert go(say(volume=0)) == (1, 1, 0)
    warned = ("W_FRAME: x",)
    assert go(lambda cases: [replace(raw, warnings=warned) for raw in cases]) == (2, 0, 0)
    assert go(options=Options(montages=False, strict=True)) == (2, 0, 0)


def test_another_required_contrast_redoes_all(go, tmp_path):
    go()
    changed = load_template(str(write_template(tmp_path, required=["T1"])))
    assert go(template=changed) == (2, 0, 0)


def test_a_forgotten_label_takes_no_case_away(go, raw, template, target):
    go()
    cases = [replace(case, code="E_NO_LABEL", problem="no label") for case in scan(raw, template)]
    with pytest.raises(InputError, match="none of the 2 cases"):
        convert(cases, template, target, 1)
    assert training_cases(target) == 2
    assert len(ledger(target.folder, "failures.jsonl")) == 2


def test_what_becomes_of_earlier_conversions_is_said(go, raw, target, tmp_path, caplog):
    caplog.set_level("INFO")

    def said():
        lines = [record.message for record in caplog.records]
        caplog.clear()
        return lines

    for number in range(7):
        make_case(raw, f"c{number}")
    assert go() == (9, 0, 0)
    assert said() == []
    shutil.rmtree(raw / "a")
    os.utime(raw / "b" / "seg.nii.gz", ns=(1, 1))
    assert go() == (1, 7, 0)
    assert said() == [
        "1 case converted anew, since input or options changed: b",
        "1 case not in the input any more, but kept: a",
    ]
    assert "a" in ContrastRecord.read(target.folder).cases
    make_case(tmp_path / "more", "d")
    assert go(root=tmp_path / "more") == (1, 0, 0)  # another input leaves nothing out
    make_case(tmp_path / "tests", "e")
    assert go(root=tmp_path / "tests", target=replace(target, split="test")) == (1, 0, 0)
    assert said() == []
    for number in range(1, 7):
        shutil.rmtree(raw / f"c{number}")
    assert go() == (0, 2, 0)
    kept = "8 cases not in the input any more, but kept: a, c1, c2, c3, c4 and 3 more"
    assert said() == [kept]


def test_a_bad_row_beside_a_good_one_of_its_name_takes_nothing_away(go, target, raw, template):
    table = raw / "cases.csv"
    good = "a,a/FLAIR.nii.gz,a/seg.nii.gz"
    table.write_text(f"case,FLAIR,label\n{good}\n")

    def read(_):
        return scan_table(table, template)

    assert go(read) == (1, 0, 0)
    table.write_text(f"case,FLAIR,label\n{good}\na,,\nb,b/FLAIR.nii.gz,b/seg.nii.gz\n")
    assert go(read) == (1, 0, 2)
    assert [line["case"] for line in ledger(target.folder)] == ["a", "b"]
    assert (target.folder / "imagesTr" / "a_0001.nii.gz").is_file()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("", "k1", "has plain names, and these would be hashes: choose another data set"),
        ("k1", "", "has hashed names: give --ids hash, and --key as before"),
        ("k1", "k2", "has names hashed with another key: give the key file used so far"),
    ],
)
@pytest.mark.parametrize("part", [None, Part(0, 1)])
def test_names_of_two_kinds_do_not_mix(go, target, first, second, message, part):
    def named(id_key):
        return lambda cases: [replace(raw, id_key=id_key) for raw in cases]

    go(named(first), part=part)
    before = contents(target.folder)
    assert recorded_keys(target.folder) == {first}
    with pytest.raises(ConfigError, match=message):
        go(named(second), part=part)
    assert contents(target.folder) == before
    assert go(named(first), part=part) == (0, 2, 0)


def test_a_failed_case_is_retried_and_its_old_files_are_gone(go, raw, target, caplog):
    go()
    good = (raw / "a" / "FLAIR.nii.gz").read_bytes()
    (raw / "a" / "FLAIR.nii.gz").write_bytes(good[:200])
    assert go() == (0, 1, 1)
    assert "case a: warning: its earlier conversion is removed" in caplog.text
    assert [name for name in tree(target.folder) if "/a" in name] == []
    assert training_cases(target) == 1
    assert [line["case"] for line in ledger(target.folder, "failures.jsonl")] == ["a"]
    (raw / "a" / "FLAIR.nii.gz").write_bytes(good)
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
    monkeypatch.setattr(output.Output, "finish", lambda *_: None)  # killed: no time to tidy up
    with pytest.raises(KeyboardInterrupt):
        go()
    assert (target.folder / "imagesTr" / "b_0000.nii.gz").exists()
    monkeypatch.undo()
    shutil.rmtree(raw / "b")  # so that b is not simply written again
    assert go() == (0, 1, 0)
    assert list(ContrastRecord.read(target.folder).cases) == ["a"]
    assert [name for name in tree(target.folder) if "/b" in name] == []
    assert not (target.folder / ".amae_tmp").exists()
    assert training_cases(target) == 1


def test_an_interrupted_run_still_writes_true_records(go, raw, target, monkeypatch):
    for name in ("b", "c"):
        make_case(raw, name, contrasts=("T1",))
    (raw / "b" / "FLAIR.nii.gz").unlink()
    assert go() == (1, 0, 2)
    for name in ("a", "b"):
        save(raw / name / "FLAIR.nii.gz", voxels(9))
    shutil.rmtree(raw / "c")
    real = output.Output.publish

    def interrupt(self, raw, key, converted):
        if raw.case == "b":
            raise KeyboardInterrupt
        real(self, raw, key, converted)

    monkeypatch.setattr(output.Output, "publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert training_cases(target) == 1
    assert list(ContrastRecord.read(target.folder).cases) == ["a"]
    assert [line["case"] for line in ledger(target.folder, "failures.jsonl")] == ["b", "c"]
    assert not (target.folder / ".amae_tmp").exists()
    monkeypatch.undo()
    assert go() == (1, 1, 0)
    assert ledger(target.folder, "failures.jsonl") == []


def test_without_a_terminal_ten_lines_say_how_far_it_is(go, raw, caplog):
    for number in range(22):
        make_case(raw, f"case{number:02}", contrasts=("T1", "FLAIR") if number % 2 else ("T1",))
    for path in raw.glob("case*[02468]"):
        save(path / "FLAIR.nii.gz", voxels() * 0)
    caplog.set_level("INFO")
    assert go() == (13, 0, 11)
    said = [record.message for record in caplog.records if record.levelname == "INFO"]
    assert len(said) == 10
    assert said[4] == "12 of 24 cases, 5 failed"
    assert said[9] == "24 of 24 cases, 11 failed"


def test_a_ledger_line_cut_short_is_left_out(go, target):
    go()
    path = target.folder / "cases.jsonl"
    path.write_text(path.read_text()[:-30])
    assert go() == (1, 1, 0)
    path.write_text("{\n")
    with pytest.raises(InputError, match="not a JSON-lines file"):
        go()


def test_a_case_that_ends_badly_does_not_stop_the_others(go, target, monkeypatch, caplog):
    real = worker.convert_case

    def convert_case(job):
        if job.raw.case == "a":
            raise ZeroDivisionError("/secret/path")
        return real(job)

    monkeypatch.setattr(worker, "convert_case", convert_case)
    caplog.set_level("DEBUG", "amae_nnunet")
    assert go() == (1, 0, 1)
    (failure,) = ledger(target.folder, "failures.jsonl")
    assert failure["error"].startswith("unexpected ZeroDivisionError: run with -v")
    assert failure["code"] == "E_UNEXPECTED"
    assert not any(b"/secret" in content for content in contents(target.folder).values())
    assert [name for name in tree(target.folder) if "/a" in name] == []
    shown = [record.levelname for record in caplog.records if "/secret" in record.getMessage()]
    assert shown == ["DEBUG"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_that_vanishes_costs_its_case(go, raw, target, monkeypatch, when):
    def vanish(*_):
        (raw / "a" / "FLAIR.nii.gz").unlink(missing_ok=True)

    def change(cases):
        vanish()
        return cases

    if when == "meanwhile":
        real = worker.convert_case
        monkeypatch.setattr(worker, "convert_case", lambda job: (vanish(), real(job))[1])
    assert go(*([change] if when == "before" else [])) == (1, 0, 1)
    (failure,) = ledger(target.folder, "failures.jsonl")
    assert failure["code"] == "E_DAMAGED"
    assert "FLAIR.nii.gz" in failure["error"]
    assert str(raw) not in failure["error"]


def test_two_runs_at_once_are_refused(go, target):
    go()
    before = contents(target.folder)
    said = "another run writes into .*Dataset001_Tiny: wait"
    with locked(target.folder / ".amae_lock"), pytest.raises(ConfigError, match=said):
        go()
    assert contents(target.folder) == before
    assert go() == (0, 2, 0)


def test_a_case_goes_where_its_input_says(go, target, raw):
    make_case(raw, "c", label=False)

    def say(cases):
        return [
            replace(raw, split="test", code="", problem="") if raw.case == "c" else raw
            for raw in cases
        ]

    assert go(say) == (3, 0, 0)
    assert (target.folder / "imagesTs" / "c_0000.nii.gz").is_file()
    assert [entry["split"] for entry in ledger(target.folder)] == ["train", "train", "test"]
    assert go(say) == (0, 3, 0)
    with pytest.raises(ConfigError, match=r"would hold train and unlabeled .*pre-train on Data"):
        go(lambda cases: [replace(raw, split="unlabeled") for raw in cases])
    inputs = Target(target.folder.parent / "inputs")
    assert go(say, target=inputs) == (3, 0, 0)
    assert (inputs.folder / "c_0000.nii.gz").is_file()


def test_names_that_cannot_be_used_are_refused(go, target, tmp_path):
    def rename(cases):
        a, b = cases
        return [replace(a, case="../../x"), b, replace(b), replace(a, case="B", source="other")]

    assert go(rename) == (1, 0, 3)
    codes = {line["code"] for line in ledger(target.folder, "failures.jsonl")}
    assert codes == {"E_NAME"}
    for _ in range(2):
        assert go(rename) == (0, 1, 3)
        assert (target.folder / "imagesTr" / "b_0000.nii.gz").is_file()
    assert not list(tmp_path.glob("x*"))


class Killed(BaseException):
    """The end of a process, at which nothing more is tidied up."""


@pytest.fixture
def kill_at(monkeypatch):
    """Let nothing be done to the disk any more from a given step on."""
    steps = {"done": 0, "last": None}

    def counted(real):
        def step(*args, **kwargs):
            if steps["last"] is not None and steps["done"] >= steps["last"]:
                raise Killed
            steps["done"] += 1
            return real(*args, **kwargs)

        return step

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(output, "append_line", counted(output.append_line))

    def start(last):
        steps.update(done=0, last=last)
        return steps

    return start


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_any_step_changes_nothing_but_the_time(go, raw, target, tmp_path, kill_at, again):
    make_case(raw, "c", contrasts=("T1",))  # fails
    other = Target(tmp_path / "other" / target.dataset, "train", target.dataset)
    copy = Target(tmp_path / "copy" / target.dataset, "train", target.dataset)

    def prepare():
        shutil.rmtree(target.folder, ignore_errors=True)
        if again:
            save(raw / "b" / "T1CE.nii.gz", voxels(3))
            os.utime(raw / "b" / "T1.nii.gz", ns=(1, 1))
            go()
            (raw / "b" / "T1CE.nii.gz").unlink()
            os.utime(raw / "b" / "T1.nii.gz", ns=(2, 2))

    prepare()
    steps = kill_at(None)
    go()
    total = steps["done"]
    assert total > 15
    go(target=other)
    for last in range(total):
        kill_at(None)
        prepare()
        kill_at(last)
        with pytest.raises(Killed):
            go()
        kill_at(None)
        (raw / "b").rename(tmp_path / "b")  # so that b is not simply done again
        if target.folder.exists():
            shutil.copytree(target.folder, copy.folder)
        go(target=copy)
        (tmp_path / "b").rename(raw / "b")
        names = {name.split("_")[0] for name in tree(copy.folder / "imagesTr")}
        assert names == {entry["case"] for entry in ledger(copy.folder)}, last
        assert len(tree(copy.folder / "imagesTr")) == 3 * len(names), last
        shutil.rmtree(copy.folder)
        go()
        assert contents(target.folder) == contents(other.folder), last


def test_a_name_taken_by_another_folder_or_split_fails_and_changes_nothing(
    go, raw, target, tmp_path
):
    go()
    images = target.folder / "imagesTr"
    before = {name: (images / name).stat().st_mtime_ns for name in tree(images)}
    (raw / "a").rename(raw / "A")
    assert go() == (0, 1, 1)
    test = Target(target.folder, "test", target.dataset)
    make_case(tmp_path / "raw_test", "b")
    make_case(tmp_path / "raw_test", "c", label=False)
    assert go(root=tmp_path / "raw_test", target=test) == (1, 0, 1)
    said = [line["error"] for line in ledger(target.folder, "failures.jsonl")]
    assert said == [
        "A gets the same name as a: rename it",
        "it is there already, in split train: leave it out, or rename it if it is another patient",
    ]
    assert all((images / name).stat().st_mtime_ns == then for name, then in before.items())
    assert training_cases(target) == 2


def test_unlabeled_and_train_do_not_mix(go, target, tmp_path):
    unlabeled = Target(target.folder, "unlabeled", target.dataset)
    assert go(target=unlabeled) == (2, 0, 0)
    assert training_cases(target) == 2
    assert not (target.folder / "labelsTr").exists()
    with pytest.raises(ConfigError, match=r"holds unlabeled cases: .*--unlabeled Dataset001_T"):
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


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_description_is_one_line(go, target, content):
    assert go() == (2, 0, 0)
    (target.folder / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset.json is damaged: restore it, or remove"):
        go()


def test_a_foreign_folder_is_refused_and_left_alone(go, target, tmp_path):
    target.folder.mkdir()
    (target.folder / "precious.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose an empty folder"):
        go()
    assert tree(target.folder) == ["precious.txt"]
    go(target=Target(tmp_path / "Dataset002_Tiny", "train", "Dataset002_Tiny"))
    with pytest.raises(ConfigError, match="is a data set: choose another folder for -o"):
        go(target=Target(tmp_path / "Dataset002_Tiny"))
    go(target=Target(tmp_path / "inputs"))
    with pytest.raises(ConfigError, match="holds inference inputs"):
        go(target=Target(tmp_path / "inputs", "train", "Dataset003_Tiny"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        go(target=Target(tmp_path / "file"))


def test_a_strange_case_in_the_images_is_counted_and_named(go, target, caplog):
    go()
    (target.folder / "imagesTr" / "x_0000.nii.gz").touch()
    go()
    assert training_cases(target) == 3
    assert "imagesTr has case x, which was not converted here: remove it" in caplog.text


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


def test_a_raw_folder_is_made_aloud_and_never_with_the_one_above_it(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "typo" / "raw"))
    with pytest.raises(ConfigError, match="and the folder above it is not there: correct it"):
        dataset_target(1, "Tiny", "train")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert dataset_target(1, "Tiny", "train").folder == tmp_path / "raw" / "Dataset001_Tiny"
    assert caplog.messages == [f"nnUNet_raw is {tmp_path}/raw, which is not there yet and is made"]


def test_what_is_skipped_repeats_its_doubts(go, raw, caplog):
    (raw / "a" / "T1.nii.gz").write_bytes(b"")
    assert go() == (2, 0, 0)
    said = [message for message in caplog.messages if "W_DROPPED" in message]
    assert len(said) == 1
    caplog.clear()
    assert go() == (0, 2, 0)
    assert caplog.messages == said


def test_verbose_says_which_file_became_which_channel(go, raw, caplog):
    caplog.set_level("DEBUG", "amae_nnunet.convert.dataset")
    (raw / "a" / "T1.nii.gz").write_bytes(b"")
    (raw / "a" / "T1CE.nii.gz").rename(raw / "a" / "odd.nii.gz")
    smaller = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    save(raw / "b" / "T1.nii.gz", voxels(5, (24, 20, 16)), smaller)
    go()
    assert [message for message in caplog.messages if "warning" not in message] == [
        "case a: 0000 T1 from T1.nii.gz (dropped); 0001 FLAIR from FLAIR.nii.gz (present); "
        "0002 T1CE (absent); label from seg.nii.gz; not used: odd.nii.gz",
        "case b: 0000 T1 from T1.nii.gz (resampled); 0001 FLAIR from FLAIR.nii.gz (present); "
        "0002 T1CE from T1CE.nii.gz (present); label from seg.nii.gz",
    ]
    caplog.clear()
    go()
    assert "case b: skipped, its input is as it was" in caplog.messages


def test_a_contrast_that_covers_half_or_less_is_dropped(go, raw, target, template):
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
    assert a["warnings"] == ["W_COVERAGE: T1 covers 87.5% of the grid of FLAIR"]
    (dropped,) = b["warnings"]
    assert dropped.startswith(
        "W_DROPPED: T1 is dropped (E_COVERAGE): T1 covers 37.5% of the grid of FLAIR"
    )
    assert not load(target.folder / "imagesTr" / "b_0000.nii.gz")[0].any()


def test_torch_is_never_imported():
    rooms = ["dataset", "cluster", "processes", "scan", "grid", "case"]
    lines = [f"import amae_nnunet.convert.{room}" for room in rooms]
    lines += ["import sys", "assert 'torch' not in sys.modules"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
