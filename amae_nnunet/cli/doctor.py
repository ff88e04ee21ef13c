"""``amae-nnunet-doctor``: is the installation sound, and what to do where it is not."""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from amae_nnunet._startup import VARIABLE, ext_trainer_folder
from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.errors import InputError

PROG = "amae-nnunet-doctor"

#: The packages whose versions are shown: the first release that works, and the first that may not.
BOUNDS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "amae-nnunet": ((0,), None),
    "torch": ((2, 4), None),
    "nnunetv2": ((2, 8), (3,)),
}
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
TRAINER = "AMAETrainer"

# Console scripts do not search the working directory for modules, "python -c" does.
_LIKE_A_SCRIPT = "import sys; sys.path[:] = [folder for folder in sys.path if folder]\n"
_FIND_TRAINER = """
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
print(recursive_find_trainer_class_by_name({name!r}).__module__)
"""
_NAME_GPUS = """
import torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(", ".join(names) or "none; training on a CPU is slow (-device cpu)")
"""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        found: what was found there.
        ok: whether it works; None for a line that only informs.
        fix: what to do when it does not.
    """

    subject: str
    found: str
    ok: bool | None = True
    fix: str = ""

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "info"}[self.ok]
        return f"{mark}  {self.subject}: {self.found}" + (f". Fix: {self.fix}" if self.fix else "")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        The exit code: 0 when every check passes, 3 otherwise.
    """
    parser = new_parser(PROG, "Check that nnU-Net and amae-nnunet work together here.")
    parser.add_argument(
        "--ext_trainer",
        action="store_true",
        help="print the folder of our trainers and stop; where the start-up file does not work: "
        f"export {VARIABLE}=$({PROG} --ext_trainer)",
    )
    return run(parser, _examine, argv)


def _examine(args: argparse.Namespace) -> int:
    if args.ext_trainer:
        print(ext_trainer_folder())
        return 0
    failures = 0
    for check in _checks():
        print(check, flush=True)
        failures += check.ok is False
    return InputError.exit_code if failures else 0


def _checks() -> Iterator[Check]:
    yield Check("python", f"{platform.python_version()} ({sys.executable})")
    for package in BOUNDS:
        yield check_version(package)
    for variable in FOLDERS:
        yield check_folder(variable)
    yield check_trainer()
    yield Check("GPU", _ask(_NAME_GPUS)[1], ok=None)


def check_version(package: str) -> Check:
    """Whether ``package`` is installed, in a version that ``BOUNDS`` allows."""
    lowest, too_new = BOUNDS[package]
    wanted = f"{package}>={_dotted(lowest)}" + (f",<{_dotted(too_new)}" if too_new else "")
    fix = f'pip install "{wanted}"'
    try:
        found = version(package)
    except PackageNotFoundError:
        return Check(package, "not installed", ok=False, fix=fix)
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if numbers < lowest or (too_new and numbers >= too_new):
        return Check(package, f"{found} does not fit", ok=False, fix=fix)
    return Check(package, found)


def check_folder(variable: str) -> Check:
    """Whether an environment variable of nnU-Net names a folder that can be written."""
    folder = os.environ.get(variable, "")
    if not folder:
        return Check(variable, "not set", ok=False, fix=f"export {variable}=/path/to/{variable}")
    if not os.path.isdir(folder):
        return Check(variable, f"no folder at {folder}", ok=False, fix=f"mkdir -p {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(variable, folder)
    except OSError as error:
        fix = f"make it writable, or point {variable} to another folder"
        return Check(variable, f"cannot write to {folder} ({error.strerror})", ok=False, fix=fix)


def check_trainer() -> Check:
    """Whether stock nnU-Net, in a process of its own, finds our trainer by its name."""
    subject = f"stock nnU-Net finds {TRAINER}"
    found, answer = _ask(_FIND_TRAINER.format(name=TRAINER))
    if found:
        return Check(subject, answer)
    return Check(subject, answer, ok=False, fix=f"export {VARIABLE}=$({PROG} --ext_trainer)")


def _ask(code: str) -> tuple[bool, str]:
    """Run ``code`` in a fresh process; whether it worked, and the last line that it said."""
    answer = subprocess.run(
        [sys.executable, "-c", _LIKE_A_SCRIPT + code], capture_output=True, text=True
    )
    worked = answer.returncode == 0
    lines = (answer.stdout if worked else answer.stderr).strip().splitlines()
    return worked, textwrap.shorten(lines[-1], 160) if lines else f"exit code {answer.returncode}"


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
