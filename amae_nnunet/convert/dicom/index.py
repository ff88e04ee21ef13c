"""The private index: what a scan found and what was chosen, so that a later run skips the scan.

One line of JSON for what was chosen, then one for each stack. It holds text of the headers (names
of patients and series) and belongs beside the raw studies, never into a data set. Not in the paper.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amae_nnunet.convert.dicom.stack import Facts, SliceFile, Stack
from amae_nnunet.errors import ConfigError
from amae_nnunet.parse import parse_json
from amae_nnunet.whole import whole_file

ENDING = ".index.json"
_SCHEMA = 2


@dataclass(frozen=True)
class Index:
    """What a sheet was written from.

    Attributes:
        stacks: all that the scan found.
        chosen: key of each stack that was chosen -> its contrast, before anybody edited the sheet.
    """

    stacks: list[Stack]
    chosen: dict[str, str]


def index_of(sheet: Path) -> Path:
    """Where the index of a sheet is written."""
    return sheet.with_suffix(ENDING)


def find_index(sheet: Path) -> Path:
    """The index beside a sheet; of a sheet saved under another name, the only one there is.

    Raises:
        ConfigError: there is none, or there are several; says what to do.
    """
    wanted = index_of(sheet)
    others = sorted(sheet.absolute().parent.glob(f"[!.]*{ENDING}"))
    if wanted.exists() or len(others) == 1:
        return wanted if wanted.exists() else others[0]
    if others:
        names = ", ".join(path.name for path in others)
        raise ConfigError(
            f"which index is that of {sheet}: {names}? copy the right one to {wanted}"
        )
    raise ConfigError(
        f"{wanted} is not there: copy the {ENDING} file that --dry_run wrote with the sheet to it, "
        "or write both anew with --dry_run"
    )


def save_index(index: Index, path: Path) -> None:
    """Write an index, readable by the user alone, at once or not at all."""
    lines = ({"schema": _SCHEMA, "chosen": index.chosen}, *map(asdict, index.stacks))
    with whole_file(path, 0o600) as partial, partial.open("w") as file:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def load_index(path: Path) -> Index:
    """Read what ``save_index`` wrote; it is equal to what was saved.

    Raises:
        ConfigError: it is not such a file.
    """
    try:
        with path.open(encoding="utf-8") as file:
            head = parse_json(next(file))
            if head["schema"] != _SCHEMA:
                raise ValueError(f"schema {head['schema']}")
            return Index([_stack(parse_json(line)) for line in file], dict(head["chosen"]))
    except (OSError, StopIteration, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path.name} is not an index of this version: remove it and its sheet, and write them "
            "anew with --dry_run"
        ) from None


def _stack(item: dict[str, Any]) -> Stack:
    facts = Facts(**_tuples(item["facts"]))
    files = tuple(SliceFile(**_tuples(file)) for file in item["files"])
    return Stack(**{**_tuples(item), "facts": facts, "files": files})


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples, and a stack no lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
