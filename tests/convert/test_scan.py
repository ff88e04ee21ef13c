import pytest
from convert.studies import make_case, save, voxels, write_template

from amae_nnunet.convert.scan import case_id, refuse_clashes, scan
from amae_nnunet.convert.source import RawCase
from amae_nnunet.convert.template import load_template
from amae_nnunet.errors import InputError


@pytest.fixture
def template(tmp_path):
    return load_template(str(write_template(tmp_path)))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def only(root, template):
    (case,) = scan(root, template)
    return case


def test_files_are_found_below_the_case_and_by_any_case(root, template):
    save(root / "a" / "anat" / "flair.NII.GZ", voxels())
    save(root / "a" / "t1ce.nii", voxels())
    (root / "a" / "notes.txt").write_text("no image")
    save(root / "a" / "other.nii.gz", voxels())
    case = only(root, template)
    assert list(case.contrasts) == ["FLAIR", "T1CE"]
    assert [file.name for file in case.contrasts.values()] == ["anat/flair.NII.GZ", "t1ce.nii"]
    assert case.contrasts["T1CE"].paths == (root / "a" / "t1ce.nii",)
    assert (case.label, case.unmatched, case.code) == (None, ("other.nii.gz",), "")
    assert case.warnings == (
        "W_UNMATCHED: no T1, and no pattern fits 1 file (--dry_run lists these)",
    )
    save(root / "a" / "T1.nii.gz", voxels())
    assert only(root, template).warnings == ()  # nothing is absent, and there may be other images


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("Case 1 (old)", "Case-1--old-"),
        ("x_0001", "x_0001"),
        ("..x", "x"),
        ("Ünal", "nal"),
        ("x_seg", "x_seg_"),
        ("é", "case"),
    ],
)
def test_case_ids(name, case):
    assert case_id(name) == case


@pytest.mark.parametrize(("one", "two"), [("a b", "a-b"), ("Case", "case")])
def test_the_second_case_of_one_name_fails(root, template, one, two):
    make_case(root, one)
    make_case(root, two)
    first, second = scan(root, template)
    assert first.code == ""
    assert second.problem == f"{two} gets the same name as {one}: rename one of them"
    assert second.code == "E_NAME"


def test_two_files_of_one_contrast_are_ambiguous(root, template):
    make_case(root, "a")
    save(root / "a" / "old" / "T1.nii", voxels())
    case = only(root, template)
    assert case.problem.startswith("T1 is ambiguous (T1.nii.gz, old/T1.nii)")
    assert case.code == "E_AMBIGUOUS"


def test_a_file_of_two_contrasts_is_refused(root, tmp_path):
    make_case(root, "a")
    greedy = {"T1": ["T1*"], "FLAIR": ["FLAIR*"], "T1CE": ["T1CE*"]}
    template = load_template(str(write_template(tmp_path, contrasts=greedy)))
    assert "T1CE.nii.gz fits T1 and T1CE" in only(root, template).problem


def test_what_is_missing_is_named(root, template):
    make_case(root, "a", contrasts=("T1",))
    assert only(root, template).problem == (
        "no FLAIR (required): add a file named like FLAIR.nii*, or remove the case"
    )


def test_a_case_without_any_contrast_fails_though_none_is_required(root, tmp_path):
    (root / "a").mkdir()
    template = load_template(str(write_template(tmp_path, required=[])))
    assert only(root, template).problem.startswith("no contrast at all: add a file named like T1")


@pytest.mark.parametrize("kind", ["file", "folder", "case"])
def test_links_out_of_the_input_are_refused(root, tmp_path, template, kind):
    outside = make_case(tmp_path / "outside", "b")
    if kind == "case":
        (root / "a").symlink_to(outside)
    else:
        make_case(root, "a", contrasts=("FLAIR",))
        link = {"file": "T1.nii.gz", "folder": "more"}[kind]
        (root / "a" / link).symlink_to(outside / "T1.nii.gz" if kind == "file" else outside)
    case = only(root, template)
    problem = case.problem
    assert case.code == "E_LINK"
    assert problem.endswith("is a link out of the input folder: copy the files into it")
    assert str(tmp_path) not in problem


def test_links_inside_the_input_are_followed_without_a_loop(root, template):
    make_case(root, "a")
    (root / "a" / "again").symlink_to(root / "a")
    (root / "b").mkdir()
    (root / "b" / "FLAIR.nii.gz").symlink_to(root / "a" / "FLAIR.nii.gz")
    assert [case.problem for case in scan(root, template)] == ["", ""]


def test_a_link_to_nothing_is_named(root, template):
    make_case(root, "a", contrasts=("FLAIR",))
    (root / "a" / "T1.nii.gz").symlink_to(root / "gone.nii.gz")
    assert only(root, template).problem.startswith("a/T1.nii.gz is a link to nothing")


def test_a_case_that_is_a_link_to_nothing_is_named(root, template):
    (root / "a").symlink_to(root / "gone")
    case = only(root, template)
    assert (case.code, case.problem.split(":")[0]) == ("E_LINK", "a is a link to nothing")


def test_a_raw_folder_must_hold_folders(root, template):
    with pytest.raises(InputError, match="has no folder in it"):
        scan(root, template)
    with pytest.raises(InputError, match="is not a folder"):
        scan(root / "gone", template)


def test_names_are_not_taken_by_cases_that_are_refused_for_theirs():
    cases = [RawCase("x", "row 2", "x", code="E_NAME"), RawCase("x", "x", "x")]
    assert [raw.code for raw in refuse_clashes(cases)] == ["E_NAME", ""]


def test_hidden_folders_are_left_out_and_named(root, template, caplog):
    caplog.set_level("INFO")
    for name in (".git", "a", *(f".x{number}" for number in range(8))):
        make_case(root, name)
    assert only(root, template).case == "a"
    assert [record.message for record in caplog.records] == [
        "9 folders skipped, since the name begins with a dot: .git, .x0, .x1, .x2, .x3 and 4 more"
    ]


def test_a_folder_above_the_cases_is_told_from_ambiguous_files(root, template):
    for site, patient in (("s1", "p1"), ("s1", "p2"), ("s2", "p3"), ("s2", "p4"), ("s3", "p5")):
        make_case(root / site, patient)
    with pytest.raises(InputError) as caught:
        scan(root, template)
    assert str(caught.value) == (
        f"the folders in {root} seem to hold several patients or visits each (T1 in each of p1, "
        f"p2): give the folder below, e.g. -i {root / 's1'}, or a table of cases if names occur "
        "twice"
    )
    assert [raw.case for raw in scan(root / "s1", template)] == ["p1", "p2"]
    for number in range(9):  # now it is the exception
        make_case(root, f"good{number}")
    bad = {raw.case: raw.problem for raw in scan(root, template) if raw.code}
    assert {raw.code for raw in scan(root, template) if raw.case in bad} == {"E_AMBIGUOUS"}
    assert bad == {
        site: f"these look like several patients or visits (T1 in each of {inside}): give the "
        f"folder below with -i, e.g. {site}, or leave one of them"
        for site, inside in (("s1", "p1, p2"), ("s2", "p3, p4"))
    }


@pytest.mark.parametrize(
    ("files", "below", "inside"),
    [
        (("s/p1/anat/T1", "s/p2/anat/T1"), "s", "T1 in each of p1, p2"),
        (("s/g/p1/T1", "s/g/p2/T1", "s/h/p3/T1"), "s/g", "T1 in each of p1, p2"),
        (("s/g/p1/T1", "s/h/p3/T1"), "s", "T1 in each of g, h"),
        (("s/p1/seg", "s/p2/seg", "s/p1/FLAIR", "s/p2/T1"), "s", "label in each of p1, p2"),
    ],
)
def test_the_folder_to_give_is_the_one_that_holds_the_patients(
    root, template, files, below, inside
):
    for file in files:
        save(root / f"{file}.nii.gz", voxels())
    with pytest.raises(InputError) as caught:
        scan(root, template)
    assert f"({inside}): give the folder below, e.g. -i {root / below}, or" in str(caught.value)


@pytest.mark.parametrize("files", [("T1", "old/T1"), ("anat/T1", "anat/old/T1"), ("x/T1", "T1")])
def test_files_that_do_not_lie_side_by_side_are_ambiguous_as_ever(root, template, files):
    for file in files:
        save(root / "s" / f"{file}.nii.gz", voxels())
    assert only(root, template).problem.startswith("T1 is ambiguous (")
