"""The lock by which a process keeps the files of a cached model from being removed.

A cache is a folder with one folder for each manifest, named by the SHA-256 of the manifest:

    DIGEST/files/       what pods mount as their model, read-only
    DIGEST/files/.lock  locked (shared) by each process that uses the files
    DIGEST/parts/       downloads that are not complete
    DIGEST/download     locked (exclusive) by the process that verifies and downloads
    DIGEST/used         its time is that of the last use

The kernel releases locks when a process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = ".lock"


def hold(folder: Path) -> int | None:
    """Lock the files of a folder until this process ends; return the descriptor.

    Returns None if the folder is not that of a cache, or its file system has no locks.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if not try_lock(descriptor, fcntl.LOCK_SH):
        os.close(descriptor)
        return None
    return descriptor


def try_lock(descriptor: int, kind: int) -> bool:
    """Return whether the lock of a file is now held; another process may hold it."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False
