"""Callers that open a session at a gateway, hold it for a while and close it, in one process.

    python -m localcluster.fakes.placement_callers SPEC

SPEC is the JSON of a `Load`. Prints the JSON of a `Result`. With a rate, callers come at fixed
times whether the gateway keeps up or not, and their delay counts from that time. Without one, each
of `at_once` callers opens its next session when it has closed the one before. The callers share
processors with the gateways that are measured, so each is one protocol with prepared bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Final

from avatar_gateway import event_loop

_REALTIME: Final = (
    "GET /v1/realtime?model={model}{query} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {key}\r\n\r\n"
)
_DIRECT: Final = (
    "POST /v1/sessions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
)
_CLOSE: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
_OPENED: Final = b"HTTP/1.1 101 "
_CREATED: Final = b"HTTP/1.1 201 "
_LENGTH: Final = re.compile(rb"\r\nContent-Length: *([0-9]+)", re.IGNORECASE)
_ANSWER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What the callers do."""

    gateways: list[str]
    """HOST:PORT of each gateway; callers take them in turn."""
    models: list[str]
    key: str
    duration_s: float
    per_s: float = 0.0
    """Callers a second; 0 for as many as `at_once` callers open."""
    at_once: int = 16
    hold_s: float = 0.0
    query: str = ""
    is_direct: bool = False
    """Whether they ask for the address of a pod instead of a session."""
    keeps_connection: bool = False
    """Whether each of `at_once` callers sends all its direct requests on one connection."""

    def request(self, model: str) -> bytes:
        """Return the request of a caller."""
        if not self.is_direct:
            return _REALTIME.format(model=model, query=self.query, key=self.key).encode()
        body = json.dumps({"model": model})
        return _DIRECT.format(key=self.key, length=len(body), body=body).encode()


@dataclass(slots=True)
class Result:
    """What the callers saw."""

    opened: int = 0
    refused: int = 0
    failed: int = 0
    """Connections that ended without an answer."""
    delays: list[float] = field(default_factory=list)
    """Seconds until each accepted session was open."""
    started: list[float] = field(default_factory=list)
    """When these callers came, seconds on the clock of the machine."""
    duration_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the callers."""


class _Caller(asyncio.Protocol):
    """One caller: its `done` is set when its connection has ended."""

    def __init__(
        self,
        request: bytes,
        started: float,
        hold_s: float,
        result: Result,
        done: asyncio.Future[None],
    ) -> None:
        self._request, self._started, self._hold_s = request, started, hold_s
        self._result, self._done = result, done
        self._loop = done.get_loop()
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)
        self._deadline = self._loop.call_later(_ANSWER_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take the answer, whose head is one segment; ignore what follows."""
        if self._is_answered:
            return
        self._is_answered = True
        self._deadline.cancel()
        if not data.startswith((_OPENED, _CREATED)):
            self._result.refused += 1
            self._transport.abort()
            return
        self._result.opened += 1
        self._result.delays.append(time.monotonic() - self._started)
        self._result.started.append(self._started)
        if data.startswith(_CREATED):
            self._transport.abort()
        elif self._hold_s:
            self._loop.call_later(self._hold_s, self._close)
        else:
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection without an answer."""
        del exc
        self._deadline.cancel()
        if not self._is_answered:
            self._result.failed += 1
        if not self._done.done():
            self._done.set_result(None)

    def _close(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_CLOSE)
            self._deadline = self._loop.call_later(_ANSWER_S, self._transport.abort)


class _KeptConnection(asyncio.Protocol):
    """A connection on which one direct request follows the other, as a backend sends them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._answered: asyncio.Future[bool] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    async def ask(self, request: bytes) -> bool:
        """Send a request, and return whether a pod was offered; raise `OSError` at an end."""
        self._received.clear()
        self._answered = self._loop.create_future()
        self.transport.write(request)
        async with asyncio.timeout(_ANSWER_S):
            return await self._answered

    def data_received(self, data: bytes) -> None:
        """Take the answer."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length is not None and len(body) >= int(length[1]) and not self._answered.done():
            self._answered.set_result(head.startswith(_CREATED))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that waits."""
        if not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError())


class _Callers:
    """Starts callers, which take the gateways and the models in turn."""

    def __init__(self, load: Load, result: Result) -> None:
        self._load, self._result = load, result
        self._requests = [load.request(model) for model in load.models]
        self._hosts = [
            (host, int(port)) for host, _, port in (each.rpartition(":") for each in load.gateways)
        ]
        self._number = 0

    async def call(self, started: float) -> None:
        """Be one caller until its connection has ended."""
        number, self._number = self._number, self._number + 1
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        request = self._requests[number // len(self._hosts) % len(self._requests)]
        try:
            await loop.create_connection(
                lambda: _Caller(request, started, self._load.hold_s, self._result, done),
                *self._hosts[number % len(self._hosts)],
            )
        except OSError:
            self._result.failed += 1
            return
        await done

    async def repeat(self, end: float) -> None:
        """Be one backend with a connection that it keeps, until a time on the monotonic clock."""
        number, self._number = self._number, self._number + 1
        loop, result = asyncio.get_running_loop(), self._result
        host = self._hosts[number % len(self._hosts)]
        transport, kept = await loop.create_connection(_KeptConnection, *host)
        while (started := time.monotonic()) < end:
            request = self._requests[(number + result.opened) % len(self._requests)]
            if await kept.ask(request):
                result.opened += 1
                result.delays.append(time.monotonic() - started)
                result.started.append(started)
            else:
                result.refused += 1
        transport.abort()


async def _at_a_rate(load: Load, result: Result) -> None:
    callers = _Callers(load, result)
    async with asyncio.TaskGroup() as group:
        start = time.monotonic()
        for number in range(round(load.per_s * load.duration_s)):
            due = start + number / load.per_s
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            group.create_task(callers.call(due), name="caller")


async def _one_after_another(load: Load, result: Result) -> None:
    end, callers = time.monotonic() + load.duration_s, _Callers(load, result)

    async def repeat() -> None:
        while time.monotonic() < end:
            await callers.call(time.monotonic())

    async with asyncio.TaskGroup() as group:
        for _ in range(load.at_once):
            caller = callers.repeat(end) if load.keeps_connection else repeat()
            group.create_task(caller, name="caller")


async def run(load: Load) -> Result:
    """Run the callers until the time is over and all their sessions are closed."""
    result, started, cpu_s = Result(), time.monotonic(), time.process_time()
    await (_at_a_rate if load.per_s else _one_after_another)(load, result)
    result.duration_s = time.monotonic() - started
    result.cpu_s = time.process_time() - cpu_s
    return result


async def _main(load: Load) -> None:
    json.dump(asdict(await run(load)), sys.stdout)


if __name__ == "__main__":
    event_loop.run(_main(Load(**json.loads(sys.argv[1]))))
