"""A clock that does not count the time in which the processes under test wait for a processor.

The limits of a campaign concern the operator. On a machine that is busy with other work, its
processes wait for a processor most of the time, and a limit in wall time would measure that.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Waits = dict[str, float]
"""Seconds for which each thread has waited for a processor, by the folder of the thread."""


class MachineClock:
    """Counts the seconds in which the processes under test did not wait for a processor.

    Of each interval it leaves out the time of the thread that waited longest. Threads may wait one
    after the other, so it leaves out too little rather than too much.
    """

    def __init__(
        self,
        pids: Callable[[], Iterable[int]],
        wall: Callable[[], float] = time.monotonic,
        waits: Callable[[Iterable[int]], Waits] | None = None,
    ) -> None:
        """`pids` returns the processes under test; those that ended are left out."""
        self._pids = pids
        self._wall = wall
        self._read = waits or read_waits
        self._now_s = 0.0
        self._wall_s = wall()
        self._waits: Mapping[str, float] = self._read(pids())

    def now(self) -> float:
        """Return the seconds that count since the clock was made."""
        return self._now_s

    def advance(self) -> None:
        """Count the time since the last call; call this several times a second."""
        wall_s, waits = self._wall(), self._read(self._pids())
        passed_s = wall_s - self._wall_s
        waited_s = max(
            (now_s - self._waits[each] for each, now_s in waits.items() if each in self._waits),
            default=0.0,
        )
        self._now_s += max(0.0, passed_s - max(0.0, waited_s))
        self._wall_s, self._waits = wall_s, waits


def read_waits(pids: Iterable[int]) -> Waits:
    """Return for how long each thread of some processes has waited for a processor."""
    found = {}
    for pid in pids:
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found[str(thread)] = int((thread / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):  # it has ended, or the kernel does not count
            continue
    return found
