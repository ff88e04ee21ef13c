"""The installed command, killed again and again: the end is as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from convert.studies import contents, lesion, make_case, save, voxels, write_template

SHAPE = (64, 64, 40)
DATASET = "Dataset007_Tiny"
KILLS = 20
CASES = 8


@pytest.fixture
def raw(tmp_path):
    for number in range(CASES):
        folder = tmp_path / "raw" / f"case{number}"
        for seed, contrast in enumerate(("T1", "FLAIR", "T1CE")[: 2 + number % 2]):
            save(folder / f"{contrast}.nii.gz", voxels(seed + number, SHAPE))
        save(folder / "seg.nii.gz", lesion(SHAPE))
    make_case(tmp_path / "raw", "without_flair", contrasts=("T1",))
    return tmp_path / "raw"


@pytest.fixture
def start(raw, tmp_path):
    """Start the command, which writes below ``base``; all its processes carry a mark."""
    script = Path(sys.executable).with_name("amae-nnunet-convert")
    template = write_template(tmp_path)
    words = [script, "-i", raw, "-d", "7", "-n", "Tiny", "-t", template, "-np", "2"]

    def run(base, mark=""):
        environment = {**os.environ, "nnUNet_raw": str(base), "AMAE_MARK": mark}
        for name in ("nnUNet_preprocessed", "nnUNet_results"):
            environment.pop(name, None)
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            list(map(str, words)),
            env=environment,
            start_new_session=True,
            stdout=quiet,
            stderr=quiet,
        )

    return run


def marked(mark):
    """Processes of the run that are not over."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"AMAE_MARK={mark}".encode() in (folder / "environ").read_bytes():
                alive.append(int(folder.name))
        except OSError:
            continue
    return alive


def labels(base):
    """Labelled cases that are written below ``base``."""
    return len(list(base.glob("*/labelsTr/*")))


@pytest.mark.slow
def test_a_killed_command_ends_as_an_undisturbed_one(start, tmp_path):
    begin = time.monotonic()
    assert start(tmp_path / "undisturbed").wait() == 4  # one case fails
    length = time.monotonic() - begin
    expected = contents(tmp_path / "undisturbed" / DATASET)
    assert sum(name.startswith("labelsTr") for name in expected) == CASES
    chance, mark, kills, endings, written = random.Random(0), uuid.uuid4().hex, 0, 0, set()
    base = tmp_path / "killed"
    while kills < KILLS or not endings:
        # Killed when none, one or two more cases are written, and a moment later: by the clock
        # alone, a run on a busy machine may be killed at the same few points again and again.
        goal = labels(base) + kills % 3
        run = start(base, mark)
        while run.poll() is None and (kills == KILLS or labels(base) < goal):
            time.sleep(0.005)
        try:
            run.wait(chance.uniform(0, length / (1 if kills % 3 == 0 else CASES)))
        except subprocess.TimeoutExpired:
            # With all of its processes, or alone, so that they must find their end themselves.
            (os.killpg if kills % 2 else os.kill)(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            written.add(labels(base))
            continue  # at once: what the killed run left may still be running
        assert run.returncode == 4
        assert contents(base / DATASET) == expected
        endings += 1
        if kills < KILLS:
            shutil.rmtree(base)
    assert len(written) > 3  # killed at different points, and not before or after all the work
    end = time.monotonic() + 30
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(mark) == []
