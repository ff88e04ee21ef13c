"""The files of an input tree, and what lies in them: plain, gzip and zip, links kept inside.

What a file is called says nothing: DICOM often has no ending. So a file is judged by its first
bytes. Not in the paper, which describes no conversion.
"""

from __future__ import annotations

import gzip
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_HIDDEN = "a folder whose name begins with a dot"
#: What reading a damaged file or archive, or one with a password, raises.
UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Skipped:
    """A file that is no usable image.

    Attributes:
        path: relative to the input folder.
        code: a key of ``CODES``; empty for what was never meant to be an image.
        reason: in a few words.
        member: inside a zip archive, else empty.
    """

    path: str
    code: str
    reason: str
    member: str = ""


def list_files(root: Path) -> tuple[list[Path], list[Skipped]]:
    """All files below ``root`` in a fixed order, and what cannot be one.

    Names that start with a dot are left out, and a folder is entered once, whatever leads to it.
    """
    inside = root.resolve()
    files: list[Path] = []
    skipped: list[Skipped] = []
    seen: set[Path] = set()

    def usable(path: Path) -> bool:
        code, reason = _hindrance(path, inside)
        if reason:
            skipped.append(Skipped(path.relative_to(root).as_posix(), code, reason))
        return not reason

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        skipped.append(Skipped(name, "E_DAMAGED", "a folder that cannot be read"))

    for parent, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        real = Path(parent).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden = [Path(parent, name) for name in sorted(folders) if name[0] == "."]
        skipped += [Skipped(path.relative_to(root).as_posix(), "", _HIDDEN) for path in hidden]
        folders[:] = [
            name for name in sorted(folders) if name[0] != "." and usable(Path(parent, name))
        ]
        paths = [Path(parent, name) for name in sorted(names) if name[0] != "."]
        files += [path for path in paths if usable(path)]
    return files, skipped


def _hindrance(path: Path, inside: Path) -> tuple[str, str]:
    """Code and reason why a path must not be opened; no reason if it may."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        if not path.exists():
            return "E_LINK", "a link to nothing"
        if not path.resolve().is_relative_to(inside):
            return "E_LINK", "a link out of the input folder"
        mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "", "no regular file"  # to open a pipe would wait for ever
    return "", ""


def is_packed(path: Path) -> bool:
    """Whether a file is a zip archive or gzip."""
    with path.open("rb") as file:
        return file.read(4).startswith((_GZIP, _ZIP))


@contextmanager
def open_container(path: Path) -> Iterator[tuple[list[str], Callable[[str], IO[bytes]]]]:
    """Open a file as what it holds.

    Yields:
        The members: those of a zip archive, else ``[""]`` for the file itself; and a function
        that opens a member as a stream of plain bytes (gzip is undone, in an archive as well).

    Raises:
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(4) != _ZIP:
            yield [""], lambda member: _plain(path.open("rb"))
            return
    with zipfile.ZipFile(path) as archive:
        members = sorted(item.filename for item in archive.infolist() if not item.is_dir())
        yield members, lambda member: _plain(archive.open(member))


def _plain(stream: IO[bytes]) -> IO[bytes]:
    packed = stream.read(2) == _GZIP
    stream.seek(0)
    return cast("IO[bytes]", _Gunzipped(stream)) if packed else stream


class _Gunzipped(gzip.GzipFile):
    """A gzip stream that closes the file below it, too."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(fileobj=stream)
        self._below = stream

    def close(self) -> None:
        """Close both."""
        super().close()
        self._below.close()
