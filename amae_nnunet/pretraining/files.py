"""Large files of a run: whole and on the disk, or not there at all (not in the paper).

The temporary name is always the same: what a killed run has left of it, which may be a gigabyte,
the next one writes over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from amae_nnunet.errors import CannotWrite

_TORCH_WRITER = "inline_container"  # in torch's message when it cannot write, a RuntimeError


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
        raise CannotWrite.of(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
