"""JSON from anywhere: what cannot be read is always a ``ValueError``. Not in the paper."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What ``json.loads`` gives.

    Args:
        text: untrusted.
        options: of ``json.loads``.

    Raises:
        ValueError: it is not JSON, not in a Unicode encoding, or nested too deeply to be read.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
