"""``amae-nnunet-phantom`` in this process and in fresh ones, and what the converter makes of it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.script import command

from amae_nnunet.cli import phantom
from amae_nnunet.phantom.dataset import SIZES

TINY = "--size tiny --contrasts ADC TRACE T2 -np 1"


def run(words):
    return phantom.main(words.split())


def test_a_folder_of_it_converts_at_once(tmp_path, capsys):
    assert run(f"-o {tmp_path / 'train'} --num_cases 2 {TINY} --availability T2=0.5") == 0
    said = capsys.readouterr().out
    words = said.removeprefix("next: amae-nnunet-convert ").split()
    assert words == f"-i {tmp_path / 'train'} -t Infarct -d 501 -n Phantom".split()
    assert run(f"-o {tmp_path / 'more'} --num_cases 1 --split unlabeled {TINY}") == 0
    assert capsys.readouterr().out.endswith(" --split unlabeled\n")
    (more,) = (tmp_path / "more").iterdir()
    assert more.name == "phantom_200000"
    assert not (more / "seg.nii.gz").exists()
    answer = command(*words, "-np", 1, raw_folder=tmp_path / "raw")
    assert answer.returncode == 0, answer.stderr
    raw = tmp_path / "raw" / "Dataset501_Phantom"
    assert len(list((raw / "labelsTr").iterdir())) == 2
    cases = json.loads((raw / "contrasts.json").read_text())["cases"]
    for name, case in cases.items():
        facts = json.loads((tmp_path / "train" / name / "study.json").read_text())
        present = [contrast in facts["contrasts"] for contrast in ("ADC", "TRACE", "T2")]
        assert case["present"] == "".join("01"[flag] for flag in present) + "0000"


def test_what_another_label_wants_is_said(tmp_path, capsys):
    assert run(f"-o {tmp_path} --num_cases 1 {TINY} --label deep_grey") == 0
    said = capsys.readouterr().out
    assert said.startswith("name the label deep_grey in a copy of the template Infarct,")
    assert said.endswith(f" -i {tmp_path} -t Phantom.json -d 501 -n Phantom\n")


def test_the_next_command_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "my studies"
    words = ["--num_cases", "1", "--size", "tiny", "--contrasts", "T1", "-np", "1"]
    assert phantom.main(["-o", str(folder), *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("with only what is there as required, then")
    assert shlex.split(said[1])[2:6] == ["-i", str(folder), "-t", "Phantom.json"]


@pytest.mark.slow
def test_a_killed_process_ends_it_in_one_line_and_what_is_written_stays(tmp_path):
    words = ["-o", tmp_path / "out", "--num_cases", "6", "--size", "medium", "-np", "2"]
    tool = subprocess.Popen(
        [Path(sys.executable).with_name("amae-nnunet-phantom"), *words],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(tmp_path.glob("out/phantom_*/study.json")):
        assert time.monotonic() < end
        time.sleep(0.01)
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == tool.pid and b"spawn_main" in (place / "cmdline").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:
            continue
    said = tool.stderr.read()
    tool.stderr.close()
    assert tool.wait() == 1
    assert "its process died, perhaps out of memory: run again with fewer processes (-np)" in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("out/phantom_*/study.json"))


def test_it_goes_on_where_it_stopped_and_refuses_other_settings(tmp_path, capsys):
    assert run(f"-o {tmp_path} --num_cases 1 {TINY}") == 0
    before = (tmp_path / "phantom_000" / "study.json").stat().st_mtime_ns
    assert run(f"-o {tmp_path} --num_cases 2 {TINY}") == 0
    assert (tmp_path / "phantom_000" / "study.json").stat().st_mtime_ns == before
    assert run(f"-o {tmp_path} --num_cases 2 {TINY} --seed 1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "phantom_000 was not made with these settings: choose another folder" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num_cases 0", "num_cases is 0"),
        ("--num_cases 1 --contrasts T9", "T9"),
        ("--num_cases 1 --sites Q", "name at least one of A B C D E"),
        ("--num_cases 1 --availability T2", "write NAME=P"),
        ("--num_cases 1 --availability T2=2", "availability of T2 is 2"),
        ("--num_cases 1 --availability T9=1", "T9"),
        ("--num_cases 1 --contrasts T1 --availability FLAIR=7", "availability of FLAIR is 7"),
        ("--num_cases 100001", "--split train has 100000"),
        ("--num_cases 1 --motion -1", "motion is -1"),
        ("--num_cases 1 --label brain", "label brain: name one of air"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, capsys, words, message):
    assert run(f"-o {tmp_path / 'out'} {words}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_help_names_the_sizes_and_imports_nothing_heavy(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "{" + ",".join(SIZES) + "}" in said
    assert ", ".join("x".join(map(str, shape)) for shape, _ in list(SIZES.values())[:3]) in said
    code = (
        "import sys; from amae_nnunet.cli import phantom\n"
        "try: phantom.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'scipy', 'torch') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]"
