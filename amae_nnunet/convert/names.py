"""What is said of many names in one line. Not in the paper, which describes no conversion."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from amae_nnunet.convert.source import RawCase

_log = logging.getLogger(__name__)
_SHOWN = 5


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 case``, ``2 cases``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """The first of many names: ``a, b, c and 7 more``."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def say_renamed(cases: Sequence[RawCase]) -> None:
    """Print which cases are not called as in the input, beyond what their layout cuts off."""
    changed = [f"{raw.source!r} -> {raw.case}" for raw in cases if _is_renamed(raw)]
    if changed:
        _log.info("%s renamed: %s", counted(len(changed), "case"), listed(changed))


def _is_renamed(raw: RawCase) -> bool:
    source = raw.source.replace("/", "_")
    return raw.code != "E_NAME" and f"_{raw.case}_" not in f"_{source}_"
