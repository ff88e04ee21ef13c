"""Every input of the table of bad inputs, converted: no wrong volume is ever accepted."""

import errno
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli import bad_dicom, bad_nifti
from cli.bad_dicom import DICOM
from cli.bad_inputs import (
    APART,
    DOUBTED,
    FAILS,
    IGNORED,
    MISSING,
    RIGHT,
    STRICT,
    WARNS,
    as_page,
    kinds,
)
from cli.bad_nifti import HOSTILE, NIFTI, STUCK
from cli.bad_tables import COLUMNS, TABLES, good_row
from cli.script import SCRIPT, command, environment
from convert.dicom.scanner import uid
from convert.studies import ledger, lesion, load, make_case, save, write_template

from amae_nnunet.convert.codes import CODES
from amae_nnunet.convert.identity import Identities

pytestmark = pytest.mark.slow  # dozens of runs of the command

KEY = "0123456789abcdef"
_SAID = re.compile(
    r"\d+ of \d+ cases, \d+ failed|\d+ files? skipped: .*|\d+ cases? renamed: .*|"
    r"warning: one subject .*"
)
_CASES = re.compile(r"case |\d+ cases: ")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-inputs.md"
#: How a tree is converted; in the last two, what is otherwise left out fails the case.
MODES = ("usual", "strict", "required")


class Run:
    """A conversion of all rows of one kind, and what should have come out of it.

    Attributes:
        rows: by name.
        cases: row -> its identifier in the data set.
        truth: row -> channel (or ``label``) -> voxels, None for an absent one.
        channels: in order; affine: of every grid. mode: one of ``MODES``.
    """

    def __init__(self, rows, cases, truth, channels, affine, done, dataset, mode="usual"):
        self.rows, self.cases, self.truth = rows, cases, truth
        self.channels, self.affine, self.mode = channels, affine, mode
        self.done, self.dataset = done, dataset
        self.entries = {entry["case"]: entry for entry in ledger(dataset)}
        failed = ledger(dataset, "failures.jsonl")
        self.failures = {(entry["case"], entry["source"]): entry for entry in failed}
        self.failed = len(failed)

    def check(self, name):
        """One row, whichever way it should have gone."""
        row, code = self.rows[name], ""
        if row.outcome == FAILS or (row.outcome == MISSING and self.mode != "usual"):
            code = row.code
        elif self.mode == "required" and self.truth[name].get(row.contrast) is None:
            code = "E_REQUIRED"
        elif self.mode == "strict":
            code = STRICT.get(row.code, "")
        if code:
            self._check_failed(name, row, code)
        else:
            self._check_accepted(name)

    def check_the_rest(self):
        """How the run ended, and that no file is there that has no line."""
        assert self.done.returncode == 4, self.done.stderr
        other = [line for line in self.done.stderr.splitlines() if not _CASES.match(line)]
        assert all(_SAID.fullmatch(line) for line in other), other
        counts = f"{len(self.entries)} done, 0 skipped, {self.failed} failed"
        assert self.done.stdout.splitlines()[0] == f"{self.dataset.name}: {counts}"
        images = {path.name[:-12] for path in self.dataset.glob("images*/*_0000.nii.gz")}
        assert images == set(self.entries)
        labels = {path.name[:-7] for path in self.dataset.glob("labels*/*.nii.gz")}
        assert labels <= set(self.entries)
        assert not (self.dataset / ".amae_tmp").exists()
        codes = {failure["code"] for failure in self.failures.values()}
        assert codes <= set(CODES) - {"E_UNEXPECTED"}

    def _lines(self, name):
        start = f"case {self.cases[name]}: "
        return [line for line in self.done.stderr.splitlines() if line.startswith(start)]

    def _check_failed(self, name, row, code):
        case = self.cases[name]
        assert case not in self.entries
        ((_, failure),) = [item for item in self.failures.items() if item[0][0] == case]
        assert failure["code"] == code
        assert code != row.code or row.says in failure["error"]
        said = f"{failure['error']} [{code}]"
        many = rf"^\d+ cases: {re.escape(said)}, first c?\w+, "
        lines = sorted(set(self._lines(name)))
        assert lines == [f"case {case}: {said}"] or (
            not lines and re.search(many, self.done.stderr, re.MULTILINE)
        )

    def _check_accepted(self, name):
        case, row = self.cases[name], self.rows[name]
        assert case in self.entries, self._lines(name)
        entry, truth = self.entries[case], self.truth[name]
        present = "".join("10"[truth.get(channel) is None] for channel in self.channels)
        assert entry["present"] == present
        for index, channel in enumerate(self.channels):
            self._check_voxels(f"images*/{case}_{index:04d}", truth.get(channel))
        if truth.get("label") is not None:
            self._check_voxels(f"labels*/{case}", truth["label"])
        doubts = [text for text in entry["warnings"] if not text.startswith("W_UNVERIFIED")]
        wanted = {MISSING: ["W_DROPPED"], WARNS: [row.code], DOUBTED: [row.code]}.get(
            row.outcome, []
        )
        assert [text.split(":")[0] for text in doubts] == [*wanted, *filter(None, [row.also])]
        if row.outcome == APART:
            self._check_failed(f"{name}/t1", row, row.code)
        else:
            assert row.says in "".join(doubts)
        if row.outcome == MISSING:
            start = f"W_DROPPED: {row.contrast} is dropped ({row.code}): "
            assert doubts[0].startswith(start)
            facts = entry["contrasts"].get(row.contrast)
            assert facts is None or (facts["status"], facts["code"]) == ("dropped", row.code)
        assert self._lines(name) == [f"case {case}: warning: {text}" for text in entry["warnings"]]

    def _check_voxels(self, pattern, wanted):
        (path,) = self.dataset.glob(f"{pattern}.nii.gz")
        data, affine = load(path)
        assert np.allclose(affine, self.affine, atol=1e-4)
        assert np.array_equal(data, np.zeros_like(data) if wanted is None else wanted)


def make(row, folder, good):
    """Make the input of a row; the voxels that are right for it."""
    changed = row.make(folder) or {}
    gone = {row.contrast: None} if row.outcome in (MISSING, IGNORED, DOUBTED, APART) else {}
    return {**good, **gone, **changed}


# --- folders of NIfTI files


@pytest.fixture(scope="module")
def nifti_tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("nifti")
    good = {**bad_nifti.GOOD, "label": lesion()}
    truth = {name: make(row, make_case(root / "raw", name), good) for name, row in NIFTI.items()}
    return root, truth


@pytest.fixture(scope="module", params=MODES)
def nifti_run(request, nifti_tree):
    root, truth = nifti_tree
    mode = request.param
    required = list(bad_nifti.GOOD) if mode == "required" else ["FLAIR"]
    template = write_template(root, required=required)
    done = command(
        *("-i", root / "raw", "-t", template, "-d", 1, "--no_pictures"),
        *(["--strict"] if mode == "strict" else []),
        raw_folder=root / mode,
    )
    cases = {**dict(zip(NIFTI, NIFTI, strict=True)), "hostile_name": "touch-x----.."}
    dataset = root / mode / "Dataset001_Tiny"
    return Run(NIFTI, cases, truth, list(bad_nifti.GOOD), bad_nifti.AFFINE, done, dataset, mode)


@pytest.mark.parametrize("name", NIFTI)
def test_a_nifti_file(nifti_run, name):
    nifti_run.check(name)


def test_the_nifti_run_as_a_whole(nifti_tree, nifti_run):
    root, _ = nifti_tree
    nifti_run.check_the_rest()
    assert nifti_run.entries["CLASH"]["present"] == "111"
    assert len(nifti_run.entries) + len(nifti_run.failures) == len(NIFTI) + 1
    assert str(root) not in nifti_run.done.stderr
    assert (root / "raw" / HOSTILE).is_dir()


# --- tables


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("table")
    make_case(root, "good")
    save(root / "good" / "four.nii.gz", np.stack([bad_nifti.GOOD[n] for n in ("T1", "T1CE")], -1))
    good = {**bad_nifti.GOOD, "label": lesion()}
    lines, truth, cases = [",".join(COLUMNS)], {}, {}
    for name, row in TABLES.items():
        cells = good_row(name)
        truth[name] = make(row, cells, good)
        row_name = f"row-{len(lines) + 1}" if "/" in cells["case"] else cells["case"]
        cases[name] = row_name.replace(" ", "-")
        for line in (cells, cells.get("twin", {})):
            if line:
                lines.append(",".join(line.get(column, "") for column in (*COLUMNS, "beyond")))
    (root / "cases.csv").write_text("\n".join(lines))
    arguments = ("-i", root / "cases.csv", "-t", write_template(root), "-d", 1, "--no_pictures")
    done = command(*arguments, raw_folder=root / "out")
    dataset = root / "out" / "Dataset001_Tiny"
    return Run(TABLES, cases, truth, list(bad_nifti.GOOD), bad_nifti.AFFINE, done, dataset)


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_a_table(table_run, name):
    table_run.check(name)


def test_the_table_run_as_a_whole(table_run):
    table_run.check_the_rest()
    assert len(table_run.entries) + len(table_run.failures) == len(TABLES)
    assert "1 case renamed: 'name_of_many signs' -> name_of_many-signs" in table_run.done.stderr
    folder = table_run.dataset.parents[1]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("cases.csv", "good", "out", "tiny.json"),
    ]


# --- DICOM


@pytest.fixture(scope="module")
def dicom_tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("dicom")
    truth = {}
    for name, row in DICOM.items():
        study = root / "raw" / name
        bad_dicom.t2(study)
        truth[name] = make(row, study, bad_dicom.GOOD)
    (root / "key").write_text(KEY)
    return root, truth


@pytest.fixture(scope="module", params=MODES)
def dicom_run(request, dicom_tree):
    root, truth = dicom_tree
    mode = request.param
    required = ["T1", "T2"] if mode == "required" else ["T2"]
    template = root / "template.json"
    template.write_text(json.dumps({**bad_dicom.TEMPLATE, "required": required}))
    done = command(
        *("-i", root / "raw", "-t", template, "-d", 1, "--no_pictures", "--split", "test"),
        *("--labels", root / "labels", "--key", root / "key"),
        *(["--strict"] if mode == "strict" else []),
        raw_folder=root / mode,
    )
    ids = Identities(KEY.encode())
    cases = {name: ids.case(uid("study", name)) for name in DICOM}
    cases["no_study_uid"] = ids.case("")
    cases["no_file_of_a_study"] = ids.case("folder no_file_of_a_study")
    cases["no_file_of_a_series/t1"] = ids.case("folder no_file_of_a_series/t1")
    channels = list(bad_dicom.TEMPLATE["contrasts"])
    dataset = root / mode / "Dataset001_Tiny"
    return Run(DICOM, cases, truth, channels, bad_dicom.AFFINE, done, dataset, mode)


@pytest.mark.parametrize("name", DICOM)
def test_a_dicom_study(dicom_run, name):
    dicom_run.check(name)


def test_the_dicom_run_as_a_whole(dicom_tree, dicom_run):
    root, _ = dicom_tree
    dicom_run.check_the_rest()
    apart = len(DICOM.of(APART))
    assert len(dicom_run.entries) + len(dicom_run.failures) == len(DICOM) + apart
    assert not list(root.rglob("hostile*[0-9]"))
    known = {"raw", "labels", "key", "template.json", "outside.dcm", *MODES}
    assert {path.name for path in root.iterdir()} <= known


# --- processes that hang or die


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_process_that_hangs_or_dies_costs_one_case(tmp_path):
    good = {**bad_nifti.GOOD, "label": lesion()}
    make_case(tmp_path / "raw", "a")
    make_case(tmp_path / "raw", "z")
    truth = {
        name: make(row, make_case(tmp_path / "raw", name), good) for name, row in STUCK.items()
    }
    arguments = ("-i", tmp_path / "raw", "-t", write_template(tmp_path), "-d", "1")
    script = subprocess.Popen(
        [SCRIPT, *arguments, "--no_pictures", "--timeout", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path / "out"),
    )
    try:
        kill_reader(tmp_path / "raw" / "crash" / "T1.nii.gz")
        out, err = script.communicate(timeout=600)
    finally:
        script.kill()
    done = subprocess.CompletedProcess(SCRIPT, script.returncode, out, err)
    cases = dict(zip(STUCK, STUCK, strict=True))
    dataset = tmp_path / "out" / "Dataset001_Tiny"
    run = Run(STUCK, cases, truth, list(bad_nifti.GOOD), bad_nifti.AFFINE, done, dataset)
    for name in STUCK:
        run.check(name)
    run.check_the_rest()
    assert set(run.entries) == {"a", "z"}


def kill_reader(pipe):
    """Wait for a process that reads a pipe, and kill it."""
    end = time.monotonic() + 60
    writing = -1
    while writing < 0 and time.monotonic() < end:
        try:
            writing = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:  # which says that nobody reads yet
                raise
            time.sleep(0.05)
    readers = set()
    while not readers:
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                if os.readlink(link) == str(pipe):
                    readers.add(int(link.parts[2]))
            except OSError:
                continue  # it has ended meanwhile
        readers.discard(os.getpid())
    for process in readers:
        os.kill(process, signal.SIGKILL)
    os.close(writing)


# --- the page for users


def test_the_page_for_users_is_this_table():
    assert PAGE.read_text(encoding="utf-8") == as_page(kinds())


def test_the_table_is_complete_and_true():
    rows = [row for table in kinds().values() for row in table.values()]
    assert len(rows) >= 100
    assert {row.outcome for row in rows} == {FAILS, MISSING, IGNORED, WARNS, RIGHT, DOUBTED, APART}
    for row in rows:
        assert (
            bool(row.code)
            == bool(row.says)
            == (row.outcome in (FAILS, MISSING, WARNS, DOUBTED, APART))
        )
        assert row.code in ("", *CODES)
        assert "|" not in row.text
