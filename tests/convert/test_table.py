import csv
import os

import numpy as np
import pytest
from convert.studies import lesion, make_case, save, voxels, write_template

from amae_nnunet.convert.bids import scan_bids
from amae_nnunet.convert.overview import table
from amae_nnunet.convert.scan import scan
from amae_nnunet.convert.table import scan_table, write_table
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import ConfigError, InputError


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path, accepts={"T1": ["T1", "GRE"]})))


@pytest.fixture
def data(tmp_path):
    for name in ("a", "b"):
        make_case(tmp_path / "data", name)
    return tmp_path / "data"


def write(folder, text, name="cases.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def only(path, template):
    (case,) = scan_table(path, template)
    return case


def contents(cases):
    return [
        (
            raw.case,
            raw.subject,
            raw.split,
            {name: (source.path, source.volume) for name, source in raw.contrasts.items()},
            raw.label and raw.label.path,
            raw.code,
        )
        for raw in cases
    ]


@pytest.mark.parametrize("name", ["cases.csv", "cases.tsv"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_written_table_reads_as_the_same_cases(data, tmp_path, template, name, inside):
    save(data / 'c; d, "e"' / "FLAIR.nii.gz", voxels())
    cases = scan(data, template)
    path = (data if inside else tmp_path / "elsewhere") / name
    path.parent.mkdir(exist_ok=True)
    write_table(cases, path, template)
    assert contents(scan_table(path, template)) == contents(cases)
    assert ("data" in path.read_text()) is not inside
    again = path.with_stem("again")
    write_table(scan_table(path, template), again, template)
    assert again.read_bytes() == path.read_bytes()


def test_a_name_that_is_not_utf_8_is_a_problem_of_its_row_alone(tmp_path, data, template):
    (data / "b").rename(data / os.fsdecode(b"M\xfcller"))
    cases = scan(data, template)
    write_table(cases, tmp_path / "cases.csv", template)
    assert [row["problem"][:40] for row in read(tmp_path / "cases.csv")] == [
        "E_NAME: a name of its files is not UTF-8", ""
    ]  # fmt: skip
    assert {raw.case: raw.code for raw in scan_table(tmp_path / "cases.csv", template)} == {
        "M-ller": "E_NAME", "a": ""
    }  # fmt: skip
    (data / os.fsdecode(b"M\xfcller") / os.fsdecode(b"\xfc.nii.gz")).write_bytes(b"")
    shown = table(scan(data, template), template)
    assert shown.encode()  # what a terminal gets
    assert "unmatched: M\\udcfcller/\\udcfc.nii.gz" in shown


def test_an_alternative_and_a_volume_survive_the_table(tmp_path, template):
    dwi = np.stack([voxels(0), voxels(1)], axis=-1)
    save(tmp_path / "data" / "sub-1" / "dwi" / "sub-1_dwi.nii.gz", dwi)
    (tmp_path / "data" / "sub-1" / "dwi" / "sub-1_dwi.bval").write_text("0 1000\n")
    save(tmp_path / "data" / "sub-1" / "anat" / "sub-1_T2starw.nii.gz", voxels())
    changes = {"contrasts": {"DWI": ["a"], "T1": ["b"]}, "required": []}
    accepts = {"DWI": ["TRACE"], "T1": ["T1", "GRE"]}
    template = load_template(str(write_template(tmp_path, accepts=accepts, **changes)))
    cases = scan_bids(tmp_path / "data", template)
    write_table(cases, tmp_path / "cases.csv", template)
    (row,) = read(tmp_path / "cases.csv")
    assert row["TRACE"] == "data/sub-1/dwi/sub-1_dwi.nii.gz[1]"
    assert (row["T1"], row["GRE"]) == ("", "data/sub-1/anat/sub-1_T2starw.nii.gz")
    (case,) = scan_table(tmp_path / "cases.csv", template)
    assert contents([case]) == contents(cases)
    assert case.contrasts["T1"].facts == {"contrast": "GRE"}
    np.testing.assert_array_equal(case.contrasts["DWI"].read()[0], voxels(1))


def test_a_volume_beyond_the_end_is_an_error_of_the_file(tmp_path, template):
    save(tmp_path / "dwi.nii.gz", np.stack([voxels(0), voxels(1)], axis=-1))
    case = only(write(tmp_path, "case,FLAIR\nx,dwi.nii.gz[2]\n"), template)
    with pytest.raises(InputError, match="12 x 10 x 8 x 2 and has no volume 2"):
        case.contrasts["FLAIR"].read()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("case,subject,split,FLAIR,T1,label\nx,p1,test,a/FLAIR.nii.gz,,a/seg.nii.gz\n", "utf-8"),
        (
            "case;subject;split;FLAIR;T1;label\r\nx;p1;test;a/FLAIR.nii.gz;NaN;a/seg.nii.gz\r\n;;;;;\r\n",
            "utf-8-sig",
        ),
        (
            "\ufeffcase;subject;split;FLAIR;label;;\nx;p1;TEST;a/FLAIR.nii.gz;a/seg.nii.gz;;\n\n\n",
            "utf-8",
        ),
        (
            '"Case","Subject","split","flair","LABEL"\n'
            '"x","p1"," test ","a/FLAIR.nii.gz","a/seg.nii.gz"',
            "utf-8",
        ),
        ("label,case,subject,FLAIR,T1,split\na/seg.nii.gz,x,p1,a/FLAIR.nii.gz,n/a,test", "utf-8"),
    ],
)
def test_spreadsheets_write_tables_in_many_ways(data, template, text, encoding):
    case = only(write(data, text, encoding=encoding), template)
    assert contents([case]) == [
        (
            "x",
            "p1",
            "test",
            {"FLAIR": (data / "a" / "FLAIR.nii.gz", None)},
            data / "a" / "seg.nii.gz",
            "",
        )
    ]


def test_absolute_paths_may_lead_anywhere_and_subject_defaults_to_the_case(
    data, tmp_path, template
):
    (tmp_path / "t").mkdir()
    flair = data / "a" / "FLAIR.nii.gz"
    (tmp_path / "t" / "link.nii.gz").symlink_to(data / "b" / "T1.nii.gz")
    path = write(tmp_path / "t", f"case\tFLAIR\tT1\nx\t{flair}\tlink.nii.gz\n", "cases.TSV")
    case = only(path, template)
    assert (case.code, case.subject, case.split, case.source) == ("", "x", None, "x")
    np.testing.assert_array_equal(case.contrasts["FLAIR"].read()[0], voxels(1))
    np.testing.assert_array_equal(case.contrasts["T1"].read()[0], voxels(0))


@pytest.mark.parametrize(
    ("row", "code", "problem"),
    [
        ("x,,,gone.nii.gz,,", "E_TABLE", "row 3, FLAIR: gone.nii.gz is not there"),
        ("x,,,a/FLAIR.nii.gz,,gone.nii", "E_TABLE", "row 3, label: gone.nii is not there"),
        ("x,,,a,,", "E_TABLE", "row 3, FLAIR: a does not end in .nii or .nii.gz"),
        ("x,,,a/FLAIR.nii.gz[-1],,", "E_TABLE", "row 3, FLAIR: a/FLAIR.nii.gz[-1] does not end"),
        (",,,a/FLAIR.nii.gz,,", "E_TABLE", "row 3 has no case"),
        ("x,,val,a/FLAIR.nii.gz,,", "E_TABLE", "row 3: split val is not one of train, test"),
        ("x,,,a/T1.nii.gz,a/T1.nii.gz,", "E_TABLE", "row 3 has a/T1.nii.gz in two cells"),
        ("x,,,a/FLAIR.nii.gz,,,old", "E_TABLE", "row 3 has a cell beyond the last column: old"),
        ("x,,,,a/T1.nii.gz,", "E_REQUIRED", "no FLAIR (required): fill a cell of row 3"),
        ("A,,,b/FLAIR.nii.gz,,", "E_NAME", "A gets the same name as a"),
    ],
)
def test_a_wrong_row_is_named_and_the_others_go_on(data, template, row, code, problem):
    text = f"case,subject,split,FLAIR,T1,label\na,,,a/FLAIR.nii.gz,,\n{row}\nb,,,b/FLAIR.nii.gz,,\n"
    first, bad, last = scan_table(write(data, text), template)
    assert (first.code, last.code, last.case) == ("", "", "b")
    assert (bad.code, bad.problem[: len(problem)]) == (code, problem)
    assert "\n" not in bad.problem


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "..\\x", "..", "."])
@pytest.mark.parametrize("column", ["case", "subject"])
def test_a_path_is_no_name(data, template, name, column):
    bad = {"case": "x", "subject": "p", column: name}
    rows = f"{bad['case']},{bad['subject']},b/FLAIR.nii.gz\ny,,a/FLAIR.nii.gz\n"
    text = f"case,subject,FLAIR\n{rows}"
    bad, good = scan_table(write(data, text), template)
    assert (bad.code, good.code) == ("E_NAME", "")
    assert bad.problem == f"{column} {name!r} is a path, no name: rename it"
    assert bad.case == ("row-2" if column == "case" else "x")


@pytest.mark.parametrize("second", ["a/FLAIR.nii.gz,", ",", "gone.nii,", "a/FLAIR.nii.gz,ask Anna"])
def test_rows_of_one_name_are_all_refused_by_it(data, template, second):
    text = f"case,FLAIR,problem\nx,b/FLAIR.nii.gz,\ny,b/FLAIR.nii.gz,\nx,{second}\n"
    first, other, again = scan_table(write(data, text), template)
    assert (first.code, other.code, again.code) == ("E_NAME", "", "E_NAME")
    said = "rows 2, 4 are all called x: rename or remove all but one"
    assert first.problem == again.problem == said


def test_a_problem_stays_until_its_cell_is_emptied(data, template):
    save(data / "a" / "old" / "T1.nii", voxels())
    path = data / "cases.csv"
    write_table(scan(data, template), path, template)
    for _ in range(2):  # a problem is not wrapped again and again
        bad, good = scan_table(path, template)
        assert (bad.code, good.code) == ("E_AMBIGUOUS", "")
        assert bad.problem.startswith("row 2 still has a problem: T1 is ambiguous (T1.nii.gz, old/")
        assert bad.problem.count("still has a problem") == 1
        assert bad.problem.count("correct the row and empty that cell") == 1
        write_table([bad, good], path, template)
    rows = read(path)
    rows[0] |= {"T1": "a/old/T1.nii", "problem": ""}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    chosen, _ = scan_table(path, template)
    assert (chosen.code, chosen.contrasts["T1"].path) == ("", data / "a" / "old" / "T1.nii")


def test_a_note_in_the_problem_column_is_a_problem(data, template):
    text = "case,FLAIR,problem\na,a/FLAIR.nii.gz,ask Anna: which?\n"
    case = only(write(data, text), template)
    assert case.code == "E_TABLE"
    assert case.problem.startswith("row 2 still has a problem: ask Anna: which?; correct")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,FLIAR\nx,a\n", "column 'FLIAR' is none of case, subject, split, label, problem, T1"),
        ("case,,FLAIR\nx,,a\n", "column '' is none of"),
        ("case,FLAIR,flair\nx,a,b\n", "column FLAIR is there twice"),
        ("subject,FLAIR\nx,a\n", "has no column case"),
    ],
)
def test_a_table_with_wrong_columns_is_a_wrong_argument(tmp_path, template, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        scan_table(write(tmp_path, text), template)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,FLAIR\n", "has no row below its header"),
        ("case,FLAIR\n,\n", "has no row below its header"),
        ("", "is empty"),
    ],
)
def test_a_table_that_cannot_be_one_is_refused(tmp_path, template, text, message):
    with pytest.raises(InputError, match=message) as caught:
        scan_table(write(tmp_path, text), template)
    assert "\n" not in str(caught.value)


def test_a_table_must_be_there_and_be_text(tmp_path, template):
    with pytest.raises(InputError, match="gone.csv cannot be read: No such file"):
        scan_table(tmp_path / "gone.csv", template)
    with pytest.raises(InputError, match="is not UTF-8 text: save it as CSV UTF-8"):
        scan_table(write(tmp_path, "case,FLAIR\nä,b\n", encoding="utf-16"), template)


def test_the_label_of_a_row_is_read(data, template):
    text = "case,FLAIR,label\na,a/FLAIR.nii.gz,a/seg.nii.gz\n"
    np.testing.assert_array_equal(only(write(data, text), template).label.read()[0], lesion())
