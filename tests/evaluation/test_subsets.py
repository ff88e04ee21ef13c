import itertools

import pytest

from amae_nnunet.errors import ConfigError
from amae_nnunet.evaluation.subsets import Condition, Wanted, parse_wanted, powerset

CONTRASTS = ("ADC", "TRACE", "T2", "SWI", "GRE")


def wanted(drop=(), subsets=(), required=("ADC", "TRACE", "SWI|GRE")):
    return parse_wanted(drop, subsets, CONTRASTS, required)


def test_each_subset_is_there_once_largest_first_in_channel_order():
    found = powerset(("ADC", "T2", "GRE"))
    assert len(found) == len(set(found)) == 7
    assert found[0] == ("ADC", "T2", "GRE")
    assert {len(a) - len(b) for a, b in itertools.pairwise(found)} == {0, 1}
    assert all(list(names) == [n for n in CONTRASTS if n in names] for names in found)


@pytest.mark.parametrize(
    ("had", "expected"),
    [
        (CONTRASTS, {CONTRASTS, ("ADC", "TRACE", "SWI", "GRE")}),
        (("ADC", "TRACE", "T2", "GRE"), {("ADC", "TRACE", "T2", "GRE"), ("ADC", "TRACE", "GRE")}),
        (("T2",), {("T2",)}),  # a case that lacks what is required is what it is
    ],
)
def test_required_contrasts_are_never_withheld_where_they_are_to_stay(had, expected):
    assert set(wanted(subsets=["required"]).of_case(had)) == expected


def test_a_case_is_predicted_once_from_each_subset_that_it_can_tell():
    found = wanted(["T2", "ADC+T2"], ["T2+ADC", "SWI", "all"]).of_case(("ADC", "T2"))
    assert found == [("ADC", "T2"), ("ADC",), ("T2",)]
    # without all: nothing is left of T2 alone, and it has no SWI
    assert wanted(["T2"], ["SWI"]).of_case(("T2",)) == [("T2",)]


def test_what_withholds_nothing_and_says_so():
    assert not wanted().withholds
    assert wanted().of_case(("T2",)) == [("T2",)]
    for words in ({"drop": ["T2"]}, {"subsets": ["all"]}, {"subsets": ["T2"]}):
        assert wanted(**words).withholds
    assert wanted(subsets=["all"]).fixed == frozenset()


def test_conditions_have_names_and_leave_the_others():
    assert Condition().name == "as each case is"
    condition = wanted(["T2+ADC", "T2"]).conditions[1]
    assert condition == Condition(("ADC", "T2"))
    assert condition.name == "without ADC, T2"
    assert condition.given(("ADC", "TRACE")) == ("TRACE",)
    assert isinstance(wanted(["T2", "T2"]), Wanted)
    assert len(wanted(["T2", "T2"]).conditions) == 2


@pytest.mark.parametrize(
    ("drop", "subsets", "message"),
    [
        (["T9"], [], "'T9' names no contrasts of the images: they have ADC, TRACE"),
        ([], ["+"], r"'\+' names no contrasts"),
        ([], ["all", "required"], "give all or required, not both"),
    ],
)
def test_wrong_words_are_told(drop, subsets, message):
    with pytest.raises(ConfigError, match=message):
        wanted(drop, subsets)
