"""What `timed_runtime` has written: when the server read what ended each epoch, and its delays."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """The rows of one process."""

    read_at: Mapping[tuple[str, int], float]
    """When the message was read that began an epoch, by session and epoch, monotonic seconds."""
    stale: Sequence[Mapping[str, Any]]
    """Media of an older epoch that was written after that."""
    slow: Sequence[Mapping[str, Any]]
    """Callbacks of the event loop that took long."""

    def stale_of(self, sessions: set[str]) -> int:
        """Return how much media of an older epoch was written to some sessions."""
        return sum(row["session"] in sessions for row in self.stale)

    def slow_callbacks(self) -> list[dict[str, Any]]:
        """Return the slow callbacks by kind, the slowest first.

        A callback whose CPU time is far below its wall time has waited for a processor, or for the
        lock of the interpreter.
        """
        by_kind: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self.slow:
            by_kind[row["what"]].append(row)
        found = []
        for kind, rows in by_kind.items():
            slowest = max(rows, key=lambda row: float(row["took_s"]))
            found.append(
                {
                    "callback": kind,
                    "count": len(rows),
                    "max_s": round(slowest["took_s"], 4),
                    "cpu_of_it_s": round(slowest["cpu_s"], 4),
                    "max_cpu_s": round(max(row["cpu_s"] for row in rows), 4),
                }
            )
        return sorted(found, key=lambda row: -row["max_s"])[:_SHOWN]


def read(path: Path) -> ServerTimes:
    """Read the file of a process that has ended."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    read_at = {(row["session"], row["epoch"]): row["read_at"] for row in kinds["epoch"]}
    first_at = min(read_at.values(), default=0.0)  # before it, the process starts
    slow = [row for row in kinds["slow"] if row["at"] > first_at]
    return ServerTimes(read_at, kinds["stale"], slow)
