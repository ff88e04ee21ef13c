"""The demo's commands and what it prints, with the long steps left out."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from amae_nnunet.cli import demo
from amae_nnunet.cli.stage import Stage, preamble, run_stage
from amae_nnunet.errors import AMAEError
from amae_nnunet.lock import locked

PYTHON = f"'{sys.executable}' -c"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_is_printed_works_when_pasted_into_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "TEMPLATE", {**demo.TEMPLATE, "description": "a dog's life"})
    phantom, _, convert, *_ = demo.stages(1)
    phantom = Stage(phantom.name, phantom.command.replace("small", "tiny").replace("24", "2"))
    look = Stage("look", f"LOOKED=1 {PYTHON} 'import os; print(*sorted(os.environ.items()))'")
    demo.run_stages(Path("by us"), [phantom, convert, look])
    printed = capsys.readouterr().out.replace("'by us'", "by_user")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    pasted = subprocess.run(
        ["bash", "-e"], input=printed, env=environment, capture_output=True, text=True, check=True
    )
    ours, theirs = tmp_path / "by us", tmp_path / "by_user"
    for pattern in ("template.json", "studies/train/*", "raw/Dataset999_Demo/*Tr/*"):
        names = [sorted(p.name for p in folder.glob(pattern)) for folder in (ours, theirs)]
        assert names[0] == names[1] != []
    assert (ours / "template.json").read_text() == (theirs / "template.json").read_text()
    seen = (ours / "logs" / "look.log").read_text()
    for text in ("'LOOKED', '1'", f"'nnUNet_raw', '{ours / 'raw'}'", "'nnUNet_n_proc_DA', '0'"):
        assert text in seen
        assert text.replace("by us", "by_user") in pasted.stdout


def test_what_is_done_is_neither_run_nor_printed_again(tmp_path, capsys):
    steps = [Stage("the first", f"{PYTHON} 'print(1)'"), Stage("second", f"{PYTHON} '1 / 0'")]
    with pytest.raises(AMAEError, match="ended with code 1: ZeroDivisionError"):
        demo.run_stages(tmp_path, steps)
    assert "about ten minutes on two idle cores" in capsys.readouterr().out
    steps[1] = Stage("second", f"{PYTHON} 'print(2)'")
    demo.run_stages(tmp_path, steps)
    printed = capsys.readouterr().out
    assert "[2/2] second" in printed
    assert "the first" not in printed
    demo.run_stages(tmp_path, steps)
    assert capsys.readouterr().out == ""


def test_commands_that_are_not_on_the_path_are_put_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(Path(sys.executable).parent) in preamble(Path("here"))[0]


def test_a_long_step_shows_the_last_line_of_its_log_on_a_terminal_only(tmp_path, monkeypatch):
    code = 'import time; print("epoch 1\\repoch 2\\r", end=str()); time.sleep(2.5)'
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        run_stage(tmp_path, Stage("train", f"{PYTHON} '{code}'"))
        assert ("epoch 2" in stream.getvalue()) == shown
        assert "epoch 1" not in stream.getvalue()


def write_nifti(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)


def test_the_end_says_where_everything_is_from_where_the_user_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("out")
    voxels = np.random.default_rng(0).random((8, 8, 4)).astype(np.float32)
    for name in demo.CONTRASTS:
        write_nifti(folder / "studies" / "test" / "one" / f"{name}.nii.gz", voxels)
    write_nifti(folder / "raw/Dataset999_Demo/labelsTs/one.nii.gz", np.rint(voxels))
    for given in demo.GIVEN:
        predictions = folder / "evaluation" / "predictions" / "AMAETrainer"
        write_nifti(predictions / given / "one.nii.gz", np.rint(voxels))
    with (folder / "evaluation" / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "given", "dice"])
        rows.writerows(["one", given, 1.0] for given in demo.GIVEN)
    (folder / "evaluation" / "report.html").touch()
    (folder / "logs").mkdir()
    (folder / "logs" / "evaluate.log").write_text(
        "x\nmean Dice 1\n\nreport: evaluation/report.html"
    )
    demo._report(folder)
    printed = capsys.readouterr().out
    found = dict(line.split(": ") for line in printed.splitlines() if ": " in line)
    assert Path(found["report"]).is_file()
    assert Path(found["picture"]).is_file()
    assert "mean Dice 1" in printed
    assert "misses and false positives are to be expected" in printed
    with Image.open(found["picture"]) as picture:
        assert picture.width > 500


def test_a_command_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(AMAEError, match="amae-nnunet-nothing is neither in .* nor on PATH"):
        run_stage(tmp_path, Stage("x", "amae-nnunet-nothing --help"))


def test_two_demos_do_not_write_into_one_folder(tmp_path, capsys):
    with locked(tmp_path):
        assert demo.main(["-o", str(tmp_path)]) == 2
    assert "another run writes into" in capsys.readouterr().err
