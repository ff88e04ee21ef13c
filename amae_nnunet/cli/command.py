"""What all console scripts share: --version, -v, logging, one-line errors and exit codes."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from amae_nnunet import __version__
from amae_nnunet.errors import EXIT_CODES, AMAEError, ConfigError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OTHER = "choose another folder"
_CHOOSE = f"change its permissions, or {_OTHER}"
#: What to do about a file or folder that the system refuses.
_FIXES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _CHOOSE),
    **dict.fromkeys(_FULL, "make room, and run again: what is done is kept"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), f"a file is where a folder should be: {_OTHER}"),
    errno.EISDIR: "a folder is where a file should be: remove it, or choose another name",
    errno.ELOOP: f"a link leads to itself: {_OTHER}",
    errno.EBUSY: f"it is in use: {_OTHER}",
    errno.ENAMETOOLONG: "give a shorter name",
}


def _said(error: OSError) -> str:
    """An error of the system in one line: the file, what is wrong, what to do."""
    place = f"{error.filename}: " if error.filename else ""
    return one_line(f"{place}{error.strerror}: {_FIXES[error.errno or 0]}")


def new_parser(
    prog: str, description: str, epilog: str = "", codes: Mapping[int, str] = EXIT_CODES
) -> argparse.ArgumentParser:
    """A parser with ``--version``, ``-v`` and a table of exit codes at the end of its help.

    Args:
        prog: name of the command.
        description: what it does.
        epilog: what its help says behind the options.
        codes: that it can end with, and what they mean.
    """
    table = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in codes.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"{epilog}\nexit codes:\n{table}".lstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more, with time stamps")
    return parser


def device_kind(wanted: str | None) -> str:
    """The device to run on: what ``-device`` says, else ``cuda`` if it is there, else ``cpu``.

    Raises:
        ConfigError: the wanted one is not there.
    """
    import torch

    cuda = torch.cuda.is_available()
    there = {"cpu": True, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    kind = wanted or ("cuda" if cuda else "cpu")
    if not there[kind]:
        raise ConfigError(
            f"-device {kind}: PyTorch {torch.__version__} finds none here; leave -device out, or "
            "ask amae-nnunet-doctor"
        )
    return kind


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: its processes too, and its records are true."""


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated


@contextmanager
def _sigterm_heard() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], int | None],
    argv: list[str] | None = None,
) -> int:
    """Parse ``argv`` (options may stand among positionals), run ``body`` and return the exit code.

    An ``AMAEError`` becomes one line on stderr and its own exit code, and so does a file that may
    not be read or written, or a full disk; any other exception keeps its traceback (exit code 1).
    """
    args = parser.parse_intermixed_args(argv)
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # of what nnU-Net imports
    logging.basicConfig(
        format="%(asctime)s %(name)s: %(message)s" if args.verbose else "%(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("amae_nnunet").setLevel(logging.DEBUG if args.verbose else logging.INFO)
    code = 141
    try:
        with _sigterm_heard():
            code = body(args) or 0
            sys.stdout.flush()
        return code
    except AMAEError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, "head" say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except OSError as error:
        if error.errno not in _FIXES:
            raise
        print(f"{parser.prog}: error: {_said(error)}", file=sys.stderr)
        return 1 if error.errno in _FULL else ConfigError.exit_code
    except _Terminated:
        print(f"{parser.prog}: stopped by SIGTERM", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
