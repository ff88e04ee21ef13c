"""Patients on both sides: a subject whose images are tested on and trained on.

Such a result is too good. A warning where it is found among the cases of a data set, whichever run
added them; a strict run takes no such case. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from amae_nnunet.convert.codes import warning
from amae_nnunet.convert.names import listed
from amae_nnunet.convert.source import RawCase

_TEST = "test"  # what any other split holds is trained on
SHARED = "W_SUBJECT"


@dataclass
class _Sides:
    """Which cases there are of each subject, tested on and trained on."""

    cases: dict[tuple[str, bool], list[str]] = field(default_factory=dict)

    def add(self, case: str, subject: str, split: str) -> None:
        self.cases.setdefault((subject, split == _TEST), []).append(case)

    def clash(self, subject: str, split: str) -> str:
        """What is to be said of a case whose subject has cases on the other side, or empty."""
        others = self.cases.get((subject, split != _TEST), [])
        where = "trained on" if split == _TEST else "tested on"
        text = f"its subject {subject} is {where} as well ({listed(sorted(others))})"
        return f"{text}: take it out of one side" if others else ""


def mark_shared(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Bring the warnings of all lines of a ledger up to date.

    Returns:
        The cases that have a new warning.
    """
    entries, sides, new = list(entries), _Sides(), []
    for entry in entries:
        sides.add(entry["case"], entry["subject"], entry["split"])
    for entry in entries:
        clash = sides.clash(entry["subject"], _TEST) if entry["split"] == _TEST else ""
        said = [text for text in entry["warnings"] if text.startswith(SHARED)]
        wanted = [warning(SHARED, clash)] if clash else []
        if said != wanted:
            kept = [text for text in entry["warnings"] if text not in said]
            entry["warnings"] = kept + wanted
            new += [entry["case"]] if wanted else []
    return new


def refuse_shared(
    cases: Sequence[RawCase],
    entries: Iterable[Mapping[str, Any]],
    split_of: Callable[[RawCase], str],
) -> list[RawCase]:
    """The cases of a run, those with a problem whose subject is on the other side already.

    Args:
        cases: in order; what comes first stays.
        entries: the ledger's lines; what they say of ``cases`` is out of date.
        split_of: the split of a case.
    """
    sides, again, checked = _Sides(), {raw.case for raw in cases}, []
    for entry in entries:
        if entry["case"] not in again:
            sides.add(entry["case"], entry["subject"], entry["split"])
    for raw in cases:
        clash = "" if raw.code else sides.clash(raw.subject, split_of(raw))
        if clash:
            raw = replace(raw, code="E_SUBJECT", problem=clash)
        elif not raw.code:
            sides.add(raw.case, raw.subject, split_of(raw))
        checked.append(raw)
    return checked
