"""Text files that are whole or not there at all (not in the paper).

A run is killed, or its disk is full, at any moment; what it had written before must still be good.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """Write a text file through a temporary name, of which no two processes have the same.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
