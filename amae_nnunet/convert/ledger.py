"""JSON-lines files: one object a line, added to one by one, or replaced as a whole.

A line that a killed process left half is not read, so what was written before it stays good. Not
in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amae_nnunet.errors import InputError
from amae_nnunet.parse import parse_json
from amae_nnunet.whole import write_whole


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, but for a last line without an end; none if there is no file.

    Raises:
        InputError: another line is not a JSON object.
    """
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        lines = [parse_json(line) for line in text.split("\n")[:-1]]
    except ValueError:
        lines = [None]
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{path} is not a JSON-lines file: remove the whole folder")
    return lines


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file."""
    write_whole(path, "".join(f"{json.dumps(line)}\n" for line in lines))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add one object; the file must not end in half a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(line)}\n")
