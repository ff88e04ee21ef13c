"""Commands run as a user runs them: the installed scripts, each in a fresh process."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

STOCK_TRAINER = Path(__file__).parent.parent / "scripts" / "stock_trainer"


class Shell:
    """Runs commands in one folder, with nnU-Net's variables set and nothing of ours exported."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            **os.environ,
            **{f"nnUNet_{n}": str(folder / n) for n in ("raw", "preprocessed", "results")},
            "nnUNet_extTrainer": str(STOCK_TRAINER),  # a user's own; ours must come on top
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        for name in ("raw", "preprocessed", "results"):
            (folder / name).mkdir(exist_ok=True)

    def run(self, command, code=0, **variables):
        """The output of a command; ``code`` 1 is any failure."""
        words = command.split()
        program = Path(sys.executable).parent / words[0]
        result = subprocess.run(
            [program, *words[1:]],
            cwd=self.folder,
            env={**self.environment, "nnUNet_n_proc_DA": "0", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        output = result.stdout + result.stderr
        assert (result.returncode == 0) == (code == 0), output[-3000:]
        if code > 1:
            assert result.returncode == code
        return output

    def run_all(self, *commands, code=0):
        """The outputs of commands of which none needs another, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda command: self.run(command, code), commands))


def small_disk(kilobytes, mount):
    """Words that run a command with a small file system of its own mounted at ``mount``."""
    script = f'mount -t tmpfs -o size={kilobytes}k none "{mount}" && shift && exec "$@"'
    prefix = ["unshare", "-m", "-r", "sh", "-c", script, "sh", "x"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    return prefix
