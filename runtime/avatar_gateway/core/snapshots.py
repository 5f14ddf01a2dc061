"""The last snapshots of the sessions that this gateway carries."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from avatar_gateway.core.model import Pod

MAX_BYTES: Final = 256 * 2**20
"""Size of all snapshots; those that are the oldest make room for new ones."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session as it was a moment ago."""

    session_id: str
    pod: Pod
    """The pod that has it."""
    at: float
    """When it arrived, seconds of the gateway's monotonic clock."""
    resume_s: float
    """How long the session waits for its caller."""
    document: bytes = field(repr=False)


class SnapshotStore:
    """Snapshots by the connections that carry their sessions."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()
        self._bytes = 0
        self.evicted = 0
        """Snapshots that made room for others."""

    @property
    def nbytes(self) -> int:
        """Return the size of all snapshots."""
        return self._bytes

    def put(self, connection: str, snapshot: Snapshot) -> None:
        """Keep the newest snapshot of a connection."""
        self.pop(connection)
        self._snapshots[connection] = snapshot
        self._bytes += len(snapshot.document)
        while self._bytes > self._max_bytes:
            self.pop(next(iter(self._snapshots)))
            self.evicted += 1

    def pop(self, connection: str) -> Snapshot | None:
        """Remove and return the snapshot of a connection, `None` if there is none."""
        snapshot = self._snapshots.pop(connection, None)
        if snapshot is not None:
            self._bytes -= len(snapshot.document)
        return snapshot
