"""One line of what ``amae-nnunet-doctor`` says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        found: what was found there.
        ok: whether it works; None for a line that only informs.
        fix: what to do when it does not.
    """

    subject: str
    found: str
    ok: bool | None = True
    fix: str = ""

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "info"}[self.ok]
        return f"{mark}  {self.subject}: {self.found}" + (f". Fix: {self.fix}" if self.fix else "")
