"""Reads the state streams of pods: one task each, which begins again when its stream breaks."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from avatar_operator import names
from avatar_operator.errors import InvalidResource

SILENCE_S: Final = 3.0
"""A stream sends at least a line a second; after this it is taken for dead."""

RETRY_S: Final = (0.1, 30.0)  # first and longest delay before a stream is opened again
LONGEST_LINE: Final = 1 << 20  # bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a pod listens for us, and what it wants to see."""

    pod: str
    address: str  # HOST:PORT of its admin port
    token: str
    ready: bool = False  # once the kubelet says so, the next try comes without a pause


class Streams:
    """The streams of pods by UID; each document goes to `hear`, which may refuse it.

    `hear` raises `InvalidResource` for a document that breaks its contract.
    """

    def __init__(self, hear: Callable[[str, Mapping[str, object]], None]) -> None:
        self._hear = hear
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow(self, uid: str, endpoint: Endpoint) -> bool:
        """Read a stream from now on, and return whether it is another one than before."""
        before = self._endpoints.get(uid)
        if before == endpoint:
            return False
        moved = before is None or (before.address, before.token) != (
            endpoint.address,
            endpoint.token,
        )
        if not moved and not endpoint.ready:  # what it says does not depend on the kubelet's word
            self._endpoints[uid] = endpoint
            return False
        self.unfollow(uid)
        self._endpoints[uid] = endpoint
        task = asyncio.create_task(self._watch(uid, endpoint), name=f"state of {endpoint.pod}")
        task.add_done_callback(_report)
        self._tasks[uid] = task
        return moved

    def unfollow(self, uid: str) -> None:
        """Read a stream no more."""
        self._endpoints.pop(uid, None)
        task = self._tasks.pop(uid, None)
        if task is not None:
            task.cancel()

    def endpoint(self, uid: str) -> Endpoint | None:
        """Return where a pod listens, None if it is not followed."""
        return self._endpoints.get(uid)

    async def close(self) -> None:
        """End all streams."""
        tasks = list(self._tasks.values())
        for uid in list(self._tasks):
            self.unfollow(uid)
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def client(self) -> aiohttp.ClientSession:
        """Return the connections that streams and requests share."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # one stream for each pod, however many
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=LONGEST_LINE)
        return self._session

    async def _watch(self, uid: str, endpoint: Endpoint) -> None:
        first, longest = RETRY_S
        delay = first
        while True:
            try:
                async for document in self._documents(endpoint):
                    self._hear(uid, document)
                    delay = first
                fault = "the stream ended"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                fault = sentence(error)
            except InvalidResource as error:
                fault = str(error)
            if delay == first:  # once for each outage, not for each try
                _log.info("state stream lost pod=%s fault=%s", endpoint.pod, fault)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(longest, delay * 2)

    async def _documents(self, endpoint: Endpoint) -> AsyncIterator[Mapping[str, object]]:
        request = self.client().get(
            f"http://{endpoint.address}/control/v1/state",
            params={"watch": "1"},
            headers=headers(endpoint),
            timeout=aiohttp.ClientTimeout(total=None, connect=SILENCE_S, sock_read=SILENCE_S),
        )
        async with request as answer:
            answer.raise_for_status()
            async for line in answer.content:
                document = json.loads(line)
                if not isinstance(document, dict):
                    raise ValueError(f"no state: {line[:60]!r}")
                yield document


def headers(endpoint: Endpoint) -> dict[str, str]:
    """Return what a pod wants to see of us."""
    return {"Authorization": f"Bearer {endpoint.token}"}


def admin_address(ip: str) -> str:
    """Return where a pod's admin port is reached."""
    return f"[{ip}]:{names.ADMIN_PORT}" if ":" in ip else f"{ip}:{names.ADMIN_PORT}"


def sentence(error: Exception) -> str:
    """Return an error of the network as a reason."""
    return f"{type(error).__name__}: {error}"


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("state task died task=%s", task.get_name(), exc_info=error)
