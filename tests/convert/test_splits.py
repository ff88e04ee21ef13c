import json
import random

import pytest

from amae_nnunet.convert.splits import (
    extend_folds,
    needs_subject_folds,
    subject_folds,
    write_folds,
)
from amae_nnunet.errors import ConfigError

SUBJECTS = {f"case{i:02d}": f"patient{i // 3}" for i in range(20)} | {"lone": "lone"}


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_subject_sits_on_both_sides_and_every_case_is_validated_once(folds):
    splits = subject_folds(SUBJECTS, folds)
    assert len(splits) == folds
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(SUBJECTS)
        train = {SUBJECTS[case] for case in split["train"]}
        assert train.isdisjoint({SUBJECTS[case] for case in split["val"]})
    assert sorted(case for split in splits for case in split["val"]) == sorted(SUBJECTS)
    sizes = [len(split["val"]) for split in splits]
    assert max(sizes) - min(sizes) <= 3  # the largest subject


def test_the_order_of_cases_plays_no_part():
    backwards = dict(reversed(SUBJECTS.items()))
    assert subject_folds(backwards) == subject_folds(SUBJECTS)


def test_too_few_subjects_are_refused():
    with pytest.raises(ConfigError, match="5 folds of 1 subjects"):
        subject_folds({"a": "x", "b": "x"})


def test_only_several_cases_of_a_subject_need_them():
    assert needs_subject_folds({"a": "x", "b": "x"})
    assert not needs_subject_folds({"a": "a", "b": "b"})


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The two files: beside the raw data, and where nnU-Net looks."""
    raw, preprocessed = tmp_path / "raw" / "Dataset007_X", tmp_path / "preprocessed"
    raw.mkdir(parents=True)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    return raw / "splits_final.json", preprocessed / raw.name / "splits_final.json"


def validated(folds):
    """Case -> the fold that it is validated in."""
    return {case: number for number, fold in enumerate(folds) for case in fold["val"]}


def test_both_places_are_written_and_follow_new_cases(places):
    first = validated(subject_folds(SUBJECTS))
    more = {f"new{n}": "patient0" for n in range(9)}
    for subjects in (SUBJECTS, SUBJECTS | more, SUBJECTS | {"other": "other"}):
        assert write_folds(subjects, places[0].parent, None) == []
        found = [json.loads(path.read_text()) for path in places]
        assert found[0] == found[1]
        assert validated(found[0]).keys() == subjects.keys()
        assert {case: validated(found[0])[case] for case in SUBJECTS} == first


@pytest.mark.parametrize("seed", range(20))
def test_new_and_lost_cases_move_no_other_to_another_fold(seed):
    """Else a model would be judged by cases that it was trained on."""
    rng = random.Random(seed)
    subjects = {f"case{n}": f"patient{rng.randrange(15)}" for n in range(30)}
    old = subject_folds(subjects, 4)
    gone = rng.sample(sorted(subjects), 3)
    now = {case: subject for case, subject in subjects.items() if case not in gone}
    now |= {f"new{n}": f"patient{rng.randrange(18)}" for n in range(5)}
    folds, before = extend_folds(old, now), validated(old)
    after = validated(folds)
    assert after.keys() == now.keys()
    assert {case: before[case] for case in now if case in before} == {
        case: number for case, number in after.items() if case in before
    }
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(now)
        patients = [{now[case] for case in fold[part]} for part in ("train", "val")]
        assert patients[0].isdisjoint(patients[1])


def test_new_subjects_go_where_fewest_cases_are():
    old = [{"train": ["c"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c"]}]
    folds = extend_folds(old, {"a": "a", "b": "b", "c": "c", "d": "d", "e": "e"})
    assert sorted(len(fold["val"]) for fold in folds) == [2, 3]
    assert "d" in folds[1]["val"] or "e" in folds[1]["val"]


def test_one_patient_who_was_taken_for_two_comes_into_one_fold():
    old = [{"train": ["c", "d"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c", "d"]}]
    folds = extend_folds(old, {"a": "x", "b": "x", "c": "x", "d": "d"})
    assert folds[0] == {"train": ["d"], "val": ["a", "b", "c"]}


def test_folds_that_would_be_empty_are_dealt_anew():
    old = subject_folds({name: name for name in "abcdef"}, 3)
    left = {case: case for case in old[0]["val"]} | {"x": "x", "y": "y"}
    assert all(fold["val"] for fold in extend_folds(old, left))
    few = {"a": "a", "b": "b"}
    assert extend_folds(old, few) == subject_folds(few, 2)


def test_without_nnunets_folder_only_the_raw_one_is_written(places, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    assert write_folds(SUBJECTS, places[0].parent, 3) == []
    assert json.loads(places[0].read_text()) == subject_folds(SUBJECTS, 3)
    assert not places[1].exists()


def test_a_split_made_by_hand_is_left_alone_and_named(places):
    places[1].parent.mkdir(parents=True)
    places[1].write_text("[]")
    (line,) = write_folds(SUBJECTS, places[0].parent, None)
    assert line.startswith(f"{places[1]} is another split")
    assert places[1].read_text() == "[]"


def test_nothing_is_written_where_nnunets_own_folds_are_right(places):
    assert write_folds({"a": "a", "b": "b"}, places[0].parent, None) == []
    assert not places[0].exists()
    (line,) = write_folds({"a": "x", "b": "x"}, places[0].parent, None)
    assert line == "1 subject, too few for folds: no splits_final.json is written"
    (line,) = write_folds({"a": "a", "b": "b"}, places[0].parent, 3)
    assert line.startswith("2 subjects, too few")
    assert write_folds({}, places[0].parent, 3) == []  # nothing is converted yet


def test_the_number_of_folds_is_kept(places):
    write_folds(SUBJECTS, places[0].parent, 3)
    write_folds(SUBJECTS, places[0].parent, None)
    assert len(json.loads(places[0].read_text())) == 3
    write_folds(SUBJECTS, places[0].parent, 4)
    assert json.loads(places[0].read_text()) == subject_folds(SUBJECTS, 4)
