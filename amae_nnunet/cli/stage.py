"""One command of a chain: run in a fresh process, with its output in a log that is watched."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from amae_nnunet.errors import AMAEError, one_line
from amae_nnunet.folders import FOLDERS

#: nnU-Net's folders, in the folder of the chain.
PLACES = {name: name.removeprefix("nnUNet_") for name in FOLDERS}
#: On few cores nnU-Net is fastest without workers.
SETTINGS = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_SCRIPTS = Path(sys.executable).parent
_TAIL = 4096  # bytes of a log in which its last line is looked for


@dataclass(frozen=True)
class Stage:
    """One step: what it is for, and what a user would type, variables before the command too."""

    name: str
    command: str

    @property
    def file_name(self) -> str:
        """Its name without spaces."""
        return self.name.replace(" ", "_")


def preamble(folder: Path) -> list[str]:
    """What a user would type before the commands: the folder, and the environment.

    Args:
        folder: of the chain, as seen from where the user stands.
    """
    places = " ".join(f'{name}="$PWD/{place}"' for name, place in PLACES.items())
    found = shutil.which("amae-nnunet-demo")
    on_path = found is not None and Path(found).parent == _SCRIPTS
    return [
        *([] if on_path else [f'export PATH={shlex.quote(str(_SCRIPTS))}:"$PATH"']),
        f"mkdir -p {shlex.quote(str(folder))} && cd {shlex.quote(str(folder))}",
        f"mkdir -p {' '.join(PLACES.values())}",
        f"export {places}",
        f"export {' '.join(f'{name}={value}' for name, value in SETTINGS.items())}",
    ]


def run_stage(folder: Path, stage: Stage) -> None:
    """Run the command of a stage in ``folder``, with its output in a file of ``folder/logs``.

    Raises:
        AMAEError: it ended with another code than 0, or is not installed.
    """
    for place in (*PLACES.values(), "logs"):
        (folder / place).mkdir(exist_ok=True)
    places = {name: str(folder / place) for name, place in PLACES.items()}
    words = shlex.split(stage.command)
    own = {}
    while "=" in words[0]:
        name, _, own[name] = words.pop(0).partition("=")
    program = shutil.which(words[0], path=str(_SCRIPTS)) or shutil.which(words[0])
    if program is None:
        raise AMAEError(
            f"{words[0]} is neither in {_SCRIPTS} nor on PATH: install amae-nnunet there"
        )
    log = folder / "logs" / f"{stage.file_name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [program, *words[1:]],
            cwd=folder,
            env={**os.environ, **places, **SETTINGS, "PYTHONUNBUFFERED": "1", **own},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        code = _watch(process, log)
    if code:
        last = _last_line(log) or "nothing was printed"
        raise AMAEError(f"{words[0]} ended with code {code}: {last} (all in {log})")


def _watch(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for a process; on a terminal, show how long and the last line of its log meanwhile."""
    columns = shutil.get_terminal_size().columns  # also where a terminal does not tell
    with tqdm(bar_format="{elapsed}  {desc}", leave=False, disable=None, ncols=columns) as bar:
        while True:
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                width = columns - len("00:00:00   ")
                bar.set_description_str(_last_line(log)[: max(0, width)])


def _last_line(log: Path) -> str:
    """The last line of a log, empty if there is none; a progress bar leaves one at each step."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = re.split(r"[\r\n]", file.read().decode("utf-8", "replace"))
    return next((one_line(line.strip()) for line in reversed(lines) if line.strip()), "")
