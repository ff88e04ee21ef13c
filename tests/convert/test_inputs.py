"""Which reader reads what, and the sheet between a dry run and the conversion."""

import json
from dataclasses import replace

import pytest
from convert.dicom.scanner import TRACE, uid, write_series
from convert.studies import lesion, make_case, save, voxels, write_template

from amae_nnunet.convert.identity import Identities
from amae_nnunet.convert.inputs import Request, dry_run, find_cases
from amae_nnunet.errors import ConfigError, InputError


@pytest.fixture
def request_(tmp_path):
    make_case(tmp_path / "raw", "a")
    make_case(tmp_path / "raw", "b", contrasts=("FLAIR",), label=False)
    return Request(
        tmp_path / "raw", template=str(write_template(tmp_path)), key=tmp_path / "id.key"
    )


def names(found):
    return {raw.case: list(raw.contrasts) for raw in found.cases}


def test_a_training_case_needs_a_label_and_others_do_not(request_):
    found = find_cases(request_)
    assert names(found) == {"a": ["T1", "FLAIR", "T1CE"], "b": ["FLAIR"]}
    assert [raw.code for raw in found.cases] == ["", "E_NO_LABEL"]
    for changes in ({"split": "test"}, {"with_label": False}):
        assert [raw.code for raw in find_cases(replace(request_, **changes)).cases] == ["", ""]


def test_unlabeled_is_refused_where_the_input_says_what_each_case_is(request_, tmp_path):
    table = tmp_path / "raw.csv"
    rows = ["case,split,FLAIR", "a,train,raw/a/FLAIR.nii.gz", "b,{},raw/b/FLAIR.nii.gz"]
    asked = replace(request_, root=table, layout="table", split="unlabeled")
    table.write_text("\n".join(rows).format("test"))
    with pytest.raises(ConfigError, match=r"raw.csv itself says .* it is test or train: leave"):
        find_cases(asked)
    table.write_text("\n".join(rows).format(""))
    assert [raw.code for raw in find_cases(asked).cases] == ["E_NO_LABEL", ""]


def test_a_dry_run_leaves_a_sheet_that_gives_the_same_cases(request_, tmp_path):
    sheet = tmp_path / "series.tsv"
    found = dry_run(replace(request_, split="test"), sheet)
    assert found.table.splitlines()[1].split() == ["a", "x", "x", "x", "x"]
    again = find_cases(replace(request_, split="test", sheet=sheet))
    assert names(again) == names(found)
    with pytest.raises(ConfigError, match=r"series.tsv exists: remove it"):
        dry_run(request_, sheet)


def test_where_no_sheet_can_be_written_is_said_before_anything_is_read(request_, tmp_path):
    missing = tmp_path / "gone" / "series.tsv"
    with pytest.raises(ConfigError, match=r"gone/series\.tsv: no file can be made there"):
        dry_run(replace(request_, root=tmp_path / "unread", layout="folders"), missing)


def test_the_sheet_is_obeyed(request_, tmp_path):
    sheet = tmp_path / "series.tsv"
    dry_run(replace(request_, split="test"), sheet)
    lines = sheet.read_text().splitlines()
    sheet.write_text("\n".join(line for line in lines if not line.startswith("b\t")) + "\n")
    assert names(find_cases(replace(request_, sheet=sheet))) == {"a": ["T1", "FLAIR", "T1CE"]}


def test_hashed_names(request_):
    cases = find_cases(replace(request_, hash_ids=True)).cases
    assert cases == find_cases(replace(request_, hash_ids=True)).cases
    assert not {raw.case for raw in cases} & {"a", "b"}


def test_a_template_is_asked_for(request_):
    with pytest.raises(ConfigError, match="which template"):
        find_cases(replace(request_, template=""))


def test_a_dicom_sheet_whose_index_is_gone_is_refused_in_one_line(request_, tmp_path):
    sheet = tmp_path / "series.tsv"
    with pytest.raises(ConfigError, match="series.index.json .*--dry_run"):
        find_cases(replace(request_, layout="dicom", sheet=sheet))


def test_a_tree_without_an_image_is_refused(tmp_path, request_):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme").write_text("no image")
    with pytest.raises(InputError, match="holds no DICOM image"):
        find_cases(replace(request_, root=tmp_path / "texts"))


def test_a_rule_for_a_contrast_of_no_channel_is_said(request_, tmp_path, caplog):
    write_series(tmp_path / "dicom", voxels())
    rule = {"id": "our.dir", "contrast": "DIR", "match": {"text": "x"}}
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"rules": [rule]}))
    find_cases(replace(request_, root=tmp_path / "dicom", rules=rules, layout="dicom"))
    said = "rule our.dir names DIR, which no channel of Tiny takes"
    assert [said in record.getMessage() for record in caplog.records].count(True) == 1


def test_a_tree_of_damage_alone_has_failed_cases(request_, tmp_path):
    (tmp_path / "dicom" / "Doe").mkdir(parents=True)
    (tmp_path / "dicom" / "Doe" / "IM0001").touch()
    found = find_cases(replace(request_, root=tmp_path / "dicom", layout="dicom"))
    assert [raw.code for raw in found.cases] == ["E_DAMAGED"]
    assert "1 file of a folder cannot be read: it is empty" in found.table
    assert "Doe" not in found.table


def test_nifti_files_far_down_are_named_where_dicom_was_looked_for(tmp_path, request_):
    save(tmp_path / "far" / "site" / "p1" / "anat" / "T1.nii.gz", voxels())
    said = f"too far down .site/p1/anat/T1.nii.gz.: .* e.g. -i {tmp_path / 'far' / 'site'}$"
    with pytest.raises(InputError, match=said):
        find_cases(replace(request_, root=tmp_path / "far"))


def test_renamed_cases_are_named_but_not_where_names_are_hashed(request_, caplog):
    caplog.set_level("INFO", "amae_nnunet")
    for name in ("x y", "x_seg", "Ünal", "sub-1_ok"):
        make_case(request_.root, name)
    find_cases(request_)
    assert [record.message for record in caplog.records] == [
        "3 cases renamed: 'x y' -> x-y, 'x_seg' -> x_seg_, 'Ünal' -> nal"
    ]
    caplog.clear()
    find_cases(replace(request_, hash_ids=True))
    assert not any("cases renamed" in record.message for record in caplog.records)


@pytest.fixture
def studies(tmp_path, request_):
    """Two DICOM studies, the second without a label."""
    for study in ("S1", "S2"):
        folder = tmp_path / "studies" / study
        write_series(folder, voxels(), study=study, description="t1_se_tra", echo_time=9.0)
    (tmp_path / "labels").mkdir()
    request = replace(request_, root=tmp_path / "studies", labels=tmp_path / "labels")
    key = Identities.from_file(request.key)
    save(request.labels / f"{key.case(uid('study', 'S1'))}.nii.gz", lesion())
    return request


def test_a_hidden_folder_of_studies_is_counted(studies, caplog):
    caplog.set_level("INFO", "amae_nnunet")
    (studies.root / "S2").rename(studies.root / ".S2")
    assert len(find_cases(studies).cases) == 1
    said = "1 file skipped: a folder whose name begins with a dot"
    assert [record.message for record in caplog.records] == [said]


def test_labels_of_no_study_are_named(studies, caplog):
    find_cases(studies)
    assert caplog.text == ""
    save(studies.labels / f"{uid('study', 'S2')}.nii", lesion())
    find_cases(studies)
    assert caplog.text == ""
    for name in ("p7.nii.gz", "README.txt", ".hidden"):
        (studies.labels / name).touch()
    find_cases(studies)
    assert [record.message for record in caplog.records] == [
        "warning: 2 files of --labels fit no study: README.txt, p7.nii.gz: call them CASE.nii.gz, "
        "see --dry_run"
    ]


@pytest.fixture
def heads(tmp_path, studies):
    """Two DICOM studies large enough for a head: T1 and TRACE, and what no rule names."""
    template = {
        "name": "Trace",
        "contrasts": {"T1": ["T1*"], "TRACE": ["TRACE*"]},
        "required": ["T1"],
        "label": {"patterns": ["seg*"], "labels": {"background": 0, "lesion": 1}},
    }
    (tmp_path / "trace.json").write_text(json.dumps(template))
    root, whole = tmp_path / "heads", voxels(shape=(40, 36, 24))
    spin_echo = {"ScanningSequence": "SE", "RepetitionTime": 500.0}
    write_series(root / "a", whole, description="t1_se_tra", echo_time=9.0, **spin_echo)
    write_series(root / "b", whole, number=2, image_type=TRACE, b=3000, directionality="isotropic")
    write_series(root / "c", whole, study="S2", description="scan")
    return replace(studies, root=root, template=str(tmp_path / "trace.json"))


def test_a_dicom_dry_run_asks_for_labels_only_if_it_is_given_some(heads, tmp_path):
    (tmp_path / "none").mkdir()

    def codes(sheet, **changes):
        found = dry_run(replace(heads, **changes), tmp_path / sheet)
        return {raw.code for raw in found.cases}

    assert codes("1.tsv", labels=tmp_path / "none") == {"E_NO_LABEL", "E_REQUIRED"}
    assert codes("2.tsv", labels=None) == {"", "E_REQUIRED"}
    found = find_cases(replace(heads, labels=None, sheet=tmp_path / "2.tsv"))
    assert {raw.code for raw in found.cases} == {"E_NO_LABEL", "E_REQUIRED"}


def test_a_dicom_dry_run_prints_the_doubts_about_series_and_names_its_table(heads, tmp_path):
    found = dry_run(heads, tmp_path / "mine.tsv")
    case = {raw.code: raw.case for raw in found.cases}
    lines = found.table.splitlines()
    assert f"case {case['']}: warning: W_B_VALUE: TRACE has b = 3000 s/mm2" in lines
    said = "no T1 (required) was recognised (its series: no rule says what it is): if a series is "
    assert f"case {case['E_REQUIRED']}: {said}one, say so in mine.tsv [E_REQUIRED]" in lines


def test_a_dicom_sheet_goes_with_the_key_of_its_dry_run(studies, tmp_path):
    sheet, other = tmp_path / "series.tsv", tmp_path / "other.key"
    names = {raw.case for raw in dry_run(studies, sheet).cases}
    again = find_cases(replace(studies, sheet=sheet)).cases
    assert {raw.case for raw in again} == names
    assert {raw.id_key for raw in again} == {Identities.from_file(studies.key).mark}
    with pytest.raises(ConfigError, match="other.key is not there"):
        find_cases(replace(studies, sheet=sheet, key=other))
    assert not other.exists()
    Identities.from_file(other)
    with pytest.raises(ConfigError, match="was written with another key: give it with --key"):
        find_cases(replace(studies, sheet=sheet, key=other))
