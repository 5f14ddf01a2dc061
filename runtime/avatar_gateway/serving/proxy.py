"""Forwards messages between a caller and a pod in both directions, without parsing them.

The proxy has no queue of its own. It reads a message only after it has written the previous one,
so a side that does not read slows down the other side through the socket buffers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import WSMsgType

if TYPE_CHECKING:
    from aiohttp import web

    Socket = aiohttp.ClientWebSocketResponse[bool] | web.WebSocketResponse[bool]

_MEDIA: Final = (WSMsgType.TEXT, WSMsgType.BINARY)
_NORMAL, _GOING_AWAY, _INTERNAL_ERROR = 1000, 1001, 1011


class Side(Enum):
    """The side that ended a session."""

    CALLER = "caller"
    POD = "pod"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended; the other side receives the code and the reason."""

    side: Side
    code: int
    reason: str


async def relay(
    caller: web.WebSocketResponse[bool],
    pod: aiohttp.ClientWebSocketResponse[bool],
    stop: asyncio.Future[End],
) -> End:
    """Forward until one side ends or `stop` is set, close both sides, and return the end."""
    forwarders = [
        asyncio.create_task(_forward(caller, pod, Side.CALLER), name="relay-to-pod"),
        asyncio.create_task(_forward(pod, caller, Side.POD), name="relay-to-caller"),
    ]
    try:
        done, _ = await asyncio.wait([*forwarders, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for forwarder in forwarders:
            forwarder.cancel()
        await asyncio.gather(*forwarders, return_exceptions=True)
    # If both sides ended in the same loop iteration, the pod's reason explains more.
    end = next(iter(sorted((task.result() for task in done), key=_precedence)))
    reason = end.reason.encode()
    await asyncio.gather(
        caller.close(code=end.code, message=reason), pod.close(code=end.code, message=reason)
    )
    return end


def _precedence(end: End) -> int:
    return [Side.POD, Side.CALLER, Side.GATEWAY].index(end.side)


async def _forward(source: Socket, sink: Socket, side: Side) -> End:
    other = Side.POD if side is Side.CALLER else Side.CALLER
    while True:
        message = await source.receive()
        if message.type in _MEDIA:
            try:
                await sink.send_frame(message.data, message.type)
            except ConnectionError:
                return _connection_lost(other)
        elif message.type is WSMsgType.CLOSE:
            # aiohttp reports a close frame without a code as 0, which must not be sent.
            return End(side, message.data or _NORMAL, message.extra or "")
        elif message.type is WSMsgType.ERROR and isinstance(message.data, aiohttp.WebSocketError):
            return End(side, message.data.code, str(message.data)[:120])
        else:
            return _connection_lost(side)


def _connection_lost(side: Side) -> End:
    """Return the end for a side whose connection ended without a close frame."""
    if side is Side.CALLER:
        return End(side, _GOING_AWAY, "the caller's connection was lost")
    return End(side, _INTERNAL_ERROR, "the pod's connection was lost")
