"""Files that are whole or not there at all (not in the paper).

A run is killed, or its disk is full, at any moment; what it had written before must still be good.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give an empty file to write to; at the end it becomes ``path``.

    No other process has its name, on whatever machine (containers of a cluster share numbers of
    processes), and it ends as ``path`` does, since libraries choose a format by that.

    Args:
        path: the file that is wanted.
        mode: its permissions, less those that the user's mask takes away.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    temporary = path.with_name(f".{socket.gethostname()}.{os.getpid()}.{path.name}")
    try:
        temporary.unlink(missing_ok=True)  # of one that was killed
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file as ``whole_file`` does."""
    return write_whole(path, json.dumps(content, indent=1) + "\n")


def write_whole(path: Path, text: str, mode: int = 0o666) -> Path:
    """Write a text file as ``whole_file`` does."""
    with whole_file(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path
