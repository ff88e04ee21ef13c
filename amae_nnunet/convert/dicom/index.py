"""The private index: all stacks of an input folder as a file, so that a later run skips the scan.

It holds text of the headers (names of patients and series) and belongs beside the raw studies,
never into a data set. Not in the paper.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amae_nnunet.convert.dicom.stack import Facts, SliceFile, Stack
from amae_nnunet.errors import ConfigError

_SCHEMA = 1


def save_index(stacks: Sequence[Stack], path: Path) -> None:
    """Write stacks as JSON, readable by the user alone, at once or not at all."""
    content = {"schema": _SCHEMA, "stacks": [asdict(stack) for stack in stacks]}
    partial = path.with_name(f"{path.name}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, separators=(",", ":"))
    partial.replace(path)


def load_index(path: Path) -> list[Stack]:
    """Read what ``save_index`` wrote; the stacks are equal to those saved.

    Raises:
        ConfigError: it is not there, or not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        return [_stack(item) for item in content["stacks"]]
    except FileNotFoundError:
        raise ConfigError(
            f"{path.name} is not there: write it and its sheet with --dry_run"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path.name} is not an index of this version: remove it and scan again"
        ) from None


def _stack(item: dict[str, Any]) -> Stack:
    facts = Facts(**_tuples(item["facts"]))
    files = tuple(SliceFile(**_tuples(file)) for file in item["files"])
    return Stack(**{**_tuples(item), "facts": facts, "files": files})


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples, and a stack no lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
