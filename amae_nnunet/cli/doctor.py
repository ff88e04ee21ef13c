"""``amae-nnunet-doctor``: is the installation sound, and what to do where it is not."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from tqdm import tqdm

from amae_nnunet._startup import VARIABLE, ext_trainer_folder
from amae_nnunet.cli.check import Check
from amae_nnunet.cli.command import new_parser, run
from amae_nnunet.errors import InputError, exit_codes
from amae_nnunet.folders import FOLDERS

PROG = "amae-nnunet-doctor"

#: The packages whose versions are shown: the first release that works, and the first that may not.
BOUNDS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "amae-nnunet": ((0,), None),
    "torch": ((2, 6), None),
    "nnunetv2": ((2, 8), (3,)),
}
TRAINER = "AMAETrainer"

# Console scripts do not search the working directory for modules, "python -c" does.
_LIKE_A_SCRIPT = "import sys; sys.path[:] = [folder for folder in sys.path if folder]\n"
_FIND_TRAINER = """
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
print(recursive_find_trainer_class_by_name({name!r}).__module__)
"""
#: Uses each GPU, since one may be seen and still be too new or too old for this torch.
_USE_GPUS = """
import torch
names = []
for i in range(torch.cuda.device_count()):
    (torch.ones(2, device=f"cuda:{i}") + 1).sum().item()
    names.append(torch.cuda.get_device_name(i))
built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
print(", ".join(names) or f"none (torch {built}); training on a CPU is slow (-device cpu)")
"""
_USE_TORCHVISION = """
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
print(torchvision.__version__)
"""
_COUNT_READERS = """
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
print(get_allowed_n_proc_DA())
"""
_CODES = {
    **exit_codes(InputError.exit_code),
    0: "every check passes",
    InputError.exit_code: "a check failed: its line says how to mend it",
}
_ROOM = 5e9  # bytes: less is too little for a data set
_SHARED_ROOM = 1e9  # bytes, for the batches of all readers; a container has 64 MB by default
_SHARED = "/dev/shm"


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        The exit code: 0 when every check passes, 3 otherwise.
    """
    parser = new_parser(PROG, "Check that nnU-Net and amae-nnunet work together here.", "", _CODES)
    parser.add_argument(
        "--ext_trainer",
        action="store_true",
        help="print the folder of our trainers and stop; where the start-up file does not work: "
        f"export {VARIABLE}=$({PROG} --ext_trainer)",
    )
    parser.add_argument(
        "--train",
        action="store_true",
        help="also convert, pre-train, train and predict two tiny cases (a few minutes)",
    )
    parser.add_argument(
        "-device", choices=("cuda", "cpu"), help="for --train (default: cuda if it is there)"
    )
    return run(parser, _examine, argv)


def _examine(args: argparse.Namespace) -> int:
    if args.ext_trainer:
        print(ext_trainer_folder())
        return 0
    failures = 0
    bar = tqdm(_checks(), "looking", mininterval=0, leave=False, disable=None)
    for look in bar:  # some import nnU-Net, which takes long
        check = look()
        with tqdm.external_write_mode():
            print(check, flush=True)
        failures += check.ok is False
    if args.train and not failures:
        from amae_nnunet.cli.trial import trial

        found = _ask("import torch; print('cuda' if torch.cuda.is_available() else 'cpu')")[1]
        for check in trial(args.device or found):
            print(check, flush=True)
            failures += check.ok is False
    elif args.train:
        print(Check("train and predict", "not tried: mend the above first", ok=None))
    return InputError.exit_code if failures else 0


def _checks() -> list[Callable[[], Check]]:
    return [
        lambda: Check("python", f"{platform.python_version()} ({sys.executable})"),
        *(partial(check_version, package) for package in BOUNDS),
        check_dicom,
        *(partial(check_folder, variable) for variable in FOLDERS),
        check_shared_memory,
        check_torchvision,
        check_trainer,
        check_gpus,
    ]


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


def check_dicom() -> Check:
    """What the extra ``dicom`` installs; without it all but DICOM is read, which is no fault."""
    found, missing = [], []
    for package in ("pydicom", "dcm2niix"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if not missing:
        return Check("DICOM", ", ".join(found))
    answer = f"no {' and no '.join(missing)}, which only DICOM needs"
    return Check("DICOM", answer, ok=None, fix="pip install 'amae-nnunet[dicom]'")


def check_folder(variable: str) -> Check:
    """Whether an environment variable of nnU-Net names a folder that can be written."""
    folder = os.environ.get(variable, "")
    if not folder:
        return Check(variable, "not set", ok=False, fix=f"export {variable}=/path/to/{variable}")
    if not os.path.isdir(folder):
        return Check(variable, f"no folder at {folder}", ok=False, fix=f"mkdir -p {folder}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        fix = f"make it writable, or point {variable} to another folder"
        return Check(variable, f"cannot write to {folder} ({error.strerror})", ok=False, fix=fix)
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if free < _ROOM:
        return Check(variable, found, ok=False, fix=f"make room, or point {variable} elsewhere")
    return Check(variable, found)


def check_shared_memory() -> Check:
    """Whether there is room for the batches that processes hand over to the training."""
    subject = "shared memory"
    worked, readers = _ask(_COUNT_READERS)
    if not worked or readers == "0" or not os.path.isdir(_SHARED):
        why = "not used (nnUNet_n_proc_DA=0)" if readers == "0" else "not looked at"
        return Check(subject, why, ok=None)
    free = shutil.disk_usage(_SHARED).free
    found = f"{free / 1e9:.1f} GB free in {_SHARED} for the processes that read batches ({readers})"
    if free < _SHARED_ROOM:
        fix = "docker run --shm-size=8g (or --ipc=host), or export nnUNet_n_proc_DA=0"
        return Check(subject, found, ok=False, fix=fix)
    return Check(subject, found)


def check_torchvision() -> Check:
    """Whether torchvision, if it is there, is one for this torch."""
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return Check("torchvision", "not installed, and not needed", ok=None)
    worked, answer = _ask(_USE_TORCHVISION)
    if worked:
        return Check("torchvision", answer)
    fix = "pip install --upgrade torch torchvision (both from one index)"
    return Check("torchvision", f"{found} does not fit torch ({answer})", ok=False, fix=fix)


def check_gpus() -> Check:
    """Which GPUs there are, and whether torch can use them; none is no fault."""
    worked, answer = _ask(_USE_GPUS)
    if worked:
        return Check("GPU", answer, ok=None)
    fix = "install the torch for your driver and GPU, https://pytorch.org/get-started/locally"
    return Check("GPU", answer, ok=False, fix=fix)


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
