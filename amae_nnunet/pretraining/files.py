"""Large files of a run: whole and on the disk, or not there at all (not in the paper).

The temporary name is always the same: what a killed run has left of it, which may be a gigabyte,
the next one writes over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from amae_nnunet.errors import AMAEError

_TORCH_WRITER = "inline_container"  # in torch's message when it cannot write, a RuntimeError


class CannotWrite(AMAEError):
    """A file cannot be written, as on a full disk; what was there before is as it was.

    Args:
        what: which file, and why.
        again: how to go on when there is room.
    """

    def __init__(self, what: str, again: str = "run it again") -> None:
        super().__init__(f"{what}: make room and {again}; what was saved before is intact")
        self.what = what


@contextmanager
def durable_file(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Give a temporary name to write to; at the end it becomes ``path``, whole and on the disk.

    Args:
        path: the file that is wanted.
        keep: gets what ``path`` was before.

    Raises:
        CannotWrite: as on a full disk; ``path`` is as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and _TORCH_WRITER not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CannotWrite(f"cannot write {path} ({reason}; {free / 1e6:.0f} MB free)") from None
    finally:
        temporary.unlink(missing_ok=True)
