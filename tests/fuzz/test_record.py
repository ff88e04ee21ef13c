"""Whatever ``contrasts.json``, a ledger or ``subsets.json`` says."""

import json
import os

from fuzz.strategies import FUZZ, JSON, TEXT, answer, changed_file
from hypothesis import given
from hypothesis import strategies as st

from amae_nnunet.contrasts import ContrastRecord, check_contrast_names, check_required
from amae_nnunet.convert.ledger import read_lines
from amae_nnunet.errors import AMAEError
from amae_nnunet.subsets import SubsetScores

RECORD = {
    "schema": 1,
    "contrasts": ["ADC", "TRACE", "T2"],
    "required": ["ADC", "T2|TRACE"],
    "cases": {
        "a": {"present": "110", "split": "train", "subject": "s"},
        "b": {"present": "101", "split": "test", "subject": "t"},
    },
}
SUBSETS = {
    "schema": 1,
    "contrasts": ["ADC", "TRACE", "T2"],
    "held_out": True,
    "checkpoint": "checkpoint_final.pth",
    "subsets": [
        {"present": ["ADC"], "n": 2, "dice": 0.5, "labels": {"infarct": {"n": 2, "dice": 0.5}}},
        {"present": ["ADC", "T2"], "n": 1, "dice": None, "labels": {"x": {"n": 0, "dice": None}}},
    ],
}


@FUZZ
@given(changed_file(RECORD))
def test_records(tmp_path, content):
    (tmp_path / "contrasts.json").write_bytes(content)
    record = answer(ContrastRecord.read, tmp_path)
    if isinstance(record, AMAEError):
        return
    for case, entry in record.cases.items():
        assert len(entry.present) == len(record.contrasts)
        assert set(record.names_present(case)) <= set(record.contrasts)
        assert os.path.basename(case) == case
        assert any(entry.present)
    (tmp_path / "copy").mkdir(exist_ok=True)
    record.write(tmp_path / "copy")
    assert ContrastRecord.read(tmp_path / "copy") == record


@FUZZ
@given(present=TEXT | st.text("01", max_size=5) | JSON)
def test_presence_strings(tmp_path, present):
    case = {"present": present, "split": "train", "subject": "s"}
    (tmp_path / "contrasts.json").write_text(json.dumps({**RECORD, "cases": {"a": case}}))
    record = answer(ContrastRecord.read, tmp_path)
    right = isinstance(present, str) and len(present) == 3 and set(present) <= {*"01"}
    assert isinstance(record, AMAEError) is not (right and "1" in present)
    if right and "1" in present:
        assert record.cases["a"].present == tuple(flag == "1" for flag in present)


@FUZZ
@given(st.lists(TEXT | JSON, max_size=4), st.lists(TEXT, max_size=3))
def test_names_of_contrasts(names, required):
    found = answer(check_contrast_names, names)
    if not isinstance(found, AMAEError):
        assert list(found) == names
        assert all(name.isascii() and os.path.basename(name) == name for name in names)
        answer(check_required, required, found)


@FUZZ
@given(changed_file(SUBSETS))
def test_scores_of_subsets(tmp_path, content):
    (tmp_path / "subsets.json").write_bytes(content)
    scores = answer(SubsetScores.read, tmp_path)
    if isinstance(scores, SubsetScores) and scores.subsets:
        str(scores.nearest(["ADC"]))
        pooled = answer(SubsetScores.of_folds, [scores, scores])
        assert [entry.n for entry in pooled.subsets] == [2 * e.n for e in scores.subsets]


@FUZZ
@given(changed_file([{"case": "a", "key": "1"}]))
def test_ledgers(tmp_path, content):
    (tmp_path / "cases.jsonl").write_bytes(content + b"\n")
    answer(read_lines, tmp_path / "cases.jsonl")
