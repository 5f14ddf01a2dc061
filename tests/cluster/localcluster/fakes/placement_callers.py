"""Callers that open a session at a gateway, hold it for a while and close it, in one process.

    python -m localcluster.fakes.placement_callers SPEC

SPEC is the JSON of a `Load`. Prints the JSON of a `Result`. With a rate, callers come at fixed
times whether the gateway keeps up or not, and their delay counts from that time. Without one, each
of `at_once` callers opens its next session when it has closed the one before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Final

_REQUEST: Final = (
    "GET /v1/realtime?model={model}{query} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {key}\r\n\r\n"
)
_CLOSE: Final = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
_ACCEPTED: Final = b"HTTP/1.1 101 "
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


@dataclass(slots=True)
class Result:
    """What the callers saw."""

    opened: int = 0
    refused: int = 0
    failed: int = 0
    """Connections that ended without an answer."""
    delays: list[float] = field(default_factory=list)
    """Seconds until each accepted session was open."""
    duration_s: float = 0.0


async def _call(load: Load, number: int, started: float, result: Result) -> None:
    host, _, port = load.gateways[number % len(load.gateways)].rpartition(":")
    model = load.models[number % len(load.models)]
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(_REQUEST.format(model=model, query=load.query, key=load.key).encode())
            head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        result.failed += 1
        return
    if head.startswith(_ACCEPTED):
        result.opened += 1
        result.delays.append(time.monotonic() - started)
        if load.hold_s:
            await asyncio.sleep(load.hold_s)
        writer.write(_CLOSE)
        try:
            async with asyncio.timeout(_ANSWER_S):
                while await reader.read(2**16):
                    pass
        except (OSError, TimeoutError):
            pass
    else:
        result.refused += 1
    writer.close()


async def _at_a_rate(load: Load, result: Result) -> None:
    async with asyncio.TaskGroup() as group:
        start = time.monotonic()
        for number in range(round(load.per_s * load.duration_s)):
            due = start + number / load.per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(_call(load, number, due, result), name="caller")


async def _one_after_another(load: Load, result: Result) -> None:
    end, numbers = time.monotonic() + load.duration_s, iter(range(sys.maxsize))

    async def repeat() -> None:
        while time.monotonic() < end:
            await _call(load, next(numbers), time.monotonic(), result)

    async with asyncio.TaskGroup() as group:
        for _ in range(load.at_once):
            group.create_task(repeat(), name="caller")


async def run(load: Load) -> Result:
    """Run the callers until the time is over and all their sessions are closed."""
    result, started = Result(), time.monotonic()
    await (_at_a_rate if load.per_s else _one_after_another)(load, result)
    result.duration_s = time.monotonic() - started
    return result


if __name__ == "__main__":
    json.dump(asdict(asyncio.run(run(Load(**json.loads(sys.argv[1]))))), sys.stdout)
