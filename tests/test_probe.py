"""The linear probe of scripts/probe_encoder.py, run as its docstring says, and its score."""

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "probe_encoder.py"


@pytest.fixture(scope="module")
def probe():
    spec = spec_from_file_location("probe_encoder", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_tells_the_label_scores_1_and_what_does_not_scores_chance(probe):
    random = np.random.default_rng(0)
    y = random.random(4000) < 0.1
    tests = [np.arange(4000) % 4 == part for part in range(4)]
    noise = random.normal(size=(4000, 3))
    assert probe.score(np.c_[noise, y], y, tests) == (1, 1)
    precision, area = probe.score(noise, y, tests)
    assert 0.07 < precision < 0.16
    assert 0.44 < area < 0.56


@pytest.mark.slow
def test_it_tells_of_voxels_random_encoders_and_a_checkpoint(pretrained):
    words = ["950", "tiny", "-p", "AMAEPlans", "--folds", "3", "--checkpoints", pretrained]
    answer = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=True
    )
    head, *lines = answer.stdout.splitlines()
    assert re.match(r"\d+ tokens of 6 cases", head)
    names = [line.partition(": average precision ")[0] for line in lines]
    assert names == ["voxels", "random 0", "random 1", "random 2", str(pretrained)]
