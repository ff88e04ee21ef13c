"""Which cases a pre-training saw, without naming them (not in the paper).

A checkpoint is shared; the names of its cases are not. It holds a salted hash of each, so that
whoever has a case's name and data set can ask for that case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LENGTH = 24  # hexadecimal digits of a hash: no two of a billion cases agree


@dataclass(frozen=True)
class SeenCases:
    """Salted hashes of cases, each of which is given as ``DatasetXXX_Name/case``."""

    salt: str
    hashes: frozenset[str]

    @classmethod
    def of(cls, cases: Iterable[str]) -> SeenCases:
        """The hashes of cases; the salt is one for these cases, so that a run can be repeated."""
        cases = sorted(cases)
        salt = hashlib.sha256("\n".join(cases).encode()).hexdigest()[:_LENGTH]
        return cls(salt, frozenset(_hash(salt, case) for case in cases))

    def with_cases(self, cases: Iterable[str]) -> SeenCases:
        """These cases and some more, under the same salt."""
        if not self.hashes:
            return SeenCases.of(cases)
        return SeenCases(self.salt, self.hashes | {_hash(self.salt, case) for case in cases})

    def __contains__(self, case: str) -> bool:
        return _hash(self.salt, case) in self.hashes

    def to_json(self) -> dict[str, Any]:
        """As it stands in a checkpoint."""
        return {"salt": self.salt, "hashes": sorted(self.hashes)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SeenCases:
        """Undo ``to_json``; nothing recorded is nothing seen."""
        return cls(str(content.get("salt", "")), frozenset(content.get("hashes", ())))


def _hash(salt: str, case: str) -> str:
    return hashlib.sha256(f"{salt}/{case}".encode()).hexdigest()[:_LENGTH]
