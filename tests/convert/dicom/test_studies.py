"""From a DICOM tree to cases, by the rules and by a sheet."""

import json
from dataclasses import replace

import numpy as np
import pytest
from convert.dicom.scanner import ADC, AFFINE, TRACE, uid, write_series
from convert.studies import save

from amae_nnunet.convert.dicom.rules import load_rules
from amae_nnunet.convert.dicom.scan import scan_dicom
from amae_nnunet.convert.dicom.studies import Selection, select, select_by_sheet
from amae_nnunet.convert.identity import Identities
from amae_nnunet.convert.template import make_template

SHAPE = (40, 36, 24)  # 72 mm along the slices
TEMPLATE = make_template(
    {
        "name": "Tiny",
        "contrasts": {"ADC": ["ADC*"], "TRACE": ["TRACE*"], "T1": ["T1*"]},
        "required": ["ADC", "TRACE"],
        "label": {"patterns": ["seg*"], "labels": {"background": 0, "infarct": 1}},
    }
)
STUDY = uid("study", "S1")
IDS = Identities(b"k" * 32)
TIMES = {"AcquisitionTime": "101500"}


def voxels(seed):
    return np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.int16)


def write_study(folder, *, patient="P1", study="S1", without=(), frame="F"):
    words = {"patient": patient, "study": study, "FrameOfReferenceUID": uid(frame), **TIMES}
    if "ADC" not in without:
        write_series(folder, voxels(1), number=1, image_type=ADC, names="adc{}", **words)
    if "TRACE" not in without:
        write_series(
            folder, voxels(2), number=2, image_type=TRACE, b=1000, directionality="isotropic",
            names="trace{}", **words,
        )  # fmt: skip
    if "T1" not in without:
        write_series(
            folder, voxels(3), number=3, description="t1_se_tra", echo_time=9.0,
            RepetitionTime=500.0, ScanningSequence="SE", names="t1{}", **words,
        )  # fmt: skip


def go(root, **changes):
    selection = replace(Selection(TEMPLATE, load_rules(), IDS), **changes)
    stacks = scan_dicom(root).stacks
    rows, cases = select(stacks, selection)
    return selection, {stack.key: stack for stack in stacks}, rows, cases


def test_a_study_is_a_case_and_a_patient_a_subject(tmp_path):
    write_study(tmp_path / "a", study="S1")
    write_study(tmp_path / "b", study="S2")
    write_study(tmp_path / "c", study="S3", patient="P2")
    write_study(tmp_path / "d", study="S4", patient="")
    write_study(tmp_path / "e", study="S5", patient="")
    *_, cases = go(tmp_path)
    assert {raw.case for raw in cases} == {
        IDS.case(uid("study", f"S{number}")) for number in range(1, 6)
    }
    by_case = {raw.case: raw.subject for raw in cases}
    subjects = [by_case[IDS.case(uid("study", f"S{number}"))] for number in range(1, 6)]
    assert subjects[:3] == [IDS.subject("P1"), IDS.subject("P1"), IDS.subject("P2")]
    assert len(set(subjects)) == 4  # who has no PatientID is nobody else
    assert all(raw.source == raw.case and not raw.code for raw in cases)


def test_channels_are_in_order_and_read_what_was_written(tmp_path):
    write_study(tmp_path)
    *_, (raw,) = go(tmp_path)
    assert list(raw.contrasts) == ["ADC", "TRACE", "T1"]
    for seed, source in enumerate(raw.contrasts.values(), 1):
        data, affine = source.read()
        assert np.array_equal(data, voxels(seed))
        assert np.allclose(affine, AFFINE, atol=1e-4)


def test_a_missing_required_contrast_is_named(tmp_path):
    write_study(tmp_path, without=["ADC"])
    *_, (raw,) = go(tmp_path)
    assert raw.code == "E_REQUIRED"
    assert raw.problem.startswith("no ADC (required) was recognised")


@pytest.mark.parametrize(("name", "required"), [("adc", True), ("t1", False)])
def test_a_broken_stack_says_what_it_would_have_been(tmp_path, name, required):
    write_study(tmp_path)
    (tmp_path / f"{name}12").unlink()
    *_, (raw,) = go(tmp_path)
    if required:
        assert raw.code == "E_MISSING_SLICES"
        assert raw.problem.startswith("ADC: series 1: slices 11 and 12 of 23 are 6.00 mm apart")
    else:
        assert raw.code == ""
        assert list(raw.contrasts) == ["ADC", "TRACE"]
        (doubt,) = raw.warnings
        assert doubt.startswith("W_DROPPED: T1 is dropped (E_MISSING_SLICES): series 3")


def test_a_tie_is_a_doubt_and_a_problem_for_who_is_strict(tmp_path):
    write_study(tmp_path)
    write_series(
        tmp_path, voxels(4), number=4, description="t1_se_tra", echo_time=9.0,
        RepetitionTime=500.0, ScanningSequence="SE", names="again{}",
        FrameOfReferenceUID=uid("F"), **TIMES,
    )  # fmt: skip
    *_, (raw,) = go(tmp_path)
    assert raw.code == ""
    assert [text.split(":")[0] for text in raw.contrasts["T1"].warnings] == ["W_AMBIGUOUS"]
    *_, (raw,) = go(tmp_path, strict=True)
    assert raw.code == "E_AMBIGUOUS"
    assert "series 4" in raw.problem


def test_another_frame_of_reference_is_a_doubt(tmp_path):
    write_study(tmp_path, without=["T1"])
    write_study(tmp_path, without=["ADC", "TRACE"], frame="G")
    *_, (raw,) = go(tmp_path)
    assert raw.warnings == ("W_FRAME: T1 was not acquired in the position of the others",)


def test_a_label_is_found_by_case_or_by_study(tmp_path):
    write_study(tmp_path / "raw")
    labels = tmp_path / "labels"
    assert go(tmp_path / "raw", labels=labels)[3][0].label is None
    path = save(labels / f"{STUDY}.nii.gz", np.ones(SHAPE, np.uint8))
    label = go(tmp_path / "raw", labels=labels)[3][0].label
    assert (label.path, label.name) == (path, "label")
    save(labels / f"{IDS.case(STUDY)}.nii", np.ones(SHAPE, np.uint8))
    assert go(tmp_path / "raw", labels=labels)[3][0].code == "E_AMBIGUOUS"


def test_the_sheet_unedited_gives_the_same_cases(tmp_path):
    write_study(tmp_path / "a")
    write_study(tmp_path / "b", study="S2", without=["T1"])
    selection, stacks, rows, cases = go(tmp_path)
    again = select_by_sheet(rows, stacks, selection)
    assert again == sorted(cases, key=lambda raw: raw.case)


def test_what_the_user_writes_into_the_sheet_wins(tmp_path):
    write_study(tmp_path)
    selection, stacks, rows, _ = go(tmp_path)
    edited = [
        replace(row, case="mine", chosen=row.contrast != "T1")
        if row.contrast != "TRACE"
        else replace(row, case="mine", contrast="T1")
        for row in rows
    ]
    (raw,) = select_by_sheet(edited, stacks, replace(selection, template=no_required()))
    assert (raw.case, list(raw.contrasts)) == ("mine", ["ADC", "T1"])
    assert raw.contrasts["T1"].facts["evidence"] == "sheet"
    assert raw.contrasts["ADC"].facts["evidence"] == "type.adc"
    assert np.array_equal(raw.contrasts["T1"].read()[0], voxels(2))


def no_required():
    return replace(TEMPLATE, required=())


def test_facts_of_a_case_hold_no_text_of_a_header(tmp_path):
    write_study(tmp_path)
    *_, (raw,) = go(tmp_path)
    said = json.dumps([dict(source.facts) for source in raw.contrasts.values()])
    assert "t1_se" not in said
    assert "1015" not in said
