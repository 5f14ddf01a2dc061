"""The folder beside an avatar in which a preparation keeps its finished chunks."""

from __future__ import annotations

import fcntl
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LOCK: Final = "lock"
"""File in the folder that the process holds that prepares the avatar."""


def path_of(out: Path) -> Path:
    """Return the folder of an output, `.NAME-work`."""
    return out.with_name(f".{out.name}-work")


def discard(out: Path) -> None:
    """Remove the folder of an output, unless a process uses it or there is none."""
    folder = path_of(out)
    try:
        with (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
