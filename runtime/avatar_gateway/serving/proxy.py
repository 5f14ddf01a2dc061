"""Moves messages between a caller and a pod, both ways, without looking into them.

Nothing is queued here: a message is read only when the one before it has been taken, so a
side that does not read slows the other one down through the sockets' own buffers.
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
_NORMAL, _GOING_AWAY, _FAULT = 1000, 1001, 1011


class Side(Enum):
    """Who ended a session."""

    CALLER = "caller"
    POD = "pod"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended, as the other side is told."""

    side: Side
    code: int
    reason: str


async def relay(
    caller: web.WebSocketResponse[bool],
    pod: aiohttp.ClientWebSocketResponse[bool],
    stop: asyncio.Future[End],
) -> End:
    """Proxy until one side ends or `stop` is set, close both, and return how it ended."""
    pumps = [
        asyncio.create_task(_pump(caller, pod, Side.CALLER), name="relay-to-pod"),
        asyncio.create_task(_pump(pod, caller, Side.POD), name="relay-to-caller"),
    ]
    try:
        done, _ = await asyncio.wait([*pumps, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    # If both ended in the same turn, the pod's reason is the one worth telling.
    end = next(iter(sorted((task.result() for task in done), key=_importance)))
    reason = end.reason.encode()
    await asyncio.gather(
        caller.close(code=end.code, message=reason), pod.close(code=end.code, message=reason)
    )
    return end


def _importance(end: End) -> int:
    return [Side.POD, Side.CALLER, Side.GATEWAY].index(end.side)


async def _pump(source: Socket, sink: Socket, side: Side) -> End:
    other = Side.POD if side is Side.CALLER else Side.CALLER
    while True:
        message = await source.receive()
        if message.type in _MEDIA:
            try:
                await sink.send_frame(message.data, message.type)
            except ConnectionError:
                return _lost(other)
        elif message.type is WSMsgType.CLOSE:
            # A close frame without a code reads as 0, which cannot be sent on.
            return End(side, message.data or _NORMAL, message.extra or "")
        elif message.type is WSMsgType.ERROR and isinstance(message.data, aiohttp.WebSocketError):
            return End(side, message.data.code, str(message.data)[:120])
        else:
            return _lost(side)


def _lost(side: Side) -> End:
    """Return the end for a side that went without a close frame."""
    if side is Side.CALLER:
        return End(side, _GOING_AWAY, "the caller's connection was lost")
    return End(side, _FAULT, "the pod's connection was lost")
