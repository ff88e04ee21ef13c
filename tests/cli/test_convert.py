"""``amae-nnunet-convert`` as a user meets it: the installed script in a fresh process."""

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios

import nibabel as nib
import numpy as np
import pytest
from cli.script import SCRIPT, command, environment
from convert.studies import AFFINE, SHAPE, ledger, lesion, load, make_case, save, tree, voxels
from convert.studies import write_template as write_tiny
from nibabel import orientations

from amae_nnunet.contrasts import ContrastRecord

CANARY = "CANARY"
RECORDS = (
    *(".amae_lock", "cases.jsonl", "contrasts.json", "failures.jsonl"),
    *("report.html", "report.json"),
)


def geometry(path):
    """The bytes of a header that say where its voxels are."""
    header = nib.load(path).header
    fields = "dim pixdim qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y"
    fields += " qoffset_z srow_x srow_y srow_z xyzt_units"
    return [header[field].tobytes() for field in fields.split()]


def with_text(path):
    """Put a canary into every text field of a header, and into an extension."""
    image = nib.load(path)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = CANARY
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, CANARY.encode()))
    nib.save(image, path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Three train cases (one with another grid, one FLAIR only) and two test cases, converted."""
    folder = tmp_path_factory.mktemp("good")
    make_case(folder / "raw", "full")
    make_case(folder / "raw", "flair_0001", contrasts=("FLAIR",))
    make_case(folder / "raw", "own grid")
    other = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    other[:3, 3] -= (-1, -1, 1)
    save(folder / "raw" / "own grid" / "T1.nii.gz", voxels(5, (30, 26, 24)), other)
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.001
    save(folder / "raw" / "own grid" / "T1CE.nii.gz", voxels(6), nearly)
    with_text(folder / "raw" / "full" / "T1.nii.gz")
    with_text(folder / "raw" / "full" / "seg.nii.gz")
    make_case(folder / "raw_test", "labeled")
    make_case(folder / "raw_test", "bare", contrasts=("FLAIR", "T1CE"), label=False)
    template = write_tiny(folder)
    shared = {"raw_folder": folder / "nnUNet_raw"}
    common = ("-d", "501", "-n", "Tiny", "-t", template)
    train = command("-i", folder / "raw", *common, **shared)
    test = command("-i", folder / "raw_test", *common, "--split", "test", "-np", "1", **shared)
    return folder, folder / "nnUNet_raw" / "Dataset501_Tiny", train, test


def test_train_then_test_make_one_data_set(good):
    _, dataset, train, test = good
    assert (train.returncode, train.stderr) == (0, "1 case renamed: 'own grid' -> own-grid\n")
    assert (test.returncode, test.stderr) == (0, "")
    assert train.stdout.splitlines() == [
        "Dataset501_Tiny: 3 done, 0 skipped, 0 failed",
        "  T1           2 cases",
        "  FLAIR        3 cases",
        "  T1CE         2 cases",
        f"look: {dataset / 'report.html'}",
        "next: nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --verify_dataset_integrity",
    ]
    images = f"-i {dataset / 'imagesTs'} -o Dataset501_Tiny_predicted"
    assert test.stdout.splitlines() == [
        "Dataset501_Tiny: 2 done, 0 skipped, 0 failed",
        "  T1           1 case",
        "  FLAIR        2 cases",
        "  T1CE         2 cases",
        f"look: {dataset / 'report.html'}",
        f"once it is trained: amae-nnunet-predict {images} -d 501 -c 3d_fullres -tr AMAETrainer "
        "-f 0",
    ]
    channels = [f"{channel:04d}.nii.gz" for channel in range(3)]
    expected = {*RECORDS, "dataset.json"}
    for images, cases in (("Tr", ("full", "flair_0001", "own-grid")), ("Ts", ("labeled", "bare"))):
        expected |= {f"images{images}/{case}_{name}" for case in cases for name in channels}
        expected |= {f"labels{images}/{case}.nii.gz" for case in cases if case != "bare"}
        expected |= {f"report/{case}.webp" for case in cases}
    assert tree(dataset) == sorted(expected)


def test_the_records(good):
    _, dataset, *_ = good
    record = ContrastRecord.read(dataset)
    assert record.contrasts == ("T1", "FLAIR", "T1CE")
    assert record.required == ("FLAIR",)
    found = {case: (entry.present, entry.split) for case, entry in record.cases.items()}
    assert found == {
        "full": ((True, True, True), "train"),
        "flair_0001": ((False, True, False), "train"),
        "own-grid": ((True, True, True), "train"),
        "labeled": ((True, True, True), "test"),
        "bare": ((False, True, True), "test"),
    }
    described = json.loads((dataset / "dataset.json").read_text())
    assert list(described["channel_names"].items()) == [("0", "T1"), ("1", "FLAIR"), ("2", "T1CE")]
    assert described["labels"] == {"background": 0, "lesion": 1}
    assert described["numTraining"] == 3
    assert described["amae"] == {
        "schema": 1,
        "contrasts": ["T1", "FLAIR", "T1CE"],
        "required": ["FLAIR"],
    }
    for case, entry in record.cases.items():
        images = dataset / ("imagesTr" if entry.split == "train" else "imagesTs")
        channels = [load(images / f"{case}_{channel:04d}.nii.gz")[0] for channel in range(3)]
        record.check_voxels(case, [bool(channel.any()) for channel in channels])


def test_voxels_are_those_of_the_input_and_absent_ones_exactly_zero(good):
    folder, dataset, *_ = good
    for case in ("full", "flair_0001"):
        for name, channel in (("T1", 0), ("FLAIR", 1), ("T1CE", 2), ("seg", None)):
            file = f"imagesTr/{case}_{channel:04d}" if name != "seg" else f"labelsTr/{case}"
            written = nib.load(dataset / f"{file}.nii.gz")
            source = folder / "raw" / case / f"{name}.nii.gz"
            if not source.exists():
                assert written.get_data_dtype() == np.uint8
                assert not np.any(written.dataobj)
                continue
            assert nib.aff2axcodes(written.affine) == ("L", "P", "S")
            native = orientations.io_orientation(nib.load(source).affine)
            back = written.as_reoriented(
                orientations.ornt_transform(orientations.io_orientation(written.affine), native)
            )
            data, affine = load(source)
            assert np.array_equal(np.asanyarray(back.dataobj), data)
            assert np.allclose(back.affine, affine)
            assert written.get_data_dtype() == (np.uint8 if name == "seg" else np.int16)


def test_a_label_stored_in_another_orientation_comes_back_unchanged(tmp_path):
    make_case(tmp_path / "raw", "a")
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.001  # within the tolerance: the label's place, not the images', is kept
    for axes in ("RAS", "SAR"):
        label = nib.Nifti1Image(lesion(), nearly)
        turn = orientations.ornt_transform(
            orientations.io_orientation(AFFINE), orientations.axcodes2ornt(axes)
        )
        nib.save(label.as_reoriented(turn), tmp_path / "raw" / "a" / "seg.nii.gz")
        done = command(
            *("-i", tmp_path / "raw", "-d", 1, "-t", write_tiny(tmp_path), "-np", 1),
            raw_folder=tmp_path / "out",
        )
        assert done.returncode == 0
        written, affine = load(tmp_path / "out" / "Dataset001_Tiny" / "labelsTr" / "a.nii.gz")
        assert np.array_equal(written, lesion())  # AFFINE is LPS already
        assert np.abs(affine - nearly).max() < 1e-5


def test_all_files_of_a_case_have_the_same_geometry_to_the_bit(good):
    _, dataset, *_ = good
    for case in ("full", "flair_0001", "own-grid"):
        label = geometry(dataset / "labelsTr" / f"{case}.nii.gz")
        for channel in range(3):
            assert geometry(dataset / "imagesTr" / f"{case}_{channel:04d}.nii.gz") == label


def test_no_text_of_the_input_and_no_path_gets_through(good):
    folder, dataset, *_ = good
    assert CANARY.encode() in nib.load(folder / "raw/full/T1.nii.gz").header["descrip"].tobytes()
    for name in tree(dataset):
        content = (dataset / name).read_bytes()
        if name.endswith(".gz"):
            content = nib.openers.Opener(dataset / name).read()
        assert CANARY.encode() not in content
        assert str(folder).encode() not in content


@pytest.mark.slow
def test_nnunet_accepts_the_data_set(good):
    _, dataset, *_ = good
    check = "from nnunetv2.experiment_planning.verify_dataset_integrity import *\n"
    check += f"if __name__ == '__main__': verify_dataset_integrity({str(dataset)!r}, 1)"
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        env=environment(dataset.parent),
        timeout=600,
    )
    assert "verify_dataset_integrity Done" in done.stdout, done.stderr
    assert "mismatch" not in done.stdout
    assert "WARNING" not in done.stdout


def test_an_empty_label_is_a_warning(tmp_path):
    make_case(tmp_path / "raw", "a")
    save(tmp_path / "raw" / "a" / "seg.nii.gz", np.zeros(SHAPE, np.uint8))
    done = command(
        *("-i", tmp_path / "raw", "-d", 1, "-t", write_tiny(tmp_path), "-np", 1),
        raw_folder=tmp_path / "out",
    )
    assert done.returncode == 0
    assert done.stderr == "case a: warning: W_EMPTY_LABEL: the label is empty\n"
    (entry,) = ledger(tmp_path / "out" / "Dataset001_Tiny")
    assert entry["warnings"] == ["W_EMPTY_LABEL: the label is empty"]
    assert entry["label"] == {"background": np.prod(SHAPE), "lesion": 0}


def test_inference_inputs(tmp_path):
    make_case(tmp_path / "raw", "a", contrasts=("FLAIR", "T1"))
    save(tmp_path / "raw" / "a" / "seg.nii.gz", lesion() * 9)  # not looked at
    arguments = (
        "-i",
        tmp_path / "raw",
        "-t",
        write_tiny(tmp_path),
        "-o",
        tmp_path / "in",
        "-np",
        1,
    )
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"next: amae-nnunet-predict -i {tmp_path / 'in'}" in done.stdout
    images = [f"a_{channel:04d}.nii.gz" for channel in range(3)]
    assert tree(tmp_path / "in") == sorted([*images, *RECORDS, "report/a.webp"])
    assert ContrastRecord.read(tmp_path / "in").names_present("a") == ("T1", "FLAIR")
    assert not load(tmp_path / "in" / "a_0002.nii.gz")[0].any()
    assert command(*arguments).stdout.startswith("in: 0 done, 1 skipped, 0 failed")


def test_a_dry_run_writes_a_table_and_nothing_else(tmp_path):
    make_case(tmp_path / "raw", "a", contrasts=("FLAIR", "T1"))
    make_case(tmp_path / "raw", "bb", contrasts=("T1",))
    save(tmp_path / "raw" / "a" / "odd.nii.gz", voxels())
    before = tree(tmp_path)
    arguments = ("-i", "raw", "-t", write_tiny(tmp_path), "--dry_run")
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (4, "")
    problem = "no FLAIR (required): add a file named like FLAIR.nii*, or remove the case"
    assert done.stdout.splitlines() == [
        "case  T1  FLAIR  T1CE  label",
        "a     x     x     -      x",
        "bb    x     -     -      x",
        "unmatched: a/odd.nii.gz",
        f"case bb: {problem}",
        "wrote series.tsv: edit it, then give it back with --series series.tsv",
    ]
    assert tree(tmp_path) == sorted([*before, "series.tsv", "tiny.json"])
    assert (tmp_path / "series.tsv").read_text().splitlines() == [
        "case\tsubject\tsplit\tT1\tFLAIR\tT1CE\tlabel\tproblem",
        "a\ta\t\traw/a/T1.nii.gz\traw/a/FLAIR.nii.gz\t\traw/a/seg.nii.gz\t",
        f"bb\tbb\t\traw/bb/T1.nii.gz\t\t\traw/bb/seg.nii.gz\tE_REQUIRED: {problem}",
    ]
    again = command(*arguments, cwd=tmp_path)  # it may have been edited
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        "amae-nnunet-convert: error: series.tsv exists: remove it, or name another file with "
        "--series"
    ]


def test_the_table_of_a_dry_run_is_what_is_converted(tmp_path):
    """Edited: another name, a subject, a contrast taken out, one file for another contrast."""
    make_case(tmp_path / "raw", "a")
    make_case(tmp_path / "raw", "b", contrasts=("T1",))
    sheet = tmp_path / "sheets" / "mine.tsv"
    sheet.parent.mkdir()
    common = ("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "--series", sheet)
    seen = command(*common, "--dry_run", cwd=tmp_path)
    assert seen.stdout.splitlines()[-1] == (
        f"wrote {sheet}: edit it, then give it back with --series {sheet}"
    )
    header, a, b = sheet.read_text().splitlines()
    a = a.replace(f"{tmp_path}/raw/a/T1.nii.gz", "").replace("a\ta\t", "renamed\tp1\t", 1)
    *_, t1, flair, t1ce, label, problem = b.split("\t")
    assert (flair, t1ce, problem[:10]) == ("", "", "E_REQUIRED")
    b = "\t".join(["b", "p2", "", flair, t1, t1ce, label, ""])  # what is called T1 is a FLAIR
    sheet.write_text("\n".join([header, a, b]))
    done = command(*common, "-d", 1, raw_folder=tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    dataset = tmp_path / "out" / "Dataset001_Tiny"
    found = ContrastRecord.read(dataset).cases
    assert {case: (entry.present, entry.subject) for case, entry in found.items()} == {
        "renamed": ((False, True, True), "p1"),
        "b": ((False, True, False), "p2"),
    }
    assert np.array_equal(load(dataset / "imagesTr" / "renamed_0001.nii.gz")[0], voxels(1))
    assert np.array_equal(load(dataset / "imagesTr" / "b_0001.nii.gz")[0], voxels(0))


@pytest.mark.slow
def test_a_table_may_grow_anywhere(tmp_path):
    for case in "ab":
        make_case(tmp_path / "raw", case)
    sheet = tmp_path / "series.tsv"
    common = ("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "--series", sheet)
    command(*common, "--dry_run")
    run = {"raw_folder": tmp_path / "out"}
    header, a, b = sheet.read_text().splitlines()
    sheet.write_text(f"{header}\n{b}\n")
    assert command(*common, "-d", 1, **run).stdout.startswith("Dataset001_Tiny: 1 done, 0 skipped")
    sheet.write_text(f"{header}\n{a}\n{b}\n")
    done = command(*common, "-d", 1, **run)
    assert done.stdout.startswith("Dataset001_Tiny: 1 done, 1 skipped, 0 failed")


def test_dry_run_asks_for_labels_only_where_they_are_used(tmp_path):
    make_case(tmp_path / "raw", "a", label=False)
    arguments = ("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "--dry_run")
    assert "case a: no label" in command(*arguments, cwd=tmp_path).stdout
    (tmp_path / "series.tsv").unlink()
    assert command(*arguments, "-o", tmp_path / "in", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "in").exists()


@pytest.fixture(scope="module")
def one_case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("one") / "raw", "a").parent


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("-d", 1, "-t", "LGG"), 2, "export nnUNet_raw=/path/to/nnUNet_raw"),
        (("-d", 1), 2, "which template?"),
        (("-t", "LGG"), 2, "where to? give -d NUMBER"),
        (("-t", "LGG", "-d", 1, "-o", "x"), 2, "give one of them"),
        (("-t", "LGG", "-d", 1, "-np", 0), 2, "-np 0: give 1 or more"),
        (("-t", "gone.json", "-d", 1), 2, "one of Infarct, LGG"),
        (("-t", "LGG", "-d", 1, "-num_parts", 2), 2, "-num_parts and -part_id belong together"),
        (("-t", "LGG", "--for_model", "x"), 2, "give -o FOLDER"),
        (("-t", "LGG", "--native", "x"), 2, "--native needs -o FOLDER"),
        (("-t", "LGG", "-d", 1, "--series", "gone.tsv"), 2, "gone.tsv is not there: write it"),
        (("-t", "LGG", "-d", 1, "--rules", "x"), 2, "--rules is for DICOM, and"),
        (("-t", "LGG", "-d", 1, "--labels", "."), 2, "is read as folders: leave it out"),
        (("-t", "LGG", "-d", 1, "--labels", "gone"), 2, "is read as folders: leave it out"),
        (("-t", "LGG", "-d", 1, "--labels", "gone", "--layout", "dicom"), 2, "is not a folder"),
        (("-t", "LGG", "-d", 1, "--b_value", 800), 2, "--b_value is for DICOM, and"),
        (("-t", "LGG", "-d", 1, "--b_value", -5), 2, "--b_value -5: give s/mm2, more than 0"),
        (("-t", "LGG", "-d", 1, "--b_value", 0), 2, "--b_value 0: give"),
        (("-t", "LGG", "-d", 1, "--b_value", "nan"), 2, "--b_value nan: give"),
        (("-t", "LGG", "-o", "x", "--layout", "bids"), 3, "give the root of the BIDS data set"),
    ],
)
def test_wrong_arguments_are_one_line(one_case, arguments, code, line):
    done = command("-i", one_case, *arguments)
    assert done.returncode == code
    assert done.stderr.startswith("amae-nnunet-convert: error: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_usable_is_exit_code_3(tmp_path):
    make_case(tmp_path / "raw", "a", contrasts=("T1",))
    arguments = ("-t", write_tiny(tmp_path), "-d", 1)
    done = command("-i", tmp_path / "raw", *arguments, raw_folder=tmp_path / "out")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith("the case could not be converted: see the lines above\n")
    done = command("-i", tmp_path / "gone", *arguments, raw_folder=tmp_path / "out")
    assert done.returncode == 3
    assert "gone is not there" in done.stderr


def test_the_template_defaults_to_the_name(tmp_path):
    make_case(tmp_path / "raw", "a")
    done = command("-i", tmp_path / "raw", "-d", 1, "-n", "LGG", raw_folder=tmp_path / "out")
    assert done.stdout.startswith("Dataset001_LGG: 1 done")


def test_a_terminal_shows_how_many_cases_are_left(tmp_path):
    make_case(tmp_path / "raw", "a")
    make_case(tmp_path / "raw", "b", contrasts=("FLAIR",))
    (tmp_path / "raw" / "b" / "FLAIR.nii.gz").write_bytes(b"")
    terminal, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    arguments = ("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "-d", "1", "-np", "1")
    environ = environment(tmp_path / "out")
    done = subprocess.run([SCRIPT, *arguments], stderr=theirs, stdout=theirs, env=environ)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # raised at the end, since the other side is closed
        while part := os.read(terminal, 1 << 16):
            shown += part
    os.close(terminal)
    assert done.returncode == 4
    assert re.search(
        r"\rcases: 2 of 2 \|\S+\| \d\d:\d\d, 00:00 left, done=1, failed=1", shown.decode()
    )


def test_a_wrong_column_of_a_table_is_a_wrong_argument(tmp_path):
    make_case(tmp_path, "a")
    for header, line in (
        ("case,T1,FLAIR,lable", "column 'lable' is none of case,"),
        ("T1,FLAIR", "has no column case"),
        ("case,T1,t1", "column T1 is there twice"),
    ):
        (tmp_path / "cases.csv").write_text(f"{header}\na,a/T1.nii.gz,a/FLAIR.nii.gz\n")
        arguments = ("-i", tmp_path / "cases.csv", "-t", write_tiny(tmp_path), "-d", 1)
        done = command(*arguments, raw_folder=tmp_path / "out")
        assert done.returncode == 2, header
        assert line in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_subject_that_is_trained_on_is_seen_when_its_test_case_comes(tmp_path):
    for case in ("a", "b", "c"):
        make_case(tmp_path, case)
    for split, rows in (("train", "ab"), ("test", "c")):
        lines = [
            f"{case},{'p2' if case == 'b' else 'p1'},{split},{case}/FLAIR.nii.gz,{case}/seg.nii.gz"
            for case in rows
        ]
        (tmp_path / f"{split}.csv").write_text(
            "\n".join(["case,subject,split,FLAIR,label", *lines])
        )
    common = ("-t", write_tiny(tmp_path), "-d", 1, "-np", 1)
    run = {"raw_folder": tmp_path / "out"}
    assert command("-i", tmp_path / "train.csv", *common, **run).returncode == 0
    said = "its subject p1 is trained on as well (a): take it out of one side"
    strict = command("-i", tmp_path / "test.csv", *common, "--strict", **run)
    assert strict.returncode == 3
    assert strict.stderr.startswith(f"case c: {said} [E_SUBJECT]\n")
    done = command("-i", tmp_path / "test.csv", *common, **run)
    assert (done.returncode, done.stderr) == (0, f"case c: warning: W_SUBJECT: {said}\n")
    dataset = tmp_path / "out" / "Dataset001_Tiny"
    assert "W_SUBJECT" in (dataset / "report.html").read_text()


@pytest.mark.slow
def test_a_mistyped_key_makes_no_second_one(tmp_path):
    make_case(tmp_path / "raw", "Anna")
    key, wrong = tmp_path / "id.key", tmp_path / "id.kye"
    common = ("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "-d", 1, "-np", 1)
    run = {"raw_folder": tmp_path / "out"}
    first = command(*common, "--ids", "hash", "--key", key, **run)
    assert (first.returncode, first.stderr.split(": ")[:2]) == (0, ["new key", str(key)])
    for words, said in (
        (("--ids", "hash", "--key", wrong), f"key file {wrong} is not there"),
        ((), "Dataset001_Tiny has hashed names: give --ids hash, and --key as before"),
    ):
        done = command(*common, *words, **run)
        assert done.returncode == 2
        assert done.stderr.startswith(f"amae-nnunet-convert: error: {said}")
        assert done.stderr.count("\n") == 1
    plain = ("-i", tmp_path / "raw", "-t", tmp_path / "tiny.json", "-d", 2)
    assert command(*plain, **run).returncode == 0
    done = command(*plain, "--ids", "hash", "--key", wrong, **run)
    assert done.stderr.startswith(f"amae-nnunet-convert: error: key file {wrong} is not there")
    done = command(*plain, "--ids", "hash", "--key", key, **run)
    assert "Dataset002_Tiny has plain names, and these would be hashes" in done.stderr
    assert not wrong.exists()
    again = command(*common, "--ids", "hash", "--key", key, **run)
    assert again.stdout.startswith("Dataset001_Tiny: 0 done, 1 skipped, 0 failed")
    assert again.stderr == ""
