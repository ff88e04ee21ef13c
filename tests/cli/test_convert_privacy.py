"""What a header, a folder or a file says of a person: nothing of it leaves the input.

Every text tag, private ones as well, and every UID, date and time of a DICOM tree, its names and
NIfTI headers carry a mark that is looked for in every byte of every output and of what is printed.
Only the series sheet and its index, which are the user's own, may hold it.
"""

import gzip
import json
import re
import stat
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from cli.bad_dicom import AFFINE, SHAPE
from cli.script import command
from convert.dicom.scanner import ADC, TRACE, Frames, cut, write_enhanced, write_series
from convert.studies import ledger, lesion, make_case, save, voxels, write_template

pytestmark = pytest.mark.slow  # dozens of runs of the command

MARK = "QXZMARK"
ROOT = "1.2.826.0.1.31415926535"  # of all UIDs
DATE, TIME = "19771107", "235147.918273"
SECRETS = (MARK.lower(), "31415926535", DATE, "235147.918")
KEYS = ("0123456789abcdef", "fedcba9876543210")
DICOM_TEMPLATE = {
    "name": "Tiny",
    "contrasts": {name: [f"{name}.nii*"] for name in ("T1CE", "T2", "TRACE", "ADC")},
    "required": ["T2"],
    "label": {"patterns": ["seg.nii*"], "labels": {"background": 0, "lesion": 1}},
}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
TIMES = ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "PatientBirthTime")


def secrets_in(content):
    """The marks that some bytes hold, whatever the case and the encoding."""
    content = content.lower()
    return [
        secret
        for secret in SECRETS
        for encoding in ("ascii", "utf-16-le", "utf-16-be")
        if secret.encode(encoding) in content
    ]


def files_with_secrets(folder):
    """Files below a folder whose names or bytes, unpacked, hold a mark."""
    found = []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        if secrets_in(content + str(path.relative_to(folder)).encode()):
            found.append(path)
    return found


def check_quiet(done):
    assert "Traceback" not in done.stderr
    assert not secrets_in((done.stdout + done.stderr).encode()), done.stdout + done.stderr


# --- DICOM


def series(folder, kind, number, data=None, **options):
    """A series of a contrast whose text tags all hold the mark."""
    names = {"T2": "t2_tse_tra", "T1CE": "t1_se_tra post", "TRACE": "trace", "ADC": "adc"}
    kinds = {
        "T2": {"echo_time": 90.0},
        "T1CE": {"echo_time": 9.0, "RepetitionTime": 500.0},
        "TRACE": {"image_type": TRACE, "b": 1000, "directionality": "isotropic"},
        "ADC": {"image_type": ADC},
    }
    usual = {"patient": f"{MARK}^Anna", "study": folder.name, "canary": MARK}
    usual |= {"description": f"{names[kind]} {MARK}", "BodyPartExamined": MARK, **kinds[kind]}
    data = voxels(number, SHAPE) if data is None else data
    names = f"{MARK}-{number}-{{}}"
    return write_series(folder, data, AFFINE, number=number, names=names, **usual | options)


def mark(path):
    """Put the marks into UIDs, dates, times and private tags."""
    header = pydicom.dcmread(path)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName = f"{MARK}ë^Ännä"
    for keyword in UIDS:
        header[keyword].value = f"{ROOT}.{header[keyword].value.rsplit('.', 1)[-1][:30]}"
    for keyword, value in [*((name, DATE) for name in DATES), *((name, TIME) for name in TIMES)]:
        setattr(header, keyword, value)
    block = header.private_block(0x0011, f"{MARK} PRIVATE", create=True)
    block.add_new(0x01, "LO", MARK)
    block.add_new(0x02, "OB", MARK.encode())
    header.save_as(path)


def make_studies(raw):
    """Good studies, and such that end in all kinds of errors and warnings."""
    for number, kind in enumerate(("T2", "T1CE", "TRACE", "ADC"), 1):
        series(raw / MARK / "good", kind, number)
    for name in ("gap", "zero", "tie", "frames", "patients", "label", "words", "no_t2", "cut"):
        if name != "no_t2":
            series(raw / name, "T2", 1)
    series(raw / "gap", "T1CE", 2)[5].unlink()
    series(raw / "zero", "T1CE", 2, np.zeros(SHAPE, np.int16))
    series(raw / "tie", "T1CE", 2)
    series(raw / "tie", "T1CE", 3)
    series(raw / "patients", "T1CE", 2, patient=f"{MARK}^Berta")
    series(raw / "no_t2", "T1CE", 2)
    words = {"manufacturer": MARK, "image_type": f"ORIGINAL\\PRIMARY\\M\\{MARK}"}
    series(raw / "words", "T1CE", 2, **words, ScanOptions=MARK)
    echoes = [Frames(voxels(1, SHAPE), echo_time=9.0), Frames(voxels(2, SHAPE), echo_time=80.0)]
    options = {"patient": f"{MARK}^Anna", "study": "frames", "description": f"t1 post {MARK}"}
    options |= {"RepetitionTime": 500.0, "slice_first": True, "canary": MARK, "number": 2}
    write_enhanced(raw / "frames" / f"{MARK}.dcm", echoes, AFFINE, **options)


def spoil_files(raw):
    """What is left over between the studies, and a damaged file of one."""
    cut(sorted((raw / "cut").iterdir())[3], -100)
    (raw / f"{MARK}.txt").write_text(MARK)
    (raw / f"{MARK}.zip").write_bytes(b"PK\3\4" + MARK.encode())
    (raw / f"{MARK} link").symlink_to(f"{MARK} nowhere")
    with zipfile.ZipFile(raw / "all.zip", "w") as archive:
        for path in (raw / MARK / "good").iterdir():
            archive.writestr(f"{MARK}/{path.name}", path.read_bytes())
            path.unlink()
        archive.writestr(f"{MARK}/broken.dcm", bytes(128) + b"DICM" + MARK.encode())
    for path in (raw / "words").iterdir():  # no date at all, and no encoding that is known
        content = path.read_bytes().replace(b"ISO_IR 192", f"{MARK}192".encode())
        path.write_bytes(content.replace(DATE.encode(), f"{MARK}X".encode()))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("dicom")
    make_studies(root / "raw")
    for path in [path for path in (root / "raw").rglob("*") if path.is_file()]:
        mark(path)
    study = pydicom.dcmread(next((root / "raw" / "label").iterdir())).StudyInstanceUID
    label = np.ones(SHAPE, np.uint8)
    save(root / "labels" / f"{study}.nii.gz", label, AFFINE + np.eye(4)[[3, 3, 3, 0]] * 0.9)
    spoil_files(root / "raw")
    (root / "template.json").write_text(json.dumps(DICOM_TEMPLATE))
    for index, key in enumerate(KEYS):
        (root / f"key{index}").write_text(key)
    return root


def convert(root, *arguments, key=0):
    return command(
        *("-i", root / "raw", "-t", root / "template.json", "--key", root / f"key{key}"),
        *("--labels", root / "labels", *arguments),
        raw_folder=root / "nnUNet_raw",
    )


@pytest.fixture(scope="module")
def dataset(studies):
    done = convert(studies, "-d", 1, "--split", "test", "-v")
    return studies / "nnUNet_raw" / "Dataset001_Tiny", done


@pytest.fixture(scope="module")
def sheet(studies):
    path = studies / "private" / "series.tsv"
    path.parent.mkdir()
    return path, convert(studies, "--dry_run", "--split", "test", "--series", path)


def test_the_marks_are_there_to_be_found(studies, sheet):
    path, _ = sheet
    file = sorted((studies / "raw" / "gap").iterdir())[0]
    assert set(secrets_in(file.read_bytes())) == set(SECRETS)
    assert secrets_in(MARK.encode("utf-16")) == [MARK.lower()]
    header = pydicom.dcmread(file)
    marked = [element for element in header.iterall() if secrets_in(str(element.value).encode())]
    assert len(marked) > 55
    assert secrets_in(path.read_bytes())


def test_a_data_set_of_dicom_studies_holds_none(dataset):
    folder, done = dataset
    check_quiet(done)
    assert files_with_secrets(folder) == []
    codes = {line["code"] for line in ledger(folder, "failures.jsonl")}
    assert codes == {"E_REQUIRED", "E_AMBIGUOUS", "E_DAMAGED", "E_LABEL_GRID"}
    entries = ledger(folder)
    found = {text.split(":")[0] for entry in entries for text in entry["warnings"]}
    assert {"W_DROPPED", "W_AMBIGUOUS"} <= found
    assert [entry["present"] for entry in entries].count("1111") == 1
    dropped = {facts.get("code") for entry in entries for facts in entry["contrasts"].values()}
    assert {"E_EMPTY", "E_NOT_A_VOLUME"} <= dropped
    for entry in entries:
        assert re.fullmatch("c[0-9a-f]{12}", entry["case"])
        assert re.fullmatch("s[0-9a-f]{12}", entry["subject"])
        assert entry["source"] == entry["case"]
    assert (folder / "report.html").stat().st_size > 1000
    assert {path.stem for path in (folder / "report").iterdir()} == {e["case"] for e in entries}


def test_inference_inputs_hold_none_and_identifiers_hang_on_the_key(studies, dataset):
    ids = [{(e["case"], e["subject"]) for e in ledger(dataset[0])}]
    for key in range(2):
        done = convert(studies, "-o", studies / f"inputs{key}", key=key)
        check_quiet(done)
        assert files_with_secrets(studies / f"inputs{key}") == []
        ids.append({(e["case"], e["subject"]) for e in ledger(studies / f"inputs{key}")})
    first, same, other = ids
    assert first < same  # in which the label that fails a case is not used
    assert len(same) == len(other)
    for place in (0, 1):
        assert not {pair[place] for pair in same} & {pair[place] for pair in other}


def test_a_sheet_is_the_users_own_and_what_it_makes_holds_none(studies, dataset, sheet):
    path, done = sheet
    check_quiet(done)
    assert sorted(file.name for file in path.parent.iterdir()) == ["series.index.json", path.name]
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    arguments = ("-d", 2, "--split", "test", "--strict", "--series", path)
    check_quiet(done := convert(studies, *arguments))
    assert done.returncode == 4
    folder = studies / "nnUNet_raw" / "Dataset002_Tiny"
    assert files_with_secrets(folder) == []
    assert {e["case"] for e in ledger(folder)} < {e["case"] for e in ledger(dataset[0])}


# --- NIfTI


def with_text(path):
    """Put the mark into every text field of a NIfTI header, and into an extension."""
    image = nib.load(path)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = MARK
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, MARK.encode()))
    nib.save(image, path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("nifti")
    names = ("good", "damaged", "two", "label", "no_label", "link", "no_flair", "far", "Good")
    for name in names:
        case = make_case(root / "raw", f"{MARK} {name}")
        for path in list(case.iterdir()):
            with_text(path)
            path.rename(path.with_name(f"{MARK}_{path.name}"))
    file = f"{MARK}_T1.nii.gz"
    cut(root / "raw" / f"{MARK} damaged" / file, -300)
    save(root / "raw" / f"{MARK} two" / f"{MARK}2_T1.nii.gz", voxels())
    save(root / "raw" / f"{MARK} label" / f"{MARK}_seg.nii.gz", lesion() * 7)
    (root / "raw" / f"{MARK} no_label" / f"{MARK}_seg.nii.gz").unlink()
    (root / "raw" / f"{MARK} no_flair" / f"{MARK}_FLAIR.nii.gz").unlink()
    (root / "raw" / f"{MARK} link" / f"{MARK} link.nii.gz").symlink_to(f"{MARK} nowhere")
    save(root / "raw" / f"{MARK} far" / file, voxels(), np.diag([2.0, 2, 2, 1]))
    save(root / "raw" / f"{MARK} good" / f"{MARK}_else.nii.gz", voxels())
    contrasts = {name: [f"*_{name}.nii*"] for name in ("T1", "FLAIR", "T1CE")}
    label = {"patterns": ["*_seg.nii*"], "labels": {"background": 0, "lesion": 1}}
    write_template(root, contrasts=contrasts, label=label)
    (root / "key").write_text(KEYS[0])
    return root


def hashed(root, *arguments):
    common = ("-i", root / "raw", "-t", root / "tiny.json", "--ids", "hash", "--key", root / "key")
    return command(*common, *arguments, raw_folder=root / "nnUNet_raw")


def test_hashed_names_of_folders_leave_no_name_behind(folders):
    check_quiet(done := hashed(folders, "-d", 1, "-v"))
    assert done.returncode == 4
    dataset = folders / "nnUNet_raw" / "Dataset001_Tiny"
    assert files_with_secrets(dataset) == []
    found = {line["code"] for line in ledger(dataset, "failures.jsonl")}
    wanted = "E_AMBIGUOUS E_LABEL_VALUES E_NO_LABEL E_LINK E_REQUIRED E_NAME"
    assert found == set(wanted.split())
    first, *others = ledger(dataset)
    assert len(others) == 2
    assert re.fullmatch("c[0-9a-f]{12}", first["case"])
    assert re.fullmatch("s[0-9a-f]{12}", first["subject"])


def test_hashed_names_are_the_same_through_a_table(folders, tmp_path):
    sheet = tmp_path / "series.tsv"
    check_quiet(hashed(folders, "--dry_run", "--series", sheet))
    assert secrets_in(sheet.read_bytes())
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    check_quiet(hashed(folders, "-o", tmp_path / "a"))
    check_quiet(hashed(folders, "-o", tmp_path / "b", "--series", sheet))
    assert files_with_secrets(tmp_path / "b") == []
    one, other = ({e["case"] for e in ledger(tmp_path / name)} for name in "ab")
    assert one == other != set()


def test_names_that_are_kept_bring_no_header_along(folders, tmp_path):
    """Without hashes, folders' names are kept; what lies in the headers is not."""
    case = make_case(tmp_path / "raw", "a")
    for path in case.iterdir():
        with_text(path)
    arguments = ("-i", tmp_path / "raw", "-t", write_template(tmp_path), "-d", 1)
    check_quiet(done := command(*arguments, raw_folder=tmp_path / "out"))
    assert done.returncode == 0
    assert files_with_secrets(tmp_path / "out") == []


def test_a_bids_data_set(tmp_path):
    folder = tmp_path / "raw" / f"sub-{MARK}" / "dwi"
    save(folder / f"sub-{MARK}_dwi.nii.gz", np.stack([voxels(0), voxels(1)], -1))
    (folder / f"sub-{MARK}_dwi.bval").write_text("0 2500")
    contrasts = {"TRACE": ["x.nii"], "ADC": ["y.nii"]}
    template = write_template(tmp_path, contrasts=contrasts, required=["TRACE"])
    arguments = ("-i", tmp_path / "raw", "-t", template, "--ids", "hash", "-o", tmp_path / "in")
    (tmp_path / "key").write_text(KEYS[0])
    check_quiet(done := command(*arguments, "--key", tmp_path / "key", "--layout", "bids"))
    assert "W_B_VALUE" in done.stderr
    assert files_with_secrets(tmp_path / "in") == []
