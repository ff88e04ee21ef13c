"""A lock on a folder, so that two runs never write the same files. Not in the paper.

The lock belongs to the open file and not to its name, so it ends with the process, however that
ends, and the file may stay.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amae_nnunet.errors import ConfigError

#: Name of the file to lock in a folder that several machines see: NFS has no locks on folders.
LOCK = ".lock"
_log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock ``path``; a file is made if it is not there.

    Args:
        path: a file in the folder to lock, or the folder itself, which then gets no new file.
        shared: others may hold it as well, if they share it too.
        wait: until the other process has ended, instead of an error.

    Raises:
        ConfigError: another process holds it.
    """
    folder = path if path.is_dir() else path.parent
    # NFS locks by fcntl, which shares only what can be read and owns only what can be written.
    file = os.open(path, os.O_RDONLY if folder == path else os.O_RDWR | os.O_CREAT, 0o666)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise ConfigError(
                    f"another run writes into {folder}: wait until it has ended, or stop it"
                ) from None
            _log.info("waiting for another run that writes into %s", folder)
            fcntl.flock(file, kind)
        except OSError:
            _log.warning(
                "warning: the file system of %s has no locks: see to it that one run writes there",
                folder,
            )
        yield
    finally:
        os.close(file)
