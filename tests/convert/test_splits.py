import json

import pytest

from amae_nnunet.convert.splits import needs_subject_folds, subject_folds, write_folds
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


def test_both_places_are_written_and_follow_new_cases(places):
    for subjects in (SUBJECTS, SUBJECTS | {"new": "patient0"}):
        assert write_folds(subjects, places[0].parent, None) == []
        for path in places:
            assert json.loads(path.read_text()) == subject_folds(subjects)


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
