"""``amae-nnunet-convert`` as a user meets it: the installed script in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from convert.studies import AFFINE, SHAPE, ledger, lesion, load, make_case, save, tree, voxels
from convert.studies import write_template as write_tiny
from nibabel import orientations

from amae_nnunet.contrasts import ContrastRecord

SCRIPT = Path(sys.executable).with_name("amae-nnunet-convert")
CANARY = "CANARY"


def environment(raw_folder):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    return {**kept, **({"nnUNet_raw": str(raw_folder)} if raw_folder else {})}


def command(*arguments, raw_folder=None):
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(raw_folder),
        timeout=120,
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
    assert (train.returncode, train.stderr) == (0, "")
    assert (test.returncode, test.stderr) == (0, "")
    assert train.stdout.splitlines() == [
        "Dataset501_Tiny: 3 done, 0 skipped, 0 failed",
        "  T1           2 cases",
        "  FLAIR        3 cases",
        "  T1CE         2 cases",
        "next: nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres --verify_dataset_integrity",
    ]
    channels = [f"{channel:04d}.nii.gz" for channel in range(3)]
    expected = {"cases.jsonl", "contrasts.json", "dataset.json", "failures.jsonl"}
    for images, cases in (("Tr", ("full", "flair_0001", "own-grid")), ("Ts", ("labeled", "bare"))):
        expected |= {f"images{images}/{case}_{name}" for case in cases for name in channels}
        expected |= {f"labels{images}/{case}.nii.gz" for case in cases if case != "bare"}
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


def test_nnunet_accepts_the_data_set(good):
    _, dataset, *_ = good
    check = "from nnunetv2.experiment_planning.verify_dataset_integrity import *\n"
    check += f"if __name__ == '__main__': verify_dataset_integrity({str(dataset)!r}, 1)"
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        env=environment(dataset.parent),
        timeout=200,
    )
    assert "verify_dataset_integrity Done" in done.stdout, done.stderr
    assert "mismatch" not in done.stdout
    assert "WARNING" not in done.stdout


def spoil(path, what):
    """Write something into ``path`` that must be refused."""
    data = voxels(3)
    floats = data.astype(np.float32)
    if what in ("nan", "inf"):
        floats[1, 1, 1] = float(what)
        save(path, floats)
    elif what == "truncated":
        save(path, data)
        path.write_bytes(path.read_bytes()[:-500])
    elif what == "text":
        path.write_text("not an image")
    elif what == "empty file":
        path.write_bytes(b"")
    elif what == "4-D":
        save(path, np.stack([data, data], -1))
    elif what == "2-D":
        save(path, data[:, :, 0])
    elif what == "complex":
        save(path, floats.astype(np.complex64))
    elif what == "colour":
        colour = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
        save(path, colour)
    elif what == "sheared":
        sheared = AFFINE.copy()
        sheared[0, 1] = 0.3
        save(path, data, sheared)
    elif what == "no affine":
        save(path, data, codes=(0, 0))
    elif what == "metres":
        save(path, data, AFFINE @ np.diag([1e-3, 1e-3, 1e-3, 1]))
    elif what == "micrometres":
        save(path, data, AFFINE @ np.diag([1e3, 1e3, 1e3, 1]))
    elif what == "singular":
        flat = AFFINE.copy()
        flat[:, 2] = flat[:, 1]
        save(path, data, flat, codes=(1, 0))
    elif what in ("zero", "constant"):
        save(path, np.full(SHAPE, 0 if what == "zero" else 5, np.int16))
    elif what == "off the grid":
        moved = AFFINE.copy()
        moved[0, 3] += 3
        save(path, lesion(), moved)
    elif what == "zero on the grid":
        edge = np.zeros((14, 10, 8), np.int16)
        edge[-1] = 9
        save(path, edge)
    elif what == "elsewhere":
        far = AFFINE.copy()
        far[0, 3] += 500
        save(path, data, far)
    elif what == "unknown label":
        save(path, lesion() * 3)
    elif what == "half label":
        save(path, lesion() * np.float32(0.5))
    else:
        raise ValueError(what)


#: what is wrong -> (the file that is spoilt, what the line says)
BAD = {
    "nan": ("T1", "T1.nii.gz has 1 NaN or infinite voxels: replace them"),
    "inf": ("T1", "T1.nii.gz has 1 NaN or infinite voxels: replace them"),
    "truncated": ("T1", "T1.nii.gz is damaged or not NIfTI"),
    "text": ("T1", "T1.nii.gz is damaged or not NIfTI (no NIfTI header): copy it again"),
    "empty file": ("T1", "T1.nii.gz is damaged or not NIfTI"),
    "4-D": ("T1", "T1.nii.gz is 12 x 10 x 8 x 2, not one 3-D volume"),
    "2-D": ("T1", "T1.nii.gz is 12 x 10, not one 3-D volume"),
    "complex": ("T1", "T1.nii.gz has colour or complex voxels (complex64)"),
    "colour": ("T1", "T1.nii.gz has colour or complex voxels (RGB)"),
    "sheared": ("T1", "T1.nii.gz has a sheared affine"),
    "no affine": ("T1", "T1.nii.gz has no position in the scanner"),
    "metres": ("T1", "T1.nii.gz has voxels of 0.002 x 0.002 x 0.003 mm: is its unit millimetres?"),
    "micrometres": ("T1", "T1.nii.gz has voxels of 2000 x 2000 x 3000 mm"),
    "singular": ("T1", "T1.nii.gz has an affine that cannot be inverted"),
    "zero": ("T1", "T1.nii.gz has the value 0 everywhere"),
    "constant": ("T1CE", "T1CE.nii.gz has the value 5 everywhere"),
    "off the grid": ("seg", "the grid of label seg.nii.gz is that of none of T1, FLAIR, T1CE"),
    "zero on the grid": ("T1", "T1 is zero on the whole grid of FLAIR: remove it"),
    "elsewhere": ("FLAIR", "FLAIR (required) covers 0.0% of the grid of T1"),
    "unknown label": ("seg", "seg.nii.gz has label values 3 that the template does not know"),
    "half label": ("seg", "seg.nii.gz has label values 0.5 that the template does not know"),
    "no label": ("", "no label: add a file named like seg.nii*"),
    "no required": ("", "no FLAIR (required): add a file named like FLAIR.nii*"),
    "ambiguous": ("", "T1 is ambiguous (T1.nii, T1.nii.gz): leave one of them"),
    "link": ("", "link/T1.nii.gz is a link out of the input folder: copy the files into it"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """One run over a case for each fault, between two good ones."""
    folder = tmp_path_factory.mktemp("bad")
    make_case(folder / "raw", "00-good")
    make_case(folder / "raw", "zz-good")
    for what, (file, _) in BAD.items():
        case = make_case(folder / "raw", what)
        if file:
            spoil(case / f"{file}.nii.gz", what)
    (folder / "raw" / "no label" / "seg.nii.gz").unlink()
    (folder / "raw" / "no required" / "FLAIR.nii.gz").unlink()
    save(folder / "raw" / "ambiguous" / "T1.nii", voxels())
    outside = (folder / "raw" / "link" / "T1.nii.gz").rename(folder / "outside.nii.gz")
    (folder / "raw" / "link" / "T1.nii.gz").symlink_to(outside)
    arguments = ("-i", folder / "raw", "-d", "501", "-n", "Tiny", "-t", write_tiny(folder))
    done = command(*arguments, raw_folder=folder / "nnUNet_raw")
    return folder, folder / "nnUNet_raw" / "Dataset501_Tiny", done


@pytest.mark.parametrize("what", BAD)
def test_each_fault_has_its_line(bad, what):
    folder, dataset, done = bad
    case = what.replace(" ", "-")
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"case {case}: ")]
    assert len(lines) == 1, done.stderr
    assert BAD[what][1] in lines[0]
    assert str(folder) not in lines[0]
    (failure,) = [entry for entry in ledger(dataset, "failures.jsonl") if entry["case"] == case]
    assert lines[0] == f"case {case}: {failure['error']}"


def test_the_others_are_done_and_no_half_case_is_left(bad):
    _, dataset, done = bad
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith(f"Dataset501_Tiny: 2 done, 0 skipped, {len(BAD)} failed\n")
    files = [
        f"{case}_{channel:04d}.nii.gz" for case in ("00-good", "zz-good") for channel in range(3)
    ]
    assert tree(dataset / "imagesTr") == files
    assert tree(dataset / "labelsTr") == ["00-good.nii.gz", "zz-good.nii.gz"]
    assert not (dataset / ".amae_tmp").exists()
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 2
    assert len(done.stderr.splitlines()) == len(BAD)


def test_an_empty_label_is_a_warning(tmp_path):
    make_case(tmp_path / "raw", "a")
    save(tmp_path / "raw" / "a" / "seg.nii.gz", np.zeros(SHAPE, np.uint8))
    done = command(
        *("-i", tmp_path / "raw", "-d", 1, "-t", write_tiny(tmp_path), "-np", 1),
        raw_folder=tmp_path / "out",
    )
    assert done.returncode == 0
    assert done.stderr == "case a: warning: the label is empty\n"


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
    assert f"next: nnUNetv2_predict -i {tmp_path / 'in'}" in done.stdout
    images = [f"a_{channel:04d}.nii.gz" for channel in range(3)]
    records = ["cases.jsonl", "contrasts.json", "failures.jsonl"]
    assert tree(tmp_path / "in") == sorted(images + records)
    assert ContrastRecord.read(tmp_path / "in").names_present("a") == ("T1", "FLAIR")
    assert not load(tmp_path / "in" / "a_0002.nii.gz")[0].any()
    assert command(*arguments).stdout.startswith("in: 0 done, 1 skipped, 0 failed")


def test_dry_run_writes_nothing(tmp_path):
    make_case(tmp_path / "raw", "a", contrasts=("FLAIR", "T1"))
    make_case(tmp_path / "raw", "bb", contrasts=("T1",))
    save(tmp_path / "raw" / "a" / "odd.nii.gz", voxels())
    before = tree(tmp_path)
    done = command("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "--dry_run")
    assert done.returncode == 4
    assert done.stdout.splitlines() == [
        "case  T1  FLAIR  T1CE  label",
        "a     x     x     -      x",
        "bb    x     -     -      x",
        "unmatched: a/odd.nii.gz",
        "case bb: no FLAIR (required): add a file named like FLAIR.nii*, or remove the case",
    ]
    assert tree(tmp_path) == sorted([*before, "tiny.json"])


def test_dry_run_asks_for_labels_only_where_they_are_used(tmp_path):
    make_case(tmp_path / "raw", "a", label=False)
    arguments = ("-i", tmp_path / "raw", "-t", write_tiny(tmp_path), "--dry_run")
    assert "case a: no label" in command(*arguments).stdout
    assert command(*arguments, "-o", tmp_path / "in").returncode == 0
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("-d", 1, "-t", "LGG"), 2, "export nnUNet_raw=/path/to/nnUNet_raw"),
        (("-d", 1), 2, "which template?"),
        (("-t", "LGG"), 2, "where to? give -d NUMBER"),
        (("-t", "LGG", "-d", 1, "-o", "x"), 2, "give one of them"),
        (("-t", "LGG", "-d", 1, "-np", 0), 2, "-np 0: give 1 or more"),
        (("-t", "gone.json", "-d", 1), 2, "one of Infarct, LGG"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, code, line):
    done = command("-i", tmp_path, *arguments)
    assert done.returncode == code
    assert done.stderr.startswith("amae-nnunet-convert: error: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_usable_is_exit_code_3(tmp_path):
    make_case(tmp_path / "raw", "a", contrasts=("T1",))
    arguments = ("-t", write_tiny(tmp_path), "-d", 1)
    done = command("-i", tmp_path / "raw", *arguments, raw_folder=tmp_path / "out")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith(
        "none of the 1 cases could be converted: see the lines above"
    )
    done = command("-i", tmp_path / "gone", *arguments, raw_folder=tmp_path / "out")
    assert done.returncode == 3
    assert "gone is not a folder" in done.stderr


def test_the_template_defaults_to_the_name(tmp_path):
    make_case(tmp_path / "raw", "a")
    done = command("-i", tmp_path / "raw", "-d", 1, "-n", "LGG", raw_folder=tmp_path / "out")
    assert done.stdout.startswith("Dataset001_LGG: 1 done")
