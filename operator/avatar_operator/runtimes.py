"""Keeps the latest state of every runtime pod, from the stream that each one sends.

One task for each pod reads its stream, and reads it again when it breaks. A
state is never made up: what was not heard is missing, and what is old says so.
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import aiohttp

from avatar_operator import names
from avatar_operator.core import contracts, model
from avatar_operator.errors import InvalidResource, RuntimeUnreachable
from avatar_operator.fencing import Fence

SILENCE_S: Final = 3.0
"""A stream sends at least a line a second; after this it is taken for dead."""

RETRY_S: Final = (0.1, 30.0)  # first and longest delay before a stream is opened again
DRAIN_TIMEOUT_S: Final = 2.0
LONGEST_LINE: Final = 1 << 20  # bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a pod listens for us, and what it wants to see."""

    pod: str
    address: str  # HOST:PORT of its admin port
    token: str


@dataclass(frozen=True, slots=True)
class _Heard:
    state: model.PodState
    at: float  # of the loop's clock
    empty_since: float | None  # None while it has sessions

    @property
    def empty_s(self) -> float:
        """Return for how long it has said nothing but that it has no session."""
        return 0.0 if self.empty_since is None else self.at - self.empty_since


class Runtimes:
    """The streams of all runtime pods, by UID."""

    def __init__(self, changed: Callable[[str], None], fence: Fence) -> None:
        self._changed = changed
        self._fence = fence
        self._heard: dict[str, _Heard] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow(self, uid: str, endpoint: Endpoint) -> None:
        """Read the stream of a pod from now on; a new address starts over."""
        if self._endpoints.get(uid) == endpoint:
            return
        self.unfollow(uid)
        self._endpoints[uid] = endpoint
        task = asyncio.create_task(self._watch(uid, endpoint), name=f"state of {endpoint.pod}")
        task.add_done_callback(_report)
        self._tasks[uid] = task

    def unfollow(self, uid: str) -> None:
        """Forget a pod."""
        self._endpoints.pop(uid, None)
        self._heard.pop(uid, None)
        task = self._tasks.pop(uid, None)
        if task is not None:
            task.cancel()

    def states(self, uids: Iterable[str]) -> Mapping[str, model.PodState]:
        """Return the last state of each of these pods that was heard of, with its age now."""
        now = asyncio.get_running_loop().time()
        return {
            uid: replace(heard.state, age_s=now - heard.at, empty_s=heard.empty_s)
            for uid in uids
            if (heard := self._heard.get(uid)) is not None
        }

    def oldest_s(self) -> float:
        """Return the age of the oldest state, 0 if there is none."""
        now = asyncio.get_running_loop().time()
        return max((now - heard.at for heard in self._heard.values()), default=0.0)

    async def drain(self, uid: str, draining: bool) -> None:
        """Tell a pod to accept no more sessions, or to accept them again.

        Raises:
            NotLeading: it was not told, since another one may decide now.
            RuntimeUnreachable: it did not answer as it should.
        """
        endpoint = self._endpoints.get(uid)
        if endpoint is None:
            raise RuntimeUnreachable(uid, "it has no address")
        with self._fence.passage() as left_s:
            await self._post_drain(endpoint, draining, min(DRAIN_TIMEOUT_S, left_s))
        heard = self._heard.get(uid)
        if heard is not None and not draining:
            # Sessions may come from now on: what it said before proves no emptiness.
            self._heard[uid] = replace(heard, state=replace(heard.state, draining=False))

    async def _post_drain(self, endpoint: Endpoint, draining: bool, within_s: float) -> None:
        request = self._client().post(
            f"http://{endpoint.address}/control/v1/drain",
            json={"draining": draining},
            headers=_headers(endpoint),
            timeout=aiohttp.ClientTimeout(total=within_s),
        )
        try:
            async with request as answer:
                if answer.status >= 300:
                    raise RuntimeUnreachable(endpoint.pod, f"it answered {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RuntimeUnreachable(endpoint.pod, _sentence(error)) from error

    async def close(self) -> None:
        """End all streams."""
        tasks = list(self._tasks.values())
        for uid in list(self._tasks):
            self.unfollow(uid)
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # one stream for each pod, however many
            self._session = aiohttp.ClientSession(connector=connector, read_bufsize=LONGEST_LINE)
        return self._session

    async def _watch(self, uid: str, endpoint: Endpoint) -> None:
        first, longest = RETRY_S
        delay = first
        while True:
            try:
                async for state in self._lines(endpoint):
                    delay = first
                    self._hear(uid, state)
                fault = "the stream ended"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                fault = _sentence(error)
            except InvalidResource as error:
                fault = str(error)
            if delay == first:  # once for each outage, not for each try
                _log.info("state stream lost pod=%s fault=%s", endpoint.pod, fault)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(longest, delay * 2)

    async def _lines(self, endpoint: Endpoint) -> AsyncIterator[model.PodState]:
        request = self._client().get(
            f"http://{endpoint.address}/control/v1/state",
            params={"watch": "1"},
            headers=_headers(endpoint),
            timeout=aiohttp.ClientTimeout(total=None, connect=SILENCE_S, sock_read=SILENCE_S),
        )
        async with request as answer:
            answer.raise_for_status()
            async for line in answer.content:
                document = json.loads(line)
                if not isinstance(document, dict):
                    raise ValueError(f"no state: {line[:60]!r}")
                yield contracts.parse_state(document, 0.0)

    def _hear(self, uid: str, state: model.PodState) -> None:
        before = self._heard.get(uid)
        now = asyncio.get_running_loop().time()
        since: float | None = None
        if not state.sessions:
            since = now if before is None or before.empty_since is None else before.empty_since
        self._heard[uid] = _Heard(state, now, since)
        if before is None or _silent(before.state) != _silent(state):
            self._changed(uid)


def _silent(state: model.PodState) -> model.PodState:
    """Return a state without the latency, which changes often and is worth no plan of its own."""
    return replace(state, first_frame_p95_ms=None)


def _headers(endpoint: Endpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoint.token}"}


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("state task died task=%s", task.get_name(), exc_info=error)


def admin_address(pod: model.RuntimePod) -> str:
    """Return where a pod's admin port is reached."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"{host}:{names.ADMIN_PORT}"
