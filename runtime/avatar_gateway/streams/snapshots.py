"""The snapshot streams: one to each pod that has sessions of this gateway."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import labels, tokens
from avatar_contracts.answer_limits import MAX_SNAPSHOT_BYTES
from avatar_contracts.backoff import Backoff
from avatar_contracts.rate_limit import Rate, RateLimit
from avatar_contracts.state import STALE_S
from avatar_gateway import errors
from avatar_gateway.core.snapshots import Snapshot, SnapshotStore
from avatar_gateway.streams.pod_stream import keep_reading, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiohttp

    from avatar_gateway.core.model import Pod

_RATE: Final = Rate(2000, 50_000_000)
"""Records and bytes per second of one pod; 64 sessions that speak send 64 MB/s at most, but not
at the same time for long. A pod that sends more waits."""
_MAX_LINE_BYTES: Final = 1024
_MAX_RESUME_S: Final = 300


class SnapshotStreams:
    """Follows the snapshots of the sessions that this gateway carries."""

    def __init__(
        self,
        store: SnapshotStore,
        http: aiohttp.ClientSession,
        read_keys: Callable[[], Sequence[str]],
        gateway: str,
    ) -> None:
        """`gateway` is the name of this gateway in the names of its connections."""
        self._store = store
        self._http = http
        self._read_keys = read_keys
        self._gateway = gateway
        self._connections: dict[str, set[str]] = {}  # by the uid of the pod
        self._readers: dict[str, asyncio.Task[None]] = {}

    def follow(self, pod: Pod, connection: str) -> None:
        """Keep the snapshots of the session that a connection to a pod carries."""
        self._connections.setdefault(pod.uid, set()).add(connection)
        if pod.uid not in self._readers:
            name = f"snapshots-{pod.key}"
            self._readers[pod.uid] = asyncio.create_task(self._read(pod), name=name)

    def leave(self, pod: Pod, connection: str) -> None:
        """Forget a connection that has ended."""
        self._store.pop(connection)
        carried = self._connections.get(pod.uid, set())
        carried.discard(connection)
        if not carried:
            self._connections.pop(pod.uid, None)
            reader = self._readers.pop(pod.uid, None)
            if reader is not None:
                reader.cancel()

    async def close(self) -> None:
        """End all streams."""
        readers = list(self._readers.values())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, pod: Pod) -> None:
        backoff = Backoff(0.1, 5.0, random.random)
        await keep_reading("snapshots", pod, lambda: self._follow(pod, backoff), backoff)

    async def _follow(self, pod: Pod, backoff: Backoff) -> None:
        """Read the stream until it ends, with the token of the key that the pod accepts.

        An older runtime has no snapshots.
        """
        accepted = [tokens.session_token(key, pod.original_service) for key in self._read_keys()]
        query = {"gateway": self._gateway}
        async with opened(
            self._http, pod, labels.SNAPSHOTS_PATH, query, accepted, 2 * STALE_S
        ) as response:
            await self._take_records(pod, response.content, backoff)

    async def _take_records(self, pod: Pod, content: Any, backoff: Backoff) -> None:
        pace, loop = RateLimit(_RATE), asyncio.get_running_loop()
        while True:
            line = await content.readuntil(b"\n")
            if not line:
                return
            if line == b"\n":  # the pod is there, and nothing has changed
                backoff.reset()
                await asyncio.sleep(max(0.0, pace.delay(loop.time(), 1, 1)))
                continue
            connection, session_id, size, resume_s = _parse(line)
            document = await content.readexactly(size)
            if connection in self._connections.get(pod.uid, ()):
                now = loop.time()
                if document:
                    snapshot = Snapshot(session_id, pod, now, resume_s, document)
                    self._store.put(connection, snapshot)
                else:
                    self._store.pop(connection)
            backoff.reset()
            delay = pace.delay(loop.time(), 1, len(line) + size)
            await asyncio.sleep(max(0.0, delay))


def _parse(line: bytes) -> tuple[str, str, int, float]:
    """Return connection, session, size and time to resume of a record.

    Raises:
        StateError: a field is missing or wrong.
        ValueError: the line is not JSON.
    """
    if len(line) > _MAX_LINE_BYTES:
        raise errors.StateError("line", len(line), f"at most {_MAX_LINE_BYTES} bytes")
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise errors.StateError("line", type(fields).__name__, "an object")
    for name in ("connection", "session"):
        if not isinstance(fields.get(name), str):
            raise errors.StateError(name, fields.get(name), "a string")
    for name, limit in (("bytes", MAX_SNAPSHOT_BYTES), ("resume_s", _MAX_RESUME_S)):
        value = fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise errors.StateError(name, value, f"a whole number, 0 to {limit}")
    return fields["connection"], fields["session"], fields["bytes"], fields["resume_s"]
