import json

from amae_nnunet.plans.seen import SeenCases

CASES = ["Dataset501_A/case_1", "Dataset501_A/case_2", "Dataset500_B/case_1"]


def test_who_has_the_name_can_ask_for_it():
    seen = SeenCases.from_json(json.loads(json.dumps(SeenCases.of(CASES).to_json())))
    assert all(case in seen for case in CASES)
    for other in ("Dataset500_B/case_2", "case_1", "Dataset501_A/case_1 ", ""):
        assert other not in seen
    assert "x" not in SeenCases.from_json({})


def test_no_name_is_in_it_and_hashes_of_two_runs_cannot_be_compared():
    one, other = SeenCases.of(CASES), SeenCases.of(CASES[:2])
    assert one == SeenCases.of(reversed(CASES))
    assert "case" not in json.dumps(one.to_json())
    assert "Dataset" not in json.dumps(one.to_json())
    assert not one.hashes & other.hashes


def test_cases_are_added_under_the_same_salt():
    seen = SeenCases.of(CASES[:2])
    more = seen.with_cases(CASES[2:])
    assert more.salt == seen.salt
    assert all(case in more for case in CASES)
    assert len(more.hashes) == 3
    assert "Dataset500_B/other" not in more
    assert SeenCases.from_json({}).with_cases(CASES) == SeenCases.of(CASES)
