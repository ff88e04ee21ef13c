"""The errors a user can cause, and the exit code each of them ends a command with.

Every message names what was found, where (case or file), and what to do next, in one line.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Sequence
from pathlib import Path

EXIT_CODES = {
    0: "done",
    1: "an error that has no code of its own, as a full disk; an unexpected one has a traceback",
    2: "wrong arguments or configuration",
    3: "nothing usable in the input",
    4: "some cases failed; the rest is done and the failures are listed",
    5: "wrong or unsafe checkpoint",
    6: "all cases are predicted, but some lack a contrast that the model's data set requires",
    130: "interrupted (Ctrl-C)",
    141: "the reader of its output went away (as head does) before the work was done",
    143: "stopped by SIGTERM; a pre-training that trains saves its state and continues with --c",
}
_ALWAYS = (0, 1, 2, 130, 141, 143)  # that every command can end with


def exit_codes(*more: int) -> dict[int, str]:
    """The exit codes of one command, and what they mean: those of all commands, and ``more``."""
    return {code: EXIT_CODES[code] for code in sorted({*_ALWAYS, *more})}


def one_line(text: str) -> str:
    """Text with line ends, control characters and the like escaped, whatever names it quotes."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class AMAEError(Exception):
    """Base of the errors that are reported as one line, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class CannotWrite(AMAEError):
    """A file cannot be written, as on a full disk; what was there before is as it was.

    Args:
        what: which file, and why.
        again: how to go on when there is room.
    """

    def __init__(self, what: str, again: str = "run it again") -> None:
        super().__init__(what, again)  # as they are, since processes send it to each other
        self.what = what

    def __str__(self) -> str:
        what, again = self.args
        return one_line(f"{what}: make room and {again}; what was saved before is intact")

    @classmethod
    def of(cls, path: Path, error: BaseException) -> CannotWrite:
        """What the system, or a library, says of a file that it could not write."""
        said = str(error) or type(error).__name__
        reason = getattr(error, "strerror", None) or said.splitlines()[0]
        free = "its folder is gone"
        if path.parent.is_dir():
            free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB free"
        return cls(f"cannot write {path} ({reason}; {free})")


class ConfigError(AMAEError):
    """A configuration value or argument that cannot work."""

    exit_code = 2


def unknown_key(key: str, known: Sequence[str]) -> ConfigError:
    """What to raise for a key that nothing reads: it names the nearest that something does."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return ConfigError(f"unknown key {key!r}: {hint}")


class UnsupportedError(ConfigError, NotImplementedError):
    """What nnU-Net can do and the method cannot, as a cascade."""


class InputError(AMAEError):
    """Input data that cannot be used."""

    exit_code = 3


class ContrastError(InputError):
    """Contrasts that do not fit: an unknown name, a wrong number, a record that is not true."""


class CheckpointError(AMAEError):
    """A pre-training checkpoint that is missing, unsafe, or of another model."""

    exit_code = 5
