"""Parts of a run: together they are what one run is, whatever happens on the way."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from convert.studies import contents, ledger, make_case, save, tree, voxels, write_template

from amae_nnunet.convert import dataset, output, parts
from amae_nnunet.convert.case import Options
from amae_nnunet.convert.dataset import convert, merge
from amae_nnunet.convert.parts import Part
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError

CASES = [f"case{number}" for number in range(8)]
FAILING = CASES[-2:]
PARTS = 3
DATASET = "Dataset001_Tiny"


@pytest.fixture
def raw(tmp_path):
    for name in CASES:
        contrasts = ("T1",) if name in FAILING else ("T1", "FLAIR", "T1CE")  # FLAIR is required
        make_case(tmp_path / "raw", name, contrasts)
    return tmp_path / "raw"


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path)))


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / "parts" / DATASET, "train", DATASET)


@pytest.fixture
def go(raw, template, target):
    def run(index=None, number=PARTS, target=target, template=template):
        cases = scan(raw, template)
        part = None if index is None else Part(index, number)
        options = Options(montages=False)
        summary = convert(cases, template, target, 1, options, timeout=0, part=part)
        return summary.done, summary.skipped, summary.failed

    return run


@pytest.fixture
def whole(go, tmp_path):
    """What one run writes."""

    def run():
        other = Target(tmp_path / "whole" / DATASET, "train", DATASET)
        shutil.rmtree(other.folder, ignore_errors=True)
        go(target=other)
        return contents(other.folder)

    return run


def test_each_case_is_in_one_part_whatever_its_capitals():
    names = [f"Sub-{number:03}" for number in range(300)]
    sizes = []
    for index in range(8):
        mine = [name for name in names if Part(index, 8).has(name)]
        assert mine == [name for name in names if Part(index, 8).has(name.upper())]
        sizes.append(len(mine))
    assert sum(sizes) == 300
    assert min(sizes) > 20
    assert Part(2, 8).has("case_001")  # for good: part 2 holds it in data sets that exist
    for index, number in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ConfigError, match="give 0 to num_parts - 1"):
            Part(index, number)


def test_parts_at_the_same_time_merge_into_what_one_run_writes(go, target, template, whole):
    with ThreadPoolExecutor(PARTS) as threads:
        done = list(threads.map(go, reversed(range(PARTS))))
    assert sum(row[0] for row in done) == 6
    assert sum(row[2] for row in done) == 2
    assert not (target.folder / "cases.jsonl").exists()
    assert not (target.folder / "dataset.json").exists()
    summary = merge(target, template)
    assert (summary.done, summary.skipped, summary.failed) == (0, 6, 2)
    assert summary.present == {"T1": 6, "FLAIR": 6, "T1CE": 6}
    assert contents(target.folder) == whole()
    merge(target, template)
    assert contents(target.folder) == whole()
    assert go() == (0, 6, 2)
    assert contents(target.folder) == whole()


def test_merge_names_the_parts_that_have_not_ended(go, target, template, monkeypatch):
    with pytest.raises(ConfigError, match="holds no parts: convert with -num_parts first"):
        merge(target, template)
    go(0)
    with pytest.raises(ConfigError, match=r"part 1, 2 of 3 has not ended: run it \(-num_parts 3"):
        merge(target, template)
    go(1)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            go(2)
    before = contents(target.folder)
    with pytest.raises(ConfigError, match="part 2 of 3 has not ended"):
        merge(target, template)
    assert contents(target.folder) == before
    go(2)
    merge(target, template)


def test_a_part_goes_on_from_what_was_merged(go, raw, target, template, whole):
    go()
    name = next(name for name in CASES if Part(1, PARTS).has(name) and name not in FAILING)
    (raw / name / "T1CE.nii.gz").unlink()
    save(raw / name / "T1.nii.gz", voxels(9))
    gone = next(name for name in CASES if Part(0, PARTS).has(name) and name not in FAILING)
    (raw / gone / "FLAIR.nii.gz").unlink()
    mine = [name for name in CASES if Part(1, PARTS).has(name) and name not in FAILING]
    assert go(1)[0] == 1
    assert go(1)[1] == len(mine)
    done, _, failed = go(0)
    assert (done, failed) == (0, 1 + sum(Part(0, PARTS).has(name) for name in FAILING))
    go(2)
    merge(target, template)
    assert contents(target.folder) == whole()
    assert gone not in {entry["case"] for entry in ledger(target.folder)}


def test_one_run_takes_in_parts_that_have_not_ended(go, target, whole):
    go(0)
    go(1)
    done, skipped, failed = go()
    assert (done + skipped, failed) == (6, 2)
    assert skipped > 0
    assert contents(target.folder) == whole()


def test_a_part_that_has_no_case_is_no_error(go, target, template, whole):
    for index in range(40):
        go(index, 40)
    merge(target, template)
    assert contents(target.folder) == whole()


def test_parts_of_different_runs_do_not_mix(go, target, template, tmp_path):
    go(0)
    before = contents(target.folder)
    other = load_template(str(write_template(tmp_path, required=["T1"])))
    for what in ({"number": 4}, {"template": other}, {"number": 4, "index": 1}):
        with pytest.raises(ConfigError, match=r"holds parts of another run \(0_of_3\): merge"):
            go(**{"index": 0, **what})
        assert {name: b for name, b in contents(target.folder).items() if b} == {
            name: b for name, b in before.items() if b
        }
    for index in (1, 2):
        go(index)
    with pytest.raises(ConfigError, match="parts of another template than Tiny"):
        merge(target, other)
    merge(target, template)
    assert len(ledger(target.folder)) == 6


@pytest.mark.parametrize("begun", [False, True])
def test_parts_of_different_runs_that_begin_at_once_see_each_other(go, target, monkeypatch, begun):
    if begun:
        go(0)
    real = parts._write

    def write(part, folder, about):
        real(part, folder, about)
        real(Part(1, 5), folder, {**about, "number": 5})

    monkeypatch.setattr(parts, "_write", write)
    with pytest.raises(ConfigError, match=r"parts of another run \(1_of_5\)"):
        go(0)
    assert (target.folder / ".amae_parts" / "0_of_3" / "part.json").exists() == begun


def test_a_part_and_a_merge_do_not_run_at_once(go, target, template):
    go(0)
    go(1)
    go(2)
    holder = output.locked(target.folder / ".amae_lock", shared=True)
    with holder:
        go(2)  # parts share the folder
        with pytest.raises(ConfigError, match="another run writes into"):
            merge(target, template)
    said = "another run writes into .*1_of_3"
    own = target.folder / ".amae_parts" / "1_of_3" / ".amae_lock"
    with output.locked(own), pytest.raises(ConfigError, match=said):
        go(1)


def test_names_that_differ_in_capitals_only_are_seen_by_their_part(go, raw, target, template):
    shutil.copytree(raw / "case1", raw / "CASE1")
    for index in range(PARTS):
        go(index)
    assert merge(target, template).failed == 3
    names = [name for name in tree(target.folder / "imagesTr") if name.lower().startswith("case1_")]
    assert len(names) == 3


class Killed(BaseException):
    """The end of a process, at which nothing more is tidied up."""


def test_a_kill_at_any_step_of_merge_changes_nothing(go, target, template, whole, tmp_path):
    for index in range(PARTS):
        go(index)
    expected, copy = whole(), tmp_path / "copy"
    shutil.copytree(target.folder, copy)
    killed = 0
    for last in range(100):
        shutil.rmtree(target.folder)
        shutil.copytree(copy, target.folder)
        with pytest.MonkeyPatch.context() as patch:
            left = iter(range(last))

            def counted(real, left=left):
                def step(*args, **kwargs):
                    if next(left, None) is None:
                        raise Killed
                    return real(*args, **kwargs)

                return step

            for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                merge(target, template)
            except Killed:
                killed += 1
            else:
                break
        dataset.merge(target, template)
        assert contents(target.folder) == expected, last
    assert killed > 10
    assert contents(target.folder) == expected


def test_a_killed_part_is_tidied_up_by_its_next_run(go, target, template, whole, monkeypatch):
    real, published = os.replace, []

    def replace(source, goal):
        if str(goal).endswith("_0001.nii.gz"):
            published.append(goal)
            raise Killed
        real(source, goal)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(output.Output, "finish", lambda *_: None)
    with pytest.raises(Killed):
        go(1)
    monkeypatch.undo()
    path = target.folder / ".amae_parts" / "1_of_3" / "cases.jsonl"
    path.write_text(path.read_text() + '{"case": "half')
    assert len(published) == 1
    for index in range(PARTS):
        go(index)
    merge(target, template)
    assert json.loads((target.folder / "dataset.json").read_text())["numTraining"] == 6
    assert contents(target.folder) == whole()
