import json

import pytest

from amae_nnunet.contrasts import (
    PAPER_CONTRASTS,
    ContrastRecord,
    check_contrast_names,
    missing_required,
)
from amae_nnunet.errors import ContrastError, InputError


@pytest.fixture
def record():
    record = ContrastRecord(("ADC", "TRACE", "T2"), ("ADC",))
    record.add("b", (True, False, True), "test", "patient-1")
    record.add("a", (True, True, True), "train", "patient-2")
    return record


def test_the_papers_contrasts_are_in_its_order():
    assert PAPER_CONTRASTS == ("ADC", "TRACE", "T2", "GRE", "SWI", "T1", "FLAIR")


def test_record_survives_a_trip_to_disk(record, tmp_path):
    path = record.write(tmp_path)
    assert ContrastRecord.read(tmp_path) == record
    assert [p.name for p in tmp_path.iterdir()] == ["contrasts.json"]
    content = json.loads(path.read_text())
    assert content["cases"]["b"] == {"present": "101", "split": "test", "subject": "patient-1"}
    assert list(content["cases"]) == ["a", "b"]
    assert record.names_present("b") == ("ADC", "T2")


@pytest.mark.parametrize("names", [(), ("ADC", "ADC"), ("T1 CE",), ("../T1",), ("",)])
def test_bad_contrast_names_are_refused(names):
    with pytest.raises(ContrastError):
        check_contrast_names(names)


@pytest.mark.parametrize(
    ("present", "split", "message"),
    [
        ((True, False), "train", "2 presence flags for 3"),
        ((False, False, False), "train", "no contrast at all"),
        ((True, True, True), "validation", "split 'validation'"),
    ],
)
def test_bad_cases_are_refused_by_name(record, present, split, message):
    with pytest.raises(ContrastError, match=f"case x.*{message}"):
        record.add("x", present, split, "x")


def test_an_unknown_required_contrast_is_refused():
    with pytest.raises(ContrastError, match="PD is not among ADC, T2"):
        ContrastRecord(("ADC", "T2"), ("PD",))


def test_one_of_several_contrasts_can_be_required(tmp_path):
    record = ContrastRecord(("ADC", "SWI", "GRE"), ("ADC", "SWI|GRE"))
    record.write(tmp_path)
    assert ContrastRecord.read(tmp_path).required == ("ADC", "SWI|GRE")
    assert missing_required(record.required, ["ADC", "GRE"]) == []
    assert missing_required(record.required, ["SWI", "GRE"]) == ["ADC"]
    assert missing_required(record.required, []) == ["ADC", "SWI|GRE"]
    with pytest.raises(ContrastError, match="required contrast PD is not among ADC, GRE"):
        ContrastRecord(("ADC", "GRE"), ("GRE|PD",))
    with pytest.raises(ContrastError, match="required contrast  is not among"):
        ContrastRecord(("ADC", "GRE"), ("GRE|",))


def test_voxels_are_checked_channel_by_channel(record):
    record.check_voxels("b", [True, False, True])
    with pytest.raises(ContrastError, match="case b: .*TRACE is absent but its voxels are not"):
        record.check_voxels("b", [True, True, True])
    with pytest.raises(ContrastError, match="case b: .*T2 is present but its voxels are all zero"):
        record.check_voxels("b", [True, False, False])
    with pytest.raises(ContrastError, match="case b has 2 channels"):
        record.check_voxels("b", [True, False])
    with pytest.raises(ContrastError, match="case c is not in contrasts.json"):
        record.check_voxels("c", [True, False, True])


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(schema=2),
        lambda c: c.pop("cases"),
        lambda c: c["cases"]["a"].update(present="1x1"),
        lambda c: c["cases"]["a"].update(present="11"),
        lambda c: c["cases"]["a"].update(present=111),
        lambda c: c.update(contrasts=["ADC", "ADC", "T2"]),
        lambda c: c.update(cases=[1]),
    ],
)
def test_a_damaged_record_is_an_input_error(record, tmp_path, change):
    path = record.write(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        ContrastRecord.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_cut_record_names_the_file(record, tmp_path):
    with pytest.raises(InputError, match=r"contrasts\.json is missing"):
        ContrastRecord.read(tmp_path)
    path = record.write(tmp_path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match=r"contrasts\.json is not a contrast record"):
        ContrastRecord.read(tmp_path)
