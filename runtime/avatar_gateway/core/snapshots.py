"""The last snapshots of the sessions that this gateway carries."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_gateway.core.model import Pod

MAX_BYTES: Final = 256 * 2**20
"""Size of all snapshots."""


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
    """Snapshots by the connections that carry their sessions.

    The author of a service chooses the image of its pods, and may send large snapshots. When there
    are too many, those of the service that has most of them make room, the oldest first.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.on_evicted: Callable[[], None] = lambda: None
        """Called for each snapshot that makes room for others."""
        self._max_bytes = max_bytes
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()
        self._bytes: Counter[str] = Counter()  # by service

    @property
    def nbytes(self) -> int:
        """Return the size of all snapshots."""
        return self._bytes.total()

    def put(self, connection: str, snapshot: Snapshot) -> None:
        """Keep the newest snapshot of a connection."""
        self.pop(connection)
        self._snapshots[connection] = snapshot
        self._bytes[snapshot.pod.service] += len(snapshot.document)
        while self.nbytes > self._max_bytes:
            largest = max(self._bytes, key=self._bytes.__getitem__)
            own = (name for name, each in self._snapshots.items() if each.pod.service == largest)
            self.pop(next(own))
            self.on_evicted()

    def pop(self, connection: str) -> Snapshot | None:
        """Remove and return the snapshot of a connection, `None` if there is none."""
        snapshot = self._snapshots.pop(connection, None)
        if snapshot is not None:
            service = snapshot.pod.service
            self._bytes[service] -= len(snapshot.document)
            if not self._bytes[service]:
                del self._bytes[service]
        return snapshot
