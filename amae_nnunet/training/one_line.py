"""One line instead of a traceback where one of our errors ends a stock command.

``nnUNetv2_train`` and ``nnUNetv2_predict`` print whatever ends them as a traceback, in which the
sentence that says what to do is easily missed. Their exit code stays 1. Not in the paper.
"""

from __future__ import annotations

import sys
from types import TracebackType

from amae_nnunet.errors import AMAEError

_stock = sys.excepthook


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, AMAEError):
        print(f"error: {error}", file=sys.stderr)
    else:
        _stock(kind, error, trace)


def errors_in_one_line() -> None:
    """From now on, an ``AMAEError`` that nothing catches is printed in one line."""
    sys.excepthook = _show
