"""The streams of the runtime pods: one connection of each kind to each pod while it exists."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts import labels, socket_buffers, tokens, usage
from avatar_contracts.documents import MAX_LINE_BYTES, parse_object, take_lines
from avatar_contracts.rate_limit import RateLimit
from avatar_contracts.state import LONGEST_PAUSE_S, POD_RATE, content_hash
from avatar_gateway import errors
from avatar_gateway.core import model, routing
from avatar_gateway.streams.pod_stream import keep_reading, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from avatar_contracts.backoff import Backoff
    from avatar_contracts.rate_limit import Rate
    from avatar_gateway.core.model import Pod
    from avatar_gateway.pod_registry import PodRegistry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamKind:
    """A stream that every runtime pod serves on its administration port."""

    name: str
    path: str
    rate: Rate
    """How fast it is read. The author of a service chooses the image, and so what its pods send."""
    silence_s: float
    """Time without a line after which the connection is taken as dead."""


STATES: Final = StreamKind("state", labels.STATE_PATH, POD_RATE, 2 * routing.STALE_S)
USAGE: Final = StreamKind("usage", labels.USAGE_PATH, usage.READ_RATE, 3 * usage.LINE_AGE_S)


def new_http_session() -> aiohttp.ClientSession:
    """Return a session that keeps its connections to each pod, without aiohttp's limit of 100."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def update_states(registry: PodRegistry) -> Callable[[Pod, Mapping[str, Any], float], None]:
    """Return what stores the states of pods in the registry."""

    def on_line(pod: Pod, document: Mapping[str, Any], now: float) -> None:
        registry.update_state(pod, model.parse_state(document, pod, now))

    return on_line


class PodStreams:
    """Reads one kind of stream from all pods of the registry."""

    def __init__(
        self,
        kind: StreamKind,
        on_line: Callable[[Pod, Mapping[str, Any], float], None],
        registry: PodRegistry,
        http: aiohttp.ClientSession,
        read_keys: Callable[[], tuple[str, ...]],
        new_backoff: Callable[[], Backoff],
        on_fault: Callable[[], None] = lambda: None,
        on_same_line: Callable[[Pod, float], bool] | None = None,
    ) -> None:
        """`on_line` gets the pod, the object of its line and the time of the event loop.

        It raises `StateError` for a wrong line, which ends the stream. `read_keys` returns the
        gateway keys, the current one first. `on_fault` is called for each stream that ends because
        of what a pod sent. `on_same_line` gets the pod and the time if a line differs from the one
        before in its sequence number only; if it returns False, the line is parsed. Without it,
        lines are not compared.
        """
        self._kind = kind
        self._on_same_line = on_same_line
        self._on_line = on_line
        self._registry = registry
        self._http = http
        self._read_keys = read_keys
        self._new_backoff = new_backoff
        self._on_fault = on_fault
        self._readers: dict[tuple[str, str, bool], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Start a reader for each pod with an IP address, and stop it when the pod is deleted.

        A pod that becomes ready gets a new reader, which connects without a back-off delay.
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._registry.pods_changed.clear()
                expected = {
                    (pod.uid, pod.ip, pod.ready): pod
                    for pod in self._registry.pods.values()
                    if pod.ip and not pod.terminating
                }
                for key in self._readers.keys() - expected.keys():
                    self._readers.pop(key).cancel()
                for key in expected.keys() - self._readers.keys():
                    pod = expected[key]
                    name = f"{self._kind.name}-{pod.key}"
                    self._readers[key] = group.create_task(self._read(pod), name=name)
                await self._registry.pods_changed.wait()

    async def _read(self, pod: Pod) -> None:
        backoff, pace = self._new_backoff(), RateLimit(self._kind.rate)
        await keep_reading(
            self._kind.name,
            pod,
            lambda: self._follow(pod, backoff, pace),
            backoff,
            self._on_fault,
        )

    async def _follow(self, pod: Pod, backoff: Backoff, pace: RateLimit) -> None:
        """Read the stream until it ends, with the token of the key that the pod accepts."""
        loop, kind = asyncio.get_running_loop(), self._kind
        accepted = [tokens.state_token(key, pod.original_service) for key in self._read_keys()]
        async with opened(
            self._http, pod, kind.path, {"watch": "1"}, accepted, kind.silence_s
        ) as response:
            if response.connection is not None and response.connection.transport is not None:
                socket_buffers.limit_unread(response.connection.transport)
            last_hash: int | None = None
            async for line in _lines(response.content, pace):
                before, is_taken = last_hash, False
                if self._on_same_line is not None:
                    last_hash = content_hash(line)
                    is_taken = last_hash == before and self._on_same_line(pod, loop.time())
                if not is_taken:
                    self._on_line(pod, parse_object(line), loop.time())
                backoff.reset()


async def _lines(content: aiohttp.StreamReader, pace: RateLimit) -> AsyncIterator[bytearray]:
    """Yield the lines of a stream, no faster than `pace` allows.

    The author of a service chooses the image of its pods. A pod that sends as fast as it can must
    not keep the event loop busy that carries the sessions of all services.

    Raises:
        StateError: a line is longer than `MAX_LINE_BYTES`.
    """
    rest = bytearray()
    async for data in content.iter_any():
        rest += data
        lines = take_lines(rest)
        for line in lines:
            yield line
        pause_s = pace.delay(asyncio.get_running_loop().time(), len(lines), len(data))
        if pause_s > 0:
            await asyncio.sleep(min(LONGEST_PAUSE_S, pause_s))
        if len(rest) > MAX_LINE_BYTES:
            limit = f"no more than {MAX_LINE_BYTES} bytes"
            raise errors.StateError("line", f"more than {len(rest)} bytes", limit)
