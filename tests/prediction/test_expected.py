import json

import pytest

from amae_nnunet.prediction.expected import Expected
from amae_nnunet.subsets import Score, SubsetScore, SubsetScores
from amae_nnunet.whole import write_json

CONTRASTS = ("ADC", "TRACE", "GRE", "SWI")
REQUIRED = ("ADC", "GRE|SWI")


def scores(held_out=True, checkpoint="checkpoint_final.pth"):
    score = SubsetScore(("ADC", "TRACE", "SWI"), 4, {"infarct": Score(3, 0.61)})
    return SubsetScores.of(CONTRASTS, held_out, [score], checkpoint)


def expected(present, found=None):
    flags = [flag == "1" for flag in present]
    return Expected.of("case_1", flags, CONTRASTS, REQUIRED, found, "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("present", "found", "line"),
    [
        ("1101", scores(), "ADC, TRACE, SWI (without GRE): in validation Dice 0.610 (4 cases)"),
        ("1111", scores(), "ADC, TRACE, GRE, SWI: never validated; nearest subset "
                           "ADC, TRACE, SWI: Dice 0.610 (4 cases)"),
        ("1111", None, "ADC, TRACE, GRE, SWI: no validation is recorded"),
        ("1111", SubsetScores.of(CONTRASTS, True, []),
         "ADC, TRACE, GRE, SWI: no validation is recorded"),
    ],
)  # fmt: skip
def test_the_line_says_the_contrasts_and_what_they_scored(present, found, line):
    assert str(expected(present, found)) == f"case_1: {line}"


def test_a_required_contrast_that_is_absent_is_warned_of():
    assert expected("1010").required_absent == ()
    assert expected("1010").warnings == []
    assert expected("0100").required_absent == ("ADC", "GRE|SWI")
    assert expected("0100").warnings == ["the required contrast ADC is absent",
                                         "the required contrast GRE or SWI is absent"]  # fmt: skip


def test_scores_of_training_cases_are_said_to_be_such():
    assert "trained on (fold all)" in expected("1101", scores(held_out=False)).warnings[0]


def test_the_file_has_plain_types_and_all_of_it(tmp_path):
    write_json(tmp_path / "case_1.json", expected("1100", scores()).to_json({"folds": ["0"]}, "f0"))
    assert [path.name for path in tmp_path.iterdir()] == ["case_1.json"]
    assert json.loads((tmp_path / "case_1.json").read_text()) == {
        "schema": 1,
        "case": "case_1",
        "present": ["ADC", "TRACE"],
        "absent": ["GRE", "SWI"],
        "required_absent": ["GRE|SWI"],
        "validation": {
            "present": ["ADC", "TRACE", "SWI"],
            "n": 4,
            "dice": 0.61,
            "labels": {"infarct": {"n": 3, "dice": 0.61}},
            "exact": False,
            "held_out": True,
        },
        "warnings": ["the required contrast GRE or SWI is absent"],
        "key": "f0",
        "model": {"folds": ["0"]},
    }
    assert expected("1100").to_json({}, "")["validation"] is None


def test_a_validation_of_another_checkpoint_is_warned_of():
    assert expected("1101", scores()).warnings == []
    assert expected("1101", scores(checkpoint=None)).warnings == []
    (warning,) = expected("1101", scores(checkpoint="checkpoint_best.pth")).warnings
    assert "checkpoint_best.pth" in warning
