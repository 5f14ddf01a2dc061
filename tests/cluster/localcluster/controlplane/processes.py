"""Linux processes: their identity, their descendants, and how they end with their parent."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# <linux/prctl.h>
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_TICKS: Final = os.sysconf("SC_CLK_TCK")
POLL_S: Final = 0.05
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, distinguished from a later process with the same PID."""

    pid: int
    started: int  # clock ticks since boot, field 22 of proc(5) stat

    def is_alive(self) -> bool:
        """Return whether this process runs; a zombie does not run."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.started and fields[0] != "Z"

    def signal(self, number: int) -> None:
        """Send a signal if the process runs."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def identify(pid: int) -> Identity:
    """Return the identity of a process.

    Raises:
        ProcessLookupError: the process does not exist.
    """
    fields = _stat(pid)
    if fields is None:
        raise ProcessLookupError(pid)
    return Identity(pid, int(fields[19]))


def descendants(pid: int) -> tuple[int, ...]:
    """Return all processes below `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return tuple(found)


def cpu_by_program(pid: int) -> dict[str, float]:
    """Return the CPU seconds of each program below `pid`, the largest first."""
    taken: dict[str, float] = {}
    for below in descendants(pid):
        fields = _stat(below)
        if fields is None:
            continue
        try:
            program = Path(f"/proc/{below}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        seconds = (int(fields[11]) + int(fields[12])) / _TICKS
        taken[program] = taken.get(program, 0.0) + seconds
    return dict(sorted(taken.items(), key=lambda item: -item[1]))


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds; 0 after its end."""
    fields = _stat(pid)
    return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / _TICKS


async def until_gone(identity: Identity) -> None:
    """Wait until a process has ended; it does not have to be a child."""
    while True:
        if not identity.is_alive():
            return
        await asyncio.sleep(POLL_S)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let the kernel signal the calling process when its parent dies; for `preexec_fn`.

    The kernel watches the parent *thread*, so start such children from a long-lived thread.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, instead of init."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of proc(5) stat, starting with the third (the state)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the second field, the name, may contain any character
