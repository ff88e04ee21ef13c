"""Subjects that are tested on and trained on: found whenever they come, and never kept quiet."""

from dataclasses import replace

import pytest
from convert.studies import contents, ledger, make_case, write_template

from amae_nnunet.convert.case import Options
from amae_nnunet.convert.dataset import convert, merge
from amae_nnunet.convert.parts import Part
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.target import Target
from amae_nnunet.convert.template import load_template

#: case -> subject and split; p1 and p2 are on both sides.
CASES = {
    "a": ("p1", "train"),
    "b": ("p2", "train"),
    "c": ("p3", "train"),
    "d": ("p1", "test"),
    "e": ("p2", "test"),
    "f": ("p2", "test"),
    "g": ("p4", "test"),
}
SAID = {
    "d": "its subject p1 is trained on as well (a): take it out of one side",
    "e": "its subject p2 is trained on as well (b): take it out of one side",
    "f": "its subject p2 is trained on as well (b): take it out of one side",
}


@pytest.fixture
def go(tmp_path):
    for case in CASES:
        make_case(tmp_path / "raw", case)
    template = load_template(str(write_template(tmp_path)))
    found = {raw.case: raw for raw in scan(tmp_path / "raw", template)}

    def run(names="abcdefg", folder="one", strict=False, part=None, splits=CASES, without=""):
        cases = [
            replace(found[case], subject=splits[case][0], split=splits[case][1]) for case in names
        ]
        cases = [replace(raw, code="E_LINK") if raw.case in without else raw for raw in cases]
        target = Target(tmp_path / folder, "train", "Dataset001_Tiny")
        options = Options(strict=strict, montages=False)
        convert(cases, template, target, 1, options, timeout=0, part=part)
        return target

    run.template = template
    return run


def warned(target):
    return {line["case"]: line["warnings"] for line in ledger(target.folder) if line["warnings"]}


def failed(target):
    failures = ledger(target.folder, "failures.jsonl")
    return {line["case"]: (line["code"], line["error"]) for line in failures}


def lines(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_the_test_cases_carry_the_warning(go, caplog):
    wanted = {case: [f"W_SUBJECT: {text}"] for case, text in SAID.items()}
    assert warned(go()) == wanted
    said = [f"case {case}: warning: {text}" for case, (text,) in wanted.items()]
    assert lines(caplog) == said
    caplog.clear()
    assert warned(go()) == wanted
    assert lines(caplog) == said  # as any warning of a case that is skipped


@pytest.mark.parametrize("order", ["abc defg", "defg abc", "d a e b f c g"])
def test_runs_one_after_the_other_find_the_same(go, order):
    for names in order.split():
        target = go(names)
    one = go(folder="other/one")
    assert contents(target.folder) == contents(one.folder)
    assert warned(target) == {case: [f"W_SUBJECT: {text}"] for case, text in SAID.items()}


def test_a_warning_goes_with_its_reason(go, caplog):
    target = go("ad")
    assert set(warned(target)) == {"d"}
    go("d", splits={**CASES, "d": ("p9", "test")})
    assert warned(target) == {}


def test_unlabeled_cases_are_trained_on_too(go):
    target = go("ad", splits={**CASES, "a": ("p1", "unlabeled")})
    assert set(warned(target)) == {"d"}


@pytest.mark.parametrize(
    ("order", "lost"),
    [("abcdefg", "def"), ("gfedcba", "ab"), ("abc defg", "def"), ("fed cba", "ab")],
)
def test_a_strict_run_takes_no_second_side(go, order, lost):
    for names in order.split():
        target = go(names, strict=True)
    assert warned(target) == {}
    assert {case: code for case, (code, _) in failed(target).items()} == dict.fromkeys(
        lost, "E_SUBJECT"
    )
    once = contents(target.folder)
    for names in order.split():
        go(names, strict=True)
    assert contents(target.folder) == once
    texts = {"tested": "tested on as well (e, f)", "trained": "trained on as well (b)"}
    side = "trained" if "e" in lost else "tested"
    assert texts[side] in failed(target)["e" if "e" in lost else "b"][1]


def test_a_case_with_a_problem_takes_no_side(go):
    target = go("ade", strict=True, without="a")
    assert set(failed(target)) == {"a"}


@pytest.mark.parametrize("strict", [False, True])
def test_parts_find_them_as_one_run_does(go, tmp_path, strict):
    for index in range(3):
        target = go(folder="parts", strict=strict, part=Part(index, 3))
    merge(target, go.template)
    assert warned(target) == warned(go(folder="whole", strict=strict))
    assert failed(target) == failed(go(folder="whole", strict=strict))
    assert len(warned(target)) + len(failed(target)) == 3
