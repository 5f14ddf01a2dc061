"""Reads the state streams of pods, each opened again when it breaks.

There are as many as there are pods, and each says at least a line a second: so a
stream is a protocol of a few hundred bytes, without a task, and a line that repeats
the one before is not parsed (docs/decisions/0013-streams-without-tasks.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_operator import names
from avatar_operator.core.workqueue import Agenda
from avatar_operator.errors import BrokenStream, InvalidResource
from avatar_operator.streams.http_lines import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SILENCE_S: Final = 3.0
"""A stream sends at least a line a second; after this it is taken for dead."""

RETRY_S: Final = (0.1, 30.0)  # first and longest delay before a stream is opened again
GROWTH: Final = 3.0  # of the delay from one try to the next: six tries in the first 36 s
STARTING_S: Final = 1.0  # first delay for a pod that is not ready: its port may not be open yet
RETRIES_A_SECOND: Final = 100  # to all lost pods together: else a lost cluster costs half a core
SWEEP_S: Final = 1.0  # from one look for silent streams to the next
OPENING: Final = 32  # at once: a whole cluster is not called at the same instant

# Counts the lines of a stream, and is no part of what a line says.
_SEQUENCE: Final = re.compile(rb'"sequence":\s*\d+')

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a pod listens for us, and what it wants to see."""

    pod: str
    address: str  # HOST:PORT of its admin port
    token: str
    ready: bool = False  # once the kubelet says so, the next try comes without a pause

    @property
    def first_delay_s(self) -> float:
        """How long to wait after a stream broke for the first time."""
        return RETRY_S[0] if self.ready else STARTING_S


class Streams:
    """The streams of pods by UID; each document goes to `hear`, which may refuse it.

    `hear` raises `InvalidResource` for a document that breaks its contract. A line
    that says what the last one said only goes to `again`.
    """

    def __init__(
        self,
        hear: Callable[[str, Mapping[str, object]], None],
        again: Callable[[str], None],
    ) -> None:
        self._hear = hear
        self._again = again
        self._streams: dict[str, _Stream] = {}
        self._agenda: Agenda[str] = Agenda()  # of streams to open
        self._lost: set[str] = set()  # those that broke and are not heard of again
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    def follow(self, uid: str, endpoint: Endpoint) -> bool:
        """Read a stream from now on, and return whether it is another one than before."""
        stream = self._streams.get(uid)
        if stream is not None and stream.reaches(endpoint):
            # What a pod says does not depend on the kubelet's word; whether it listens may.
            if stream.renew(endpoint):
                self._open_at(uid, asyncio.get_running_loop().time())
            return False
        self.unfollow(uid)
        self._streams[uid] = _Stream(self, uid, endpoint)
        self._open_at(uid, asyncio.get_running_loop().time())
        if self._task is None:
            self._task = asyncio.create_task(self._open_forever(), name="streams")
            self._task.add_done_callback(_report)
        return True

    def unfollow(self, uid: str) -> None:
        """Read a stream no more."""
        stream = self._streams.pop(uid, None)
        if stream is not None:
            stream.close()
            self._lost.discard(uid)
            self._agenda.forget(uid)

    def endpoint(self, uid: str) -> Endpoint | None:
        """Return where a pod listens, None if it is not followed."""
        stream = self._streams.get(uid)
        return None if stream is None else stream.endpoint

    def read_anew(self, uid: str) -> None:
        """Take the next line of a stream for news, whatever it says."""
        stream = self._streams.get(uid)
        if stream is not None:
            stream.read_anew()

    async def close(self) -> None:
        """End all streams."""
        for uid in list(self._streams):
            self.unfollow(uid)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def client(self) -> aiohttp.ClientSession:
        """Return the connections for requests other than streams."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    def hear(self, uid: str, line: bytes, said: int | None) -> int:
        """Take in a line of a stream, and return what it said, to be given with the next one.

        Raises:
            BrokenStream: the line holds no document.
            InvalidResource: the document breaks its contract.
        """
        self._lost.discard(uid)
        says = hash(_SEQUENCE.sub(b"", line))  # of 64 bits, with a secret of this process
        if says == said:
            self._again(uid)
            return says
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise BrokenStream(f"no state: {line[:60]!r}")
        self._hear(uid, document)
        return says

    def has(self, stream: _Stream) -> bool:
        """Return whether a stream is still followed."""
        return self._streams.get(stream.uid) is stream

    def lost(self, stream: _Stream, fault: str) -> None:
        """Take in that a stream broke, and open it again after a while."""
        if not self.has(stream):
            return
        if stream.delay_s == stream.endpoint.first_delay_s:  # once for each outage, not each try
            _log.info("state stream lost pod=%s fault=%s", stream.endpoint.pod, fault)
        self._lost.add(stream.uid)
        now = asyncio.get_running_loop().time()
        # The more are lost, the longer each waits, from the first try on.
        delay_s = max(stream.delay_s, len(self._lost) / RETRIES_A_SECOND)
        self._open_at(stream.uid, now + delay_s * random.uniform(0.5, 1.0))
        stream.delay_s = min(RETRY_S[1], stream.delay_s * GROWTH)

    def _open_at(self, uid: str, at: float) -> None:
        self._agenda.wake(uid, at)
        self._awake.set()

    async def _open_forever(self) -> None:
        """Open the streams that are due, and break those that fell silent."""
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(OPENING)
        sweep_at = loop.time() + SWEEP_S
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = loop.time()
                if now >= sweep_at:
                    self._sweep(now)
                    sweep_at = now + SWEEP_S
                uid = None if room.locked() else self._agenda.take(now)
                if uid is not None:
                    await room.acquire()
                    tasks.create_task(self._open(uid, room), name=f"open {uid}")
                    continue
                due_at = None if room.locked() else self._agenda.next_at()
                await self._pause(min(sweep_at, sweep_at if due_at is None else due_at) - now)

    async def _pause(self, seconds: float) -> None:
        self._awake.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._awake.wait()
        except TimeoutError:
            pass

    async def _open(self, uid: str, room: asyncio.Semaphore) -> None:
        stream = self._streams.get(uid)
        try:
            if stream is not None:
                await stream.open()
        finally:
            self._agenda.finish(uid)
            room.release()
            self._awake.set()

    def _sweep(self, now: float) -> None:
        for stream in tuple(self._streams.values()):
            stream.break_if_silent(now)


class _Stream(asyncio.Protocol):
    """One connection to a pod at a time."""

    __slots__ = ("_heard_at", "_lines", "_said", "_streams", "_transport", "delay_s", "endpoint",
                 "uid")  # fmt: skip

    def __init__(self, streams: Streams, uid: str, endpoint: Endpoint) -> None:
        self._streams = streams
        self.uid = uid
        self.endpoint = endpoint
        self.delay_s = endpoint.first_delay_s
        self._transport: asyncio.Transport | None = None
        self._lines = Lines()
        self._said: int | None = None
        self._heard_at = 0.0  # of the loop's clock

    def reaches(self, endpoint: Endpoint) -> bool:
        here = self.endpoint
        return (here.address, here.token) == (endpoint.address, endpoint.token)

    def renew(self, endpoint: Endpoint) -> bool:
        """Take in what else is known of a pod, and return whether to open the stream at once."""
        became_ready = endpoint.ready and not self.endpoint.ready
        self.endpoint = endpoint
        if not became_ready:
            return False
        self.delay_s = endpoint.first_delay_s
        return self._transport is None

    async def open(self) -> None:
        if self._transport is not None:
            return  # woken twice
        host, _, port = self.endpoint.address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENCE_S):
                await loop.create_connection(lambda: self, host.strip("[]"), int(port))
        except (OSError, TimeoutError) as error:
            self._streams.lost(self, sentence(error))

    def read_anew(self) -> None:
        self._said = None

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def break_if_silent(self, now: float) -> None:
        if self._transport is not None and now - self._heard_at > SILENCE_S:
            self._break(f"nothing for {SILENCE_S:g} s")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._streams.has(self):
            transport.abort()  # it was given up while it was opened
            return
        self._transport, self._lines = transport, Lines()
        self._said = None
        self._heard_at = asyncio.get_running_loop().time()
        transport.write(
            f"GET /control/v1/state?watch=1 HTTP/1.1\r\nHost: {self.endpoint.address}\r\n"
            f"Authorization: Bearer {self.endpoint.token}\r\nAccept: */*\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._heard_at = asyncio.get_running_loop().time()
        try:
            for line in self._lines.feed(data):
                self._said = self._streams.hear(self.uid, line, self._said)
                self.delay_s = self.endpoint.first_delay_s
        except (BrokenStream, InvalidResource) as error:
            self._break(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._streams.lost(self, "the stream ended" if error is None else sentence(error))

    def _break(self, fault: str) -> None:
        self.close()
        self._streams.lost(self, fault)


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
        _log.error("the streams died", exc_info=error)
