"""Parts: the cases of one data set, shared out over several runs at the same time.

A part takes the cases whose hashed name leaves its number as remainder, so no run needs to know
of another. It keeps ledger, failures and scratch in a folder of its own,
``.amae_parts/3_of_8``, until all are merged; so parts never write the same file, also on a shared
file system. Names that differ in upper case only fall into the same part, where the clash is
seen. Not in the paper.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amae_nnunet.errors import ConfigError
from amae_nnunet.whole import write_whole

PARTS = ".amae_parts"
_ABOUT = "part.json"
_MERGE = "merge them first with --merge"


@dataclass(frozen=True)
class Part:
    """One of ``number`` parts; ``index`` counts from 0.

    Raises:
        ConfigError: there is no such part.
    """

    index: int
    number: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.number:
            raise ConfigError(
                f"-part_id {self.index} of -num_parts {self.number}: give 0 to num_parts - 1"
            )

    def has(self, case: str) -> bool:
        """Whether the part converts this case; the same on every machine."""
        digest = hashlib.sha256(case.casefold().encode()).hexdigest()
        return int(digest, 16) % self.number == self.index

    def folder(self, target: Path) -> Path:
        """Where the part keeps its ledger, below the target's folder."""
        return target / PARTS / f"{self.index}_of_{self.number}"


def part_folders(target: Path) -> list[Path]:
    """The folders of all parts that have begun and are not merged."""
    return sorted(path.parent for path in (target / PARTS).glob(f"*/{_ABOUT}"))


def enter(part: Part, target: Path, template: str, splits: list[str], id_keys: list[str]) -> None:
    """Note that a part has begun.

    Args:
        part: which.
        target: the target's folder.
        template: the template's digest.
        splits: of the cases of all parts.
        id_keys: marks of the keys that their identifiers are hashed with.

    Raises:
        ConfigError: parts of another kind wait for being merged.
    """
    about = {"number": part.number, "template": template, "splits": splits, "id_keys": id_keys}

    def others() -> list[str]:
        """Parts of another run."""
        known = {folder: read_about(folder) for folder in part_folders(target)}
        return [
            folder.name
            for folder, other in known.items()
            if {key: other[key] for key in about} != about
        ]

    # Looked at again once it is written: of two that begin at once, one sees the other.
    begun = (part.folder(target) / _ABOUT).exists()
    different = others()
    if not different:
        _write(part, target, {**about, "ended": False})
        different = others()
        if different and not begun:
            (part.folder(target) / _ABOUT).unlink()
    if different:
        raise ConfigError(f"{target.name} holds parts of another run ({different[0]}): {_MERGE}")


def leave(part: Part, target: Path) -> None:
    """Note that a part has gone through all of its cases."""
    _write(part, target, {**read_about(part.folder(target)), "ended": True})


def read_about(folder: Path) -> dict[str, Any]:
    """What a part noted: ``number``, ``template``, ``splits``, ``id_keys``, ``ended``."""
    about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    return about


def check_ended(target: Path) -> None:
    """Check that there are parts, and that all have ended.

    Raises:
        ConfigError: some have not.
    """
    abouts = {folder.name: read_about(folder) for folder in part_folders(target)}
    for number in sorted({about["number"] for about in abouts.values()}):
        names = {index: f"{index}_of_{number}" for index in range(number)}
        left = [str(i) for i, name in names.items() if not abouts.get(name, {}).get("ended")]
        if left:
            raise ConfigError(
                f"part {', '.join(left)} of {number} has not ended: run it (-num_parts {number} "
                f"-part_id {left[0]}), then merge"
            )


def _write(part: Part, target: Path, about: dict[str, Any]) -> None:
    path = part.folder(target) / _ABOUT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(about) + "\n")
