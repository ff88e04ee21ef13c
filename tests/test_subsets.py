import json

import pytest

from amae_nnunet.errors import InputError
from amae_nnunet.subsets import Score, SubsetScore, SubsetScores

CONTRASTS = ("ADC", "TRACE", "T2")
#: One case a row: contrasts, and the Dice of two labels, None where a label is nowhere.
CASES = [
    ("ADC TRACE T2", 0.5, 0.9),
    ("ADC TRACE T2", 0.7, None),
    ("ADC TRACE", 0.2, None),
    ("ADC TRACE T2", 0.6, 0.3),
    ("TRACE", None, None),
]


def case(present, *dice):
    scores = [Score(0, None) if d is None else Score(1, d) for d in dice]
    return SubsetScore(tuple(present.split()), 1, dict(zip(("core", "edema"), scores, strict=True)))


@pytest.fixture
def scores():
    return SubsetScores.of(CONTRASTS, True, [case(*row) for row in CASES], "checkpoint_best.pth")


def test_cases_are_grouped_by_what_they_have_and_averaged_as_nnunet_does(scores):
    full, pair, single = scores.subsets
    assert [s.present for s in scores.subsets] == [CONTRASTS, ("ADC", "TRACE"), ("TRACE",)]
    assert [s.n for s in scores.subsets] == [3, 1, 1]
    assert full.labels["core"].dice == pytest.approx((0.5 + 0.7 + 0.6) / 3)
    assert full.labels["edema"] == Score(2, pytest.approx((0.9 + 0.3) / 2))
    assert full.dice == pytest.approx((0.6 + 0.6) / 2)
    assert pair.dice == pytest.approx(0.2)
    assert single.dice is None
    assert str(single) == "without a Dice (1 case)"


def test_the_file_says_all_of_it_in_plain_json_and_names_no_case(scores, tmp_path):
    path = scores.write(tmp_path)
    assert SubsetScores.read(tmp_path) == scores
    assert [p.name for p in tmp_path.iterdir()] == ["subsets.json"]
    content = json.loads(path.read_text())
    assert content["schema"] == 1
    assert content["subsets"][1] == {
        "present": ["ADC", "TRACE"],
        "n": 1,
        "dice": 0.2,
        "labels": {"core": {"n": 1, "dice": 0.2}, "edema": {"n": 0, "dice": None}},
    }
    assert set(content) == {"schema", "contrasts", "held_out", "checkpoint", "subsets"}


def test_folds_together_are_all_their_cases(scores):
    parts = [SubsetScores.of(CONTRASTS, True, [case(*row) for row in rows])
             for rows in (CASES[:2], CASES[2:])]  # fmt: skip
    for found, expected in zip(SubsetScores.of_folds(parts).subsets, scores.subsets, strict=True):
        assert found.present == expected.present
        assert found.n == expected.n
        for label, score in expected.labels.items():
            assert found.labels[label].n == score.n
            assert found.labels[label].dice == pytest.approx(score.dice)
    mixed = SubsetScores.of_folds([scores, SubsetScores.of(CONTRASTS, False, [])])
    assert not mixed.held_out
    assert mixed.checkpoint is None
    assert SubsetScores.of_folds([scores, scores]).checkpoint == "checkpoint_best.pth"
    other = SubsetScores.of(CONTRASTS, True, [case(*CASES[0])], "checkpoint_final.pth")
    both = SubsetScores.of_folds([other, scores]).checkpoint
    assert both == "checkpoint_best.pth and checkpoint_final.pth"


@pytest.mark.parametrize(
    ("present", "nearest"),
    [("ADC TRACE", "ADC TRACE"), ("ADC", "ADC TRACE"), ("T2", "TRACE"), ("TRACE T2", "TRACE"),
     ("ADC T2", "ADC TRACE T2")],
)  # fmt: skip
def test_the_nearest_subset_differs_least_and_flatters_least(scores, present, nearest):
    assert scores.nearest(present.split()).present == tuple(nearest.split())
    assert (scores.find(present.split()) is not None) == (present == nearest)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "cannot be read"), ("[]", "cannot be read"), ('{"schema": 2}', "has schema 2"),
     ('{"schema": 1, "contrasts": ["A"], "held_out": true, "subsets": [{"n": 1}]}', "cannot be")],
)  # fmt: skip
def test_a_file_that_is_none_is_named_with_the_next_step(tmp_path, text, message):
    with pytest.raises(InputError, match=r"subsets\.json is missing: validate again"):
        SubsetScores.read(tmp_path)
    (tmp_path / "subsets.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        SubsetScores.read(tmp_path)
    assert "--val" in str(caught.value)
