"""From a DICOM tree to cases, by the rules and by a sheet."""

import json
import zipfile
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
BY_HAND = "chosen by hand in the series sheet"
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
    found = scan_dicom(root)
    rows, cases = select(found.stacks, selection, found.skipped)
    return selection, {stack.key: stack for stack in found.stacks}, rows, cases


def by_sheet(edited, stacks, selection, rows):
    """The cases of an edited sheet; ``rows``: as it was written."""
    before = {row.key: row.contrast for row in rows if row.chosen}
    return select_by_sheet(edited, stacks, selection, before)


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


def unknown(folder, number, *, slices=SHAPE[2], **header):
    """A series that no rule names."""
    words = {"patient": "P1", "study": "S1", "FrameOfReferenceUID": uid("F"), **TIMES}
    write_series(
        folder, voxels(number)[:, :, :slices], number=number, names=f"u{number}_{{}}", **words,
        description="scan", **header,
    )  # fmt: skip


def test_the_patient_of_a_study_is_known_if_any_series_names_him(tmp_path):
    write_study(tmp_path / "a", patient="", without=("TRACE", "T1"))  # the first series
    write_study(tmp_path / "b", without=("ADC",))
    write_study(tmp_path / "c", study="S2")
    _, _, rows, cases = go(tmp_path)
    assert len(cases) == 2
    assert {raw.subject for raw in cases} == {row.subject for row in rows} == {IDS.subject("P1")}


def test_a_missing_contrast_says_what_the_series_are_instead(tmp_path):
    for number, slices in ((1, 4), (2, 5), (3, SHAPE[2])):
        unknown(tmp_path, number, slices=slices)
    write_study(tmp_path, without=["ADC", "TRACE"])
    unknown(tmp_path, 5)
    (tmp_path / "u5_12").unlink()
    selection, stacks, rows, (raw,) = go(tmp_path, sheet="z.tsv")
    assert raw.problem == (
        "no ADC and no TRACE (required) was recognised (its series: fewer than 8 slices; no rule "
        "says what it is; slices are missing inside a stack (E_MISSING_SLICES)): if a series is "
        "one, say so in z.tsv"
    )
    (again,) = by_sheet(rows, stacks, selection, rows)
    assert again.problem == raw.problem


def test_few_of_many_reasons_are_said(tmp_path):
    unknown(tmp_path, 1, slices=4)
    unknown(tmp_path, 2)
    unknown(tmp_path, 3)
    (tmp_path / "u3_12").unlink()
    unknown(tmp_path, 4, image_type=["DERIVED", "SECONDARY", "REFORMATTED"])
    *_, (raw,) = go(tmp_path)
    assert "; and 1 more): if a series is one" in raw.problem


def test_series_that_no_sheet_can_choose_are_to_be_exported_anew(tmp_path):
    unknown(tmp_path, 1)
    (tmp_path / "u1_12").unlink()
    *_, (raw,) = go(tmp_path, sheet="z.tsv")
    assert raw.problem.endswith(
        "was recognised (its series: slices are missing inside a stack (E_MISSING_SLICES)): export "
        "them anew, or leave the case out of z.tsv"
    )


def test_a_sheet_that_leaves_a_contrast_out_says_so_and_quotes_no_cell(tmp_path):
    write_study(tmp_path)
    selection, stacks, rows, _ = go(tmp_path)
    edited = [
        replace(row, chosen=False, why_not="Mr Smith") if row.contrast == "ADC" else row
        for row in rows
    ]
    (raw,) = by_sheet(edited, stacks, selection, rows)
    assert raw.problem.startswith(
        "no ADC (required) was recognised (its series: not chosen): if a series is one, say so"
    )


def test_cases_come_in_the_order_of_the_sheet(tmp_path):
    for number in range(6):
        write_study(tmp_path / str(number), study=f"S{number}")
    lost(tmp_path / "x")
    selection, stacks, rows, cases = go(tmp_path)
    names = [raw.case for raw in cases]
    assert names == sorted(names)
    assert [raw.case for raw in by_sheet(rows, stacks, selection, rows)] == names


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
    again = by_sheet(rows, stacks, selection, rows)
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
    (raw,) = by_sheet(edited, stacks, replace(selection, template=no_required()), rows)
    assert (raw.case, list(raw.contrasts)) == ("mine", ["ADC", "T1"])
    assert raw.contrasts["T1"].facts["evidence"] == BY_HAND
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


def test_another_series_of_the_same_contrast_is_a_choice_by_hand(tmp_path):
    write_study(tmp_path)
    write_series(tmp_path, voxels(5), number=1, series="old", image_type=ADC, names="old{}",
        study="S1", FrameOfReferenceUID=uid("F"), AcquisitionTime="090000")  # fmt: skip
    selection, stacks, rows, (raw,) = go(tmp_path)
    assert np.array_equal(raw.contrasts["ADC"].read()[0], voxels(1))
    edited = [replace(r, chosen=not r.chosen) if r.contrast == "ADC" else r for r in rows]
    (raw,) = by_sheet(edited, stacks, selection, rows)
    assert np.array_equal(raw.contrasts["ADC"].read()[0], voxels(5))
    assert raw.contrasts["ADC"].facts["evidence"] == BY_HAND
    assert raw.contrasts["TRACE"].facts["evidence"] == "type.tracew"


def test_the_sheet_says_what_is_wrong_with_a_stack(tmp_path):
    write_study(tmp_path)
    (tmp_path / "t112").unlink()
    *_, rows, _ = go(tmp_path)
    (row,) = [row for row in rows if row.verdict == "rejected"]
    assert row.why_not.startswith("E_MISSING_SLICES: slices 11 and 12 of 23 are 6.00 mm apart")


# --- what cannot be read


def lost(folder, count=3, content=b""):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:04d}.dcm").write_bytes(content)


def test_files_beside_those_of_a_study_are_its_doubt(tmp_path):
    write_study(tmp_path / "a")
    lost(tmp_path / "a")
    selection, stacks, rows, (raw,) = go(tmp_path)
    said = "3 files of a folder cannot be read: it is empty"
    assert (raw.code, raw.warnings) == ("", (f"W_UNREADABLE: {said}",))
    (row,) = [row for row in rows if not row.key]
    assert (row.verdict, row.evidence, row.why_not) == ("unreadable", "E_DAMAGED", said)
    assert (row.case, row.folder, row.chosen) == (raw.case, "a", False)
    assert by_sheet(rows, stacks, selection, rows) == [raw]
    *_, (raw,) = go(tmp_path, strict=True)
    assert raw.code == "E_DAMAGED"
    assert raw.problem.startswith(said)


@pytest.mark.parametrize("folder", ["b", "a/deep", "b/c"])
def test_files_that_belong_to_nobody_are_a_case_that_failed(tmp_path, folder):
    write_study(tmp_path / "raw" / "a")
    lost(tmp_path / "raw" / folder)
    lost(tmp_path / "raw" / folder / "..", 1, b"text")
    (tmp_path / "raw" / folder / "readme.txt").write_text("never an image")
    selection, stacks, rows, cases = go(tmp_path / "raw")
    failed = [raw for raw in cases if raw.code]
    assert {raw.code for raw in failed} == {"E_DAMAGED"}
    assert any("3 files of a folder cannot be read: it is empty" in raw.problem for raw in failed)
    assert {row.folder for row in rows if row.case == failed[-1].case} <= {folder, ".", "a", "b"}
    assert all(folder not in raw.problem for raw in failed if len(folder) > 1)
    assert len([raw for raw in cases if raw.contrasts]) == 1
    again = by_sheet(rows, stacks, selection, rows)
    assert again == sorted(cases, key=lambda raw: raw.case)
    kept = [row for row in rows if row.key]  # who has looked takes the rows out
    assert not [raw for raw in by_sheet(kept, stacks, selection, rows) if raw.code]


def test_a_folder_of_two_studies_owns_nothing(tmp_path):
    write_study(tmp_path, without=["ADC", "T1"])
    write_study(tmp_path, study="S2", without=["TRACE", "T1"])
    lost(tmp_path, 1)
    *_, cases = go(tmp_path)
    assert sorted(raw.code for raw in cases) == ["E_DAMAGED", "E_REQUIRED", "E_REQUIRED"]


def test_nothing_but_damage(tmp_path):
    lost(tmp_path / "a")
    lost(tmp_path / "b", 2, b"no image")
    *_, cases = go(tmp_path)
    assert {raw.case: raw.problem.split(": copy")[0] for raw in cases} == {
        IDS.case("folder a"): "3 files of a folder cannot be read: it is empty",
        IDS.case("folder b"): "2 files of a folder cannot be read: it does not start like DICOM",
    }
    named = "(their folder is named in series.tsv, the table of series that --dry_run writes)"
    assert all(raw.problem.endswith(named) for raw in cases)


def test_several_reasons_are_counted(tmp_path):
    lost(tmp_path / "a", 3)
    (tmp_path / "a" / "0000.dcm").write_bytes(b"text")
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.writestr("x.dcm", b"text")
    *_, rows, cases = go(tmp_path)
    assert [row.why_not for row in rows] == [
        "3 files of a folder cannot be read: it is empty (2), it does not start like DICOM (1)",
        "1 file of a folder cannot be read: it does not start like DICOM",
    ]
    assert [row.folder for row in rows] == ["a", "b"]
    assert len(cases) == 2


def test_a_strict_user_has_decided_in_the_sheet(tmp_path):
    write_study(tmp_path)
    (tmp_path / "t112").unlink()
    lost(tmp_path, 1)
    selection, stacks, rows, (raw,) = go(tmp_path, strict=True)
    assert raw.code == "E_MISSING_SLICES"
    (raw,) = by_sheet(rows, stacks, selection, rows)
    assert raw.code == ""
    assert [text.split(":")[0] for text in raw.warnings] == ["W_DROPPED", "W_UNREADABLE"]


def test_a_series_that_may_be_a_contrast_is_a_doubt(tmp_path):
    write_study(tmp_path, without=["T1"])
    write_series(
        tmp_path, voxels(3), number=3, description="t1_se_tra", echo_time=60.0,
        names="t1{}", FrameOfReferenceUID=uid("F"), **TIMES,
    )  # fmt: skip
    *_, (raw,) = go(tmp_path)
    (doubt,) = raw.warnings
    assert doubt.startswith("W_AMBIGUOUS: series 3 may be T1 and was not taken: ")
    assert go(tmp_path, strict=True)[-1][0].code == "E_AMBIGUOUS"
