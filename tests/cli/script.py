"""``amae-nnunet-convert`` run as a user runs it: the installed script in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("amae-nnunet-convert")


def environment(raw_folder=None):
    """The environment of the tests, with the ``nnUNet_raw`` given (which is made) and no other."""
    if raw_folder:
        Path(raw_folder).mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    return {**kept, **({"nnUNet_raw": str(raw_folder)} if raw_folder else {})}


def command(*arguments, raw_folder=None, cwd=None, timeout=600):
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(raw_folder),
        timeout=timeout,
    )
