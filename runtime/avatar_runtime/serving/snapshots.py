"""Snapshots of live sessions, for the gateway that carries them: from the last one it continues a
session whose pod is lost.

A snapshot is the document of the session with only the newest of the messages that were sent. A
session that does nothing has one snapshot. One that speaks has another one every second, and soon
after each event: an event of which the gateway knows nothing has to be made again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Final

from avatar_contracts.answer_limits import MAX_SNAPSHOT_BYTES
from avatar_contracts.state import LINE_AGE_S
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import session_document
from avatar_runtime.serving import session_moves

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from avatar_runtime.serving.live_session import LiveSession
    from avatar_runtime.serving.live_sessions import LiveSessions
    from avatar_runtime.serving.runtime import Runtime

PERIOD_S: Final = 1.0
"""Time between the snapshots of a session that speaks or listens."""
EVENT_S: Final = 0.1
"""Time from an event to the next snapshot, at most, while they are small."""
MAX_BYTES_PER_S: Final = 1_000_000
"""Of the snapshots of one session: larger ones are made less often."""
_REPLAYED_BYTES: Final = 64 * 1024
"""Newest messages in a snapshot: what a gateway may not have passed on when its pod is lost."""
_LOOK_S: Final = 0.05

_log = logging.getLogger(__name__)


class _Watched:
    """What the gateway has of one session."""

    def __init__(self) -> None:
        self.progress: tuple[int, int, int] | None = None
        self.next_at = 0.0
        self.next_event_at = 0.0
        self.is_kept = False
        """Whether the gateway has a snapshot."""

    def is_due(self, progress: tuple[int, int, int], now: float) -> bool:
        """Return whether something has changed of which another snapshot is needed now."""
        if progress == self.progress:
            return False
        has_event = self.progress is None or progress[0] != self.progress[0]
        return now >= (self.next_event_at if has_event else self.next_at)

    def take(self, progress: tuple[int, int, int], size: int, now: float) -> None:
        """Take notice of a snapshot of `size` bytes."""
        self.progress = progress
        self.next_at = now + max(PERIOD_S, size / MAX_BYTES_PER_S)
        self.next_event_at = now + max(EVENT_S, size / MAX_BYTES_PER_S)


class SnapshotStream:
    """The snapshots of the sessions that one gateway carries."""

    def __init__(self, sessions: LiveSessions, runtime: Runtime, gateway: str) -> None:
        self._sessions = sessions
        self._runtime = runtime
        self._gateway = gateway
        self._watched: dict[str, _Watched] = {}

    async def records(self) -> AsyncIterator[bytes]:
        """Yield records until the process stops: a line of JSON, then `bytes` bytes of a document.

        The line has `connection`, `session`, `bytes` and `resume_s`. With 0 bytes there is no
        snapshot: the session cannot be continued elsewhere as it is now. An empty line comes at
        least once a second: only what is sent shows that a gateway is gone.
        """
        sent_at = self._runtime.clock()
        while not self._runtime.stopping:
            carried = self._sessions.carried_by(self._gateway)
            names = {live.carrier for live in carried}
            for name in self._watched.keys() - names:
                del self._watched[name]
            for live in carried:
                record = await self._record(live)
                if record is not None:
                    yield record
                    sent_at = self._runtime.clock()
            if self._runtime.clock() >= sent_at + LINE_AGE_S:
                yield b"\n"
                sent_at = self._runtime.clock()
            await asyncio.sleep(_LOOK_S)

    async def _record(self, live: LiveSession) -> bytes | None:
        """Return what the gateway needs of a session now, `None` for nothing."""
        name, progress, now = live.carrier, live.session.progress, self._runtime.clock()
        watched = self._watched.setdefault(name, _Watched())
        if not name or not watched.is_due(progress, now):
            return None
        try:
            if live.session.closing is not None or live.is_moving:
                return None
            document = session_moves.export(live, _REPLAYED_BYTES)
            body = await asyncio.to_thread(session_document.encode, document)
        except ProtocolError as error:
            _log.debug("no snapshot session=%s reason=%s", live.session.id, error)
            body = b""
        except Exception:  # a defect costs the session its snapshots, and not the others theirs
            _log.exception("snapshot failed session=%s", live.session.id)
            body = b""
        if len(body) > MAX_SNAPSHOT_BYTES:
            body = b""
        watched.take(progress, len(body), now)
        was_kept, watched.is_kept = watched.is_kept, bool(body)
        if not body and not was_kept:
            return None
        self._runtime.metrics.count_snapshot(len(body))
        line = {
            "connection": name,
            "session": live.session.id,
            "bytes": len(body),
            "resume_s": self._runtime.settings.sessions.resume_ttl_s,
        }
        return json.dumps(line, separators=(",", ":")).encode() + b"\n" + body
