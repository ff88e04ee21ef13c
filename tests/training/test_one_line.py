"""Errors of ours that end a stock command are one line; all others keep their traceback."""

import subprocess
import sys

import pytest


def ended_by(error):
    program = (
        "from amae_nnunet.errors import CheckpointError\n"
        "from amae_nnunet.training.one_line import errors_in_one_line\n"
        "errors_in_one_line()\nerrors_in_one_line()\n"
        f"raise {error}"
    )
    words = [sys.executable, "-c", program]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_an_error_of_ours_is_one_line():
    answer = ended_by("CheckpointError('no pre-training at x: run y')")
    assert answer.stderr == "error: no pre-training at x: run y\n"
    assert answer.returncode == 1


@pytest.mark.parametrize("error", ["ValueError('x')", "KeyError"])
def test_any_other_error_keeps_its_traceback(error):
    answer = ended_by(error)
    assert answer.stderr.startswith("Traceback")
    assert answer.returncode == 1
