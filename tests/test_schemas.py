"""The schemas are sound, the page names them all, and they refuse what is wrong."""

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from schemas import NAMES, check, faults, schema

PAGE = Path(__file__).parents[1] / "docs" / "files.md"
RECORD = {
    "schema": 1,
    "contrasts": ["ADC", "T2"],
    "required": ["ADC|T2"],
    "cases": {"a": {"present": "10", "split": "train", "subject": "s"}},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_a_schema_of_draft_2020_12(name):
    assert schema(name)["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema(name))


def test_the_page_links_every_schema_and_no_other():
    linked = re.findall(r"\(schemas/([\w-]+)\.schema\.json\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(set(linked)) == NAMES


def test_a_record_is_right_and_its_faults_are_found():
    check("contrasts", RECORD)
    case = RECORD["cases"]["a"]
    wrong = [
        {**RECORD, "schema": 2},
        {**RECORD, "contrasts": []},
        {**RECORD, "contrasts": ["ADC", "ADC"]},
        {**RECORD, "extra": 1},
        {**RECORD, "cases": {"../a": case}},
        {**RECORD, "cases": {"a": {**case, "present": "00"}}},
        {**RECORD, "cases": {"a": {**case, "present": [True, False]}}},
        {**RECORD, "cases": {"a": {**case, "split": "validation"}}},
    ]
    assert [len(faults("contrasts", content)) for content in wrong] == [1] * len(wrong)
