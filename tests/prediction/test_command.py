"""The installed command in a fresh process, against stock nnUNetv2_predict in another."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DATASET

from amae_nnunet.cli import evaluate, predict

SCRIPTS = Path(sys.executable).parent
WORDS = ["-d", "950", "-p", "AMAEPlans", "-c", "predicts", "-device", "cpu"]


def command(program, *words):
    return [SCRIPTS / program, *map(str, words), *WORDS]


def run(program, *words, code=0):
    result = subprocess.run(command(program, *words), capture_output=True, text=True, check=False)
    assert result.returncode == code, (result.stdout + result.stderr)[-3000:]
    return result


@pytest.mark.slow
def test_the_script_predicts_as_stock_nnunet_and_says_what_to_expect(place, names, tmp_path):
    inputs = place.folder(tmp_path / "in", **{names[0]: ("T2",), names[1]: ("TRACE",)})
    shutil.copy(Path(__file__), inputs / "broken_0000.nii.gz")
    few = ["-npp", 1, "-nps", 1]
    broken = run("amae-nnunet-predict", "-i", inputs, "-o", tmp_path / "out", *few, code=4)
    assert "case broken failed" in broken.stderr
    said = [line for line in broken.stderr.splitlines() if line.startswith("predicting case ")]
    assert said == [f"predicting case {name}" for name in names]
    assert f"case {names[1]}: the required contrast TRACE is absent" in broken.stderr
    assert f"{names[0]}: ADC, TRACE (without T2): in validation Dice 0.500" in broken.stdout
    assert "out: 2 done, 0 skipped, 1 failed" in broken.stdout

    from .test_run import zero_filled

    zeros = zero_filled(place, tmp_path / "zeros", names, {names[0]: ("T2",), names[1]: ("TRACE",)})
    run("nnUNetv2_predict", "-i", zeros, "-o", tmp_path / "stock", "-f", 0, 1, "-tr", "AMAETrainer",
        *few)  # fmt: skip
    for case in names:
        one, other = (tmp_path / folder / f"{case}.nii.gz" for folder in ("out", "stock"))
        assert one.read_bytes() == other.read_bytes()
        assert json.loads((tmp_path / "out" / f"{case}.json").read_text())["schema"] == 1


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_file_and_goes_on(place, names, tmp_path):
    inputs = place.folder(tmp_path / "in")
    for copy in range(8):
        for channel in range(3):
            source = inputs / f"{names[0]}_{channel:04d}.nii.gz"
            shutil.copy(source, inputs / f"copy_{copy}_{channel:04d}.nii.gz")
    words = ["-i", inputs, "-o", tmp_path / "out", "--continue_prediction", "-npp", 1, "-nps", 1]
    process = subprocess.Popen(
        command("amae-nnunet-predict", *words), stdout=subprocess.PIPE, start_new_session=True
    )
    while not list((tmp_path / "out").glob("c*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path.name for path in (tmp_path / "out").glob("c*.nii.gz")}
    assert 0 < len(done) < 10
    kept = {name: (tmp_path / "out" / name).read_bytes() for name in done}
    result = run("amae-nnunet-predict", *words)
    assert " 0 failed" in result.stdout
    assert len(list((tmp_path / "out").glob("c*.nii.gz"))) == 10
    assert not (tmp_path / "out" / ".amae_tmp").exists()
    whole = (tmp_path / "out" / f"{names[0]}.nii.gz").read_bytes()
    assert all(content in (whole, (tmp_path / "out" / f"{names[1]}.nii.gz").read_bytes())
               for content in kept.values())  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-c", "x"], "which model? give -d and -c, or -m FOLDER"),
        (["-m", "x", "-step_size", "0"], "-step_size 0: give a number above 0"),
        (["-m", "x", "-num_parts", "2", "-part_id", "2"], "-part_id 2: give 0 to 1"),
        (["-m", "x", "-npp", "-1"], "-npp and -nps: give 0"),
        (["-m", "x", "-o", "in"], "-o is the input folder"),
        (
            ["-m", "x"],
            "has no fold_0/checkpoint_final.pth: train it with nnUNetv2_train",
        ),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    assert predict.main(["-i", "in", "-o", "out", "-device", "cpu", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nothere", "nothere is not a folder: give the one with CASE_0000.nii.gz"),
        ("raw", "raw holds no file CASE_0000.nii.gz: convert it first: amae-nnunet-convert -i raw "
                "--for_model {model} -o inputs"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_are_told_before_torch_is_imported(place, tmp_path, folder, message):
    (tmp_path / "raw" / "patient_1").mkdir(parents=True)
    answer = subprocess.run(
        [SCRIPTS / "amae-nnunet-predict", "-i", folder, "-o", "out", *WORDS],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    said = [line for line in answer.stderr.splitlines() if not line.startswith("import time:")]
    expected = message.format(model=shlex.quote(str(place.model)))
    assert (answer.returncode, said) == (3, [f"amae-nnunet-predict: error: {expected}"])
    assert "torch" not in re.findall(r"\| +(\w+)$", answer.stderr, re.MULTILINE)


def test_a_model_of_other_plans_is_named(place, tmp_path, capsys):
    model = ["-d", "950", "-c", "predicts"]  # of nnUNetPlans, by default
    advice = "take AMAETrainer__AMAEPlans__predicts beside it (-p AMAEPlans, or its folder with -m)"
    words = ["-i", str(place.inputs), "-o", str(tmp_path / "out")]
    assert predict.main([*words, *model]) == 2
    assert f"has no fold_0/checkpoint_final.pth: {advice}\n" in capsys.readouterr().err
    assert evaluate.main(["-o", str(tmp_path / "out"), *model]) == 2
    assert f"is not a folder: {advice}\n" in capsys.readouterr().err


def test_parts_of_a_folder_and_a_required_contrast_that_is_absent(
    place, names, tmp_path, capsys, monkeypatch
):
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    inputs = place.folder(tmp_path / "in", **{names[1]: ("TRACE",)})
    words = ["-i", str(inputs), "-npp", "0", "-nps", "0", "--disable_tta", "--disable_progress_bar"]
    parts = ["-num_parts", "2", "-part_id"]
    assert DATASET in str(place.model)
    for part, code in (("0", 0), ("1", 6)):
        out = str(tmp_path / "out")
        assert predict.main([*words, "-o", out, *WORDS, *parts, part, "-f", "0"]) == code
        printed = capsys.readouterr().out
        assert "out: 1 done, 0 skipped, 0 failed" in printed
    assert f"without a required contrast: {names[1]}" in printed
    assert {f"{case}.nii.gz" for case in names} < {p.name for p in (tmp_path / "out").iterdir()}
