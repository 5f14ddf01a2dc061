"""Reads the state streams of pods, and opens each one again when it breaks.

There is one stream per pod, and each sends at least one line per second. Therefore a stream
is a protocol object of a few hundred bytes, without a task, and a line that repeats the
previous one is not parsed (docs/decisions/0013-streams-without-tasks.md).
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_contracts import labels, socket_buffers, state
from avatar_contracts.backoff import jittered
from avatar_contracts.documents import parse_object
from avatar_operator.core.workqueue import WorkQueue
from avatar_operator.errors import BrokenStream, InvalidResource, TokenRefused
from avatar_operator.streams.endpoint import RETRY_S
from avatar_operator.streams.http_lines import LineReader
from avatar_operator.streams.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_contracts.rate_limit import Rate
    from avatar_operator.streams.endpoint import Endpoint

SILENCE_S: Final = 3.0
"""A pod sends at least one line per second; a stream that is silent longer is broken."""

GROWTH: Final = 3.0  # factor between two delays: six attempts in the first 36 s
REFUSED_S: Final = 5.0  # longest delay after a refused token: the pod gets the new tokens soon
RETRIES_PER_SECOND: Final = 100  # of all lost pods together: otherwise they cost half a core
SWEEP_S: Final = 1.0  # between two checks for silent streams
CONNECTION_LINES: Final = 20  # what a connection costs, so that a pod does not end many of them
MAX_OPENING: Final = 32  # concurrent connection attempts, so that a restart calls pods in turn

_log = logging.getLogger(__name__)


class StateStreams:
    """The streams of pods by UID.

    Each new document goes to `on_document`, which raises `InvalidResource` for a document that
    breaks its contract. A line that repeats the previous document only goes to `on_repeat`.
    """

    def __init__(
        self,
        on_document: Callable[[str, Mapping[str, object]], None],
        on_repeat: Callable[[str], None],
        on_refused: Callable[[str], None] = lambda uid: None,
        rate: Rate = state.POD_RATE,
    ) -> None:
        """`on_refused` gets the UID of each pod that has refused all tokens.

        No stream is read faster than `rate`.
        """
        self.rate = rate
        self._on_document = on_document
        self._on_repeat = on_repeat
        self._on_refused = on_refused
        self._streams: dict[str, _Stream] = {}
        self._queue: WorkQueue[str] = WorkQueue()  # of streams to open
        self._lost: set[str] = set()  # streams that broke and have received nothing since
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    def follow(self, uid: str, endpoint: Endpoint) -> bool:
        """Read a stream from now on, and return whether it replaces or adds a connection."""
        stream = self._streams.get(uid)
        if stream is not None and stream.has_target(endpoint):
            # The state of a pod does not depend on its readiness; whether it listens may.
            if stream.update(endpoint):
                self._open_after(uid, 0.0)
            return False
        self.unfollow(uid)
        self._streams[uid] = _Stream(self, uid, endpoint)
        self._open_after(uid, 0.0)
        if self._task is None:
            self._task = asyncio.create_task(self._open_forever(), name="state streams")
            self._task.add_done_callback(_log_failure)
        return True

    def unfollow(self, uid: str) -> None:
        """Stop reading a stream."""
        stream = self._streams.pop(uid, None)
        if stream is not None:
            stream.close()
            self._lost.discard(uid)
            self._queue.remove(uid)

    def fault(self, uid: str) -> str:
        """Return why the stream of a pod broke last; empty if it works or is not followed."""
        stream = self._streams.get(uid)
        return "" if stream is None else stream.fault

    def endpoint(self, uid: str) -> Endpoint | None:
        """Return the endpoint of a pod, None if the pod is not followed."""
        stream = self._streams.get(uid)
        return None if stream is None else stream.endpoint

    def forget_last_line(self, uid: str) -> None:
        """Handle the next line of a stream as a new document, even if it repeats the last one."""
        stream = self._streams.get(uid)
        if stream is not None:
            stream.forget_last_line()

    async def close(self) -> None:
        """Close all streams."""
        for uid in list(self._streams):
            self.unfollow(uid)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def session(self) -> aiohttp.ClientSession:
        """Return the HTTP session for requests other than streams."""
        if self._session is None:
            self._session = aiohttp.ClientSession()
        return self._session

    def on_line(self, uid: str, line: bytes, last_hash: int | None) -> int:
        """Handle a line of a stream, and return its hash, to be passed with the next line.

        Raises:
            BrokenStream: the line is not a JSON object.
            InvalidResource: the document breaks its contract.
        """
        self._lost.discard(uid)
        line_hash = state.content_hash(line)
        if line_hash == last_hash:
            self._on_repeat(uid)
            return line_hash
        try:
            document = parse_object(line)
        except ValueError:
            raise BrokenStream(f"not a state: {line[:60]!r}") from None
        self._on_document(uid, document)
        return line_hash

    def is_followed(self, stream: _Stream) -> bool:
        """Return whether a stream is still the one of its pod."""
        return self._streams.get(stream.uid) is stream

    def on_lost(self, stream: _Stream, fault: str) -> None:
        """Open a broken stream again after its delay."""
        if not self.is_followed(stream):
            return
        if stream.delay_s == stream.endpoint.first_delay_s:  # once per outage, not per attempt
            _log.info("state stream lost pod=%s fault=%s", stream.endpoint.pod, fault)
        self._lost.add(stream.uid)
        stream.fault = fault
        # The more streams are lost, the longer each one waits, from the first attempt on.
        delay_s = max(stream.delay_s, len(self._lost) / RETRIES_PER_SECOND)
        self._open_after(stream.uid, jittered(delay_s, random.random()))
        stream.delay_s = min(RETRY_S[1], stream.delay_s * GROWTH)

    def on_too_fast(self, stream: _Stream) -> None:
        """Log once that a pod sends more than its contract allows."""
        _log.warning(
            "state stream is too fast and is read slowly pod=%s lines_per_s=%g bytes_per_s=%g",
            stream.endpoint.pod,
            self.rate.frames_per_s,
            self.rate.bytes_per_s,
        )

    def on_refused(self, stream: _Stream) -> None:
        """Try the next token of a pod at once; without another token, open the stream later."""
        if not self.is_followed(stream):
            return
        if stream.use_next_token():
            self._open_after(stream.uid, 0.0)
            return
        stream.delay_s = min(stream.delay_s, REFUSED_S)
        self.on_lost(stream, "the pod refused every token: HTTP status 401")
        self._on_refused(stream.uid)

    def _open_after(self, uid: str, delay_s: float) -> None:
        self._queue.add_after(uid, delay_s, asyncio.get_running_loop().time())
        self._awake.set()

    async def _open_forever(self) -> None:
        """Open the streams that are due, and break those that are silent."""
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(MAX_OPENING)
        sweep_at = loop.time() + SWEEP_S
        async with asyncio.TaskGroup() as tasks:
            while True:
                now = loop.time()
                if now >= sweep_at:
                    self._sweep(now)
                    sweep_at = now + SWEEP_S
                uid = None if slots.locked() else self._queue.get(now)
                if uid is not None:
                    await slots.acquire()
                    tasks.create_task(self._open(uid, slots), name=f"open {uid}")
                    continue
                due_at = None if slots.locked() else self._queue.next_at()
                await self._wait(min(sweep_at, sweep_at if due_at is None else due_at) - now)

    async def _wait(self, seconds: float) -> None:
        self._awake.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._awake.wait()
        except TimeoutError:
            pass

    async def _open(self, uid: str, slots: asyncio.Semaphore) -> None:
        stream = self._streams.get(uid)
        try:
            if stream is not None:
                await stream.open()
        finally:
            self._queue.done(uid)
            slots.release()
            self._awake.set()

    def _sweep(self, now: float) -> None:
        for stream in tuple(self._streams.values()):
            stream.break_if_silent(now)


class _Stream(asyncio.Protocol):
    """The stream of one pod, with one connection at a time."""

    __slots__ = ("_last_hash", "_lines", "_pace", "_received_at", "_refused", "_streams", "_token",
                 "_transport", "delay_s", "endpoint", "fault", "uid")  # fmt: skip

    def __init__(self, streams: StateStreams, uid: str, endpoint: Endpoint) -> None:
        self._streams = streams
        self.uid = uid
        self.endpoint = endpoint
        self._token = endpoint.token  # the one to use
        self._refused = 0  # tokens that the pod has refused since its last line
        self.fault = ""  # why the stream broke last; empty after a line
        self.delay_s = endpoint.first_delay_s
        self._transport: asyncio.Transport | None = None
        self._lines = LineReader()
        self._pace = Pace(streams.rate)
        self._last_hash: int | None = None
        self._received_at = 0.0  # of the loop's clock

    def has_target(self, endpoint: Endpoint) -> bool:
        """Return whether the stream reads from this address, with one of these tokens."""
        return self.endpoint.address == endpoint.address and self._token in endpoint.tokens

    def update(self, endpoint: Endpoint) -> bool:
        """Store the readiness and the tokens, and return whether to open the stream immediately."""
        became_ready = endpoint.ready and not self.endpoint.ready
        has_new_tokens = endpoint.tokens != self.endpoint.tokens
        self.endpoint = endpoint
        if not (became_ready or has_new_tokens):
            return False
        self.delay_s = endpoint.first_delay_s
        return self._transport is None

    async def open(self) -> None:
        """Connect and request the stream; a failure schedules the next attempt."""
        if self._transport is not None:
            return  # opened twice
        host, _, port = self.endpoint.address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENCE_S):
                await loop.create_connection(lambda: self, host.strip("[]"), int(port))
        except (OSError, TimeoutError) as error:
            self._streams.on_lost(self, describe(error))

    def use_next_token(self) -> bool:
        """Use the next token, and return whether it was not tried since the last line.

        After the last one, the first one is the next.
        """
        tokens = self.endpoint.tokens
        number = (tokens.index(self._token) + 1) % len(tokens)
        self._token = tokens[number]
        self._refused += 1
        return self._refused % len(tokens) != 0

    def forget_last_line(self) -> None:
        """Handle the next line as a new document."""
        self._last_hash = None

    def close(self) -> None:
        """Close the connection, without another attempt."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def break_if_silent(self, now: float) -> None:
        """Break the stream if nothing arrived for `SILENCE_S`."""
        if self._transport is not None and now - self._received_at > SILENCE_S:
            self._break(f"no data for {SILENCE_S:g} s")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the stream."""
        assert isinstance(transport, asyncio.Transport)
        if not self._streams.is_followed(self):
            transport.abort()  # unfollowed during the connection attempt
            return
        # Otherwise one read takes what the kernel received while the stream was not read.
        socket_buffers.limit_unread(transport)
        self._transport, self._lines = transport, LineReader()
        self._last_hash = None
        self._received_at = asyncio.get_running_loop().time()
        self._count(CONNECTION_LINES, 0)
        transport.write(
            f"GET {labels.STATE_PATH}?watch=1 HTTP/1.1\r\nHost: {self.endpoint.address}\r\n"
            f"Authorization: Bearer {self._token}\r\nAccept: */*\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Handle the lines that are complete; a faulty line breaks the stream."""
        if self._transport is None:
            return
        self._received_at = asyncio.get_running_loop().time()
        try:
            lines = self._lines.feed(data)
            self._count(len(lines), len(data))
            for line in lines:
                self._last_hash = self._streams.on_line(self.uid, line, self._last_hash)
                self.delay_s, self.fault = self.endpoint.first_delay_s, ""
                self._refused = 0
        except TokenRefused:
            self.close()
            self._streams.on_refused(self)
        except (BrokenStream, InvalidResource) as error:
            self._break(str(error))

    def _count(self, lines: int, size: int) -> None:
        assert self._transport is not None
        if self._pace.count(self._transport, lines, size):
            self._streams.on_too_fast(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Schedule the next attempt, unless the operator closed the connection."""
        if self._transport is not None:
            self._transport = None
            self._streams.on_lost(self, "the stream ended" if error is None else describe(error))

    def _break(self, fault: str) -> None:
        self.close()
        self._streams.on_lost(self, fault)


def describe(error: Exception) -> str:
    """Return type and message of a network error."""
    return f"{type(error).__name__}: {error}"


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("state streams stopped", exc_info=error)
