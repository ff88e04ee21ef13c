"""The doctor, through its console script, on sound and on broken installations."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from amae_nnunet._startup import ext_trainer_folder
from amae_nnunet.cli import doctor

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

SCRIPT = Path(sys.executable).parent / "amae-nnunet-doctor"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def environment(tmp_path, **changes):
    """The environment of a sound installation, changed; None takes a variable out."""
    env = dict(os.environ)
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        env[name] = str(tmp_path / name)
    env.update({key: value for key, value in changes.items() if value is not None})
    return {key: value for key, value in env.items() if changes.get(key, "") is not None}


def doctor_says(env, cwd, *arguments):
    return subprocess.run(
        [SCRIPT, *arguments], env=env, cwd=cwd, capture_output=True, text=True, timeout=900
    )


def test_ext_trainer_prints_the_folder_and_nothing_else(tmp_path):
    answer = doctor_says(environment(tmp_path), tmp_path, "--ext_trainer")
    assert (answer.returncode, answer.stdout) == (0, ext_trainer_folder() + "\n")
    assert answer.stderr == ""


@pytest.mark.parametrize("argument", ["--ext_trainer", "--help"])
def test_answers_without_importing_torch_or_nnunet_or_numpy(tmp_path, argument):
    env = environment(tmp_path, PYTHONPROFILEIMPORTTIME="1")
    answer = doctor_says(env, tmp_path, argument)
    assert answer.returncode == 0
    imported = set(re.findall(r"\| +(\w+)$", answer.stderr, re.MULTILINE))
    assert "argparse" in imported  # the list of imports was read
    assert not imported & {"torch", "nnunetv2", "numpy"}


@pytest.mark.slow
def test_says_ok_on_every_line_of_a_sound_installation(tmp_path):
    answer = doctor_says(environment(tmp_path), tmp_path)
    assert answer.returncode == 0, answer.stdout
    subjects = re.findall(r"^ok    (.+?): ", answer.stdout, re.MULTILINE)
    assert subjects == [
        *("python", "amae-nnunet", "torch", "nnunetv2", "DICOM"),
        *FOLDERS,
        *(["shared memory"] if doctor.check_shared_memory().ok else []),
        "torchvision",
        "stock nnU-Net finds AMAETrainer",
    ]
    assert re.search(r"^info  GPU: \S", answer.stdout, re.MULTILINE)
    assert answer.stderr == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_that_it_is_at_work(terminal, monkeypatch, capsys):
    looks = [lambda: doctor.Check("python", "3"), lambda: doctor.Check("disk", "full", ok=False)]
    shown = io.StringIO()
    shown.isatty = lambda: terminal
    monkeypatch.setattr(doctor, "_checks", lambda: looks)
    monkeypatch.setattr(sys, "stderr", shown)
    assert doctor.main([]) == 3
    assert ("looking" in shown.getvalue()) == terminal
    printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["ok    python", "FAIL  disk"]


@pytest.mark.slow
def test_names_each_failure_with_its_fix_and_exits_with_3(tmp_path):
    env = environment(
        tmp_path,
        nnUNet_raw=None,
        nnUNet_results=str(tmp_path / "missing"),
        nnUNet_extTrainer=None,
        AMAE_NNUNET_NO_STARTUP="1",
    )
    # What lies in the working directory is not what nnU-Net's own commands would import.
    (tmp_path / "nnunetv2.py").write_text("raise RuntimeError('a file of the user')")
    answer = doctor_says(env, tmp_path)
    assert answer.returncode == 3
    failures = [line for line in answer.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failures) == 3
    assert failures[0].endswith("nnUNet_raw: not set. Fix: export nnUNet_raw=/path/to/nnUNet_raw")
    assert failures[1].endswith(f"Fix: mkdir -p {tmp_path / 'missing'}")
    assert "Could not find requested nnunet trainer AMAETrainer" in failures[2]
    assert failures[2].endswith("Fix: export nnUNet_extTrainer=$(amae-nnunet-doctor --ext_trainer)")


def test_a_folder_that_cannot_be_written_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert doctor.check_folder("nnUNet_raw").ok

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = doctor.check_folder("nnUNet_raw")
    assert not check.ok
    assert str(tmp_path) in check.found
    assert "Permission denied" in check.found
    assert check.fix


def test_a_full_disk_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setattr(doctor, "_ROOM", 1e18)
    check = doctor.check_folder("nnUNet_raw")
    assert not check.ok
    assert re.fullmatch(rf"{tmp_path}, [\d.]+ GB free", check.found)
    assert check.fix == "make room, or point nnUNet_raw elsewhere"


def test_too_little_shared_memory_fails_where_processes_read(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setattr(doctor, "_SHARED_ROOM", 1e18)
    check = doctor.check_shared_memory()
    assert not check.ok
    assert "for the processes that read batches (1)" in check.found
    assert "--shm-size" in check.fix
    monkeypatch.setattr(doctor, "_SHARED_ROOM", 0)
    assert doctor.check_shared_memory().ok
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert doctor.check_shared_memory().ok is None


def test_a_torchvision_of_another_torch_fails(monkeypatch):
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    monkeypatch.setattr(doctor, "_USE_TORCHVISION", broken)
    check = doctor.check_torchvision()
    assert not check.ok
    assert "operator torchvision::nms does not exist" in check.found
    assert check.fix.startswith("pip install --upgrade torch torchvision")


def test_a_gpu_that_torch_cannot_use_fails(monkeypatch):
    broken = "raise RuntimeError('CUDA error: no kernel image is available')"
    monkeypatch.setattr(doctor, "_USE_GPUS", broken)
    check = doctor.check_gpus()
    assert (check.ok, "no kernel image" in check.found) == (False, True)
    assert check.fix


def test_a_command_that_fails_ends_the_trial_and_shows_where(monkeypatch, tmp_path):
    from amae_nnunet.cli import trial

    monkeypatch.setattr(trial.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(trial, "DATASET", "1000")
    first, *more = trial.trial("cpu")
    assert not first.ok
    assert not more
    assert first.subject == "convert"
    assert "1000" in first.found
    assert str(tmp_path / "logs") in first.fix


@pytest.mark.slow
def test_two_tiny_cases_are_trained_and_predicted(tmp_path):
    env = environment(tmp_path, TMPDIR=str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    command = [SCRIPT, "--train", "-device", "cpu"]
    answer = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert answer.returncode == 0, answer.stdout
    done = re.findall(r"^ok    (.+?): two tiny cases on cpu, \d+ s$", answer.stdout, re.M)
    steps = ["convert", "plan and preprocess", "configure", "pre-train", "train", "predict"]
    assert done == steps
    assert not list((tmp_path / "tmp").glob("amae_doctor_*"))
    assert [list((tmp_path / name).iterdir()) for name in FOLDERS] == [[]] * 3


@pytest.mark.parametrize("found", ["2.7.9", "3.0.0", "1.9"])
def test_a_version_out_of_bounds_fails_with_the_command_that_mends_it(monkeypatch, found):
    monkeypatch.setattr(doctor, "version", lambda package: found)
    check = doctor.check_version("nnunetv2")
    assert not check.ok
    assert check.fix == 'pip install "nnunetv2>=2.8,<3"'


@pytest.mark.parametrize("found", ["2.8", "2.8.1", "2.15.0+cu132", "2.10rc1"])
def test_a_version_within_bounds_passes(monkeypatch, found):
    monkeypatch.setattr(doctor, "version", lambda package: found)
    assert doctor.check_version("nnunetv2").ok


def test_a_package_that_is_not_installed_fails(monkeypatch):
    def missing(package):
        raise doctor.PackageNotFoundError(package)

    monkeypatch.setattr(doctor, "version", missing)
    check = doctor.check_version("torch")
    assert (check.ok, check.found) == (False, "not installed")


def test_what_only_dicom_needs_may_be_absent(monkeypatch):
    def lacks_dcm2niix(package):
        if package == "dcm2niix":
            raise doctor.PackageNotFoundError(package)
        return "3.0.1"

    monkeypatch.setattr(doctor, "version", lacks_dcm2niix)
    assert str(doctor.check_dicom()) == (
        "info  DICOM: no dcm2niix, which only DICOM needs. Fix: pip install 'amae-nnunet[dicom]'"
    )
    monkeypatch.setattr(doctor, "version", lambda package: "3.0.1")
    assert str(doctor.check_dicom()) == "ok    DICOM: pydicom 3.0.1, dcm2niix 3.0.1"


def test_the_bounds_are_those_that_pip_reads():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    declared = pyproject["project"]["dependencies"]
    for package in set(doctor.BOUNDS) - {"amae-nnunet"}:
        assert doctor.check_version(package).ok
        lowest, too_new = doctor.BOUNDS[package]
        wanted = f"{package}>={'.'.join(map(str, lowest))}"
        wanted += f",<{'.'.join(map(str, too_new))}" if too_new else ""
        assert wanted in declared
