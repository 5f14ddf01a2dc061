"""Forwards frames between a caller and a pod in both directions, without parsing messages.

The proxy has no queue of its own. It reads a segment only after it has written the previous one,
so a side that does not read slows down the other side through the socket buffers.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_contracts.rate_limit import Rate, RateLimit
from avatar_gateway import errors
from avatar_gateway.core import rejections
from avatar_gateway.core.frames import GOING_AWAY, Opcode
from avatar_gateway.serving.peer import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from avatar_gateway.core.frames import Close
    from avatar_gateway.serving.peer import Peer

_TOO_BIG, _INTERNAL_ERROR, _RESTART = 1009, 1011, 1012
_TOO_LARGE: Final = "message_too_large"
_DELAY_S: Final = 0.01
"""Shorter delays are not worth a timer; they add up to longer ones."""


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
    error: str | None = None
    """Code of the `error` event that the caller gets first; `None` for no event."""
    is_lost: bool = False
    """Whether the connection ended without a close frame."""


async def relay(
    caller: Peer,
    pod: Peer,
    stop: asyncio.Future[End],
    rate: Rate,
    on_message: Callable[[], None] = lambda: None,
    on_pod_lost: Callable[[], Awaitable[Mapping[str, object] | None]] | None = None,
) -> End:
    """Forward until one side ends or `stop` is set, close both sides, and return the end.

    What the caller sent while it waited leaves first. Each direction has the limit `rate`.
    `on_message` is called when the caller sends something. `on_pod_lost` is called when the
    connection to the pod is lost, and returns the event that the caller gets before its end.
    """
    forwarders = [
        asyncio.create_task(
            _Direction(caller, pod, Side.CALLER, rate, on_message).run(), name="relay-to-pod"
        ),
        asyncio.create_task(_Direction(pod, caller, Side.POD, rate).run(), name="relay-to-caller"),
    ]
    try:
        done, _ = await asyncio.wait([*forwarders, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for forwarder in forwarders:
            forwarder.cancel()
        await asyncio.gather(*forwarders, return_exceptions=True)
    # If both sides ended in the same loop iteration, the pod's reason explains more.
    end = next(iter(sorted((task.result() for task in done), key=_precedence)))
    if end.side is Side.POD and end.is_lost and on_pod_lost is not None:
        event = await on_pod_lost()
        if event is not None and not caller.is_lost:
            with suppress(ConnectionError):
                caller.send(Opcode.TEXT, json.dumps(event).encode())
            end = replace(end, code=_RESTART, reason="the session continues on another pod")
    if end.error is not None:
        limit = MAX_MESSAGE_BYTES if end.error == _TOO_LARGE else None
        rejection = errors.Rejection(end.error, end.reason, limit=limit)
        caller.send(Opcode.TEXT, json.dumps(rejections.error_event(rejection)).encode())
    await _close([caller, pod], end)
    return end


async def _close(peers: Sequence[Peer], end: End) -> None:
    """Close both sides; nearly always at most one of them has to answer."""
    unanswered = [each for each in peers if not each.close_at_once(end.code, end.reason)]
    if len(unanswered) == 1:
        await unanswered[0].wait_closed()
    else:
        await asyncio.gather(*(each.wait_closed() for each in unanswered))


def _precedence(end: End) -> int:
    return [Side.POD, Side.CALLER, Side.GATEWAY].index(end.side)


class _Direction:
    """Forwards what one side sends.

    Whole frames leave in the callback that they arrive in. Whatever has to wait for something, or
    ends the session, is left to the task of `run`.
    """

    __slots__ = ("_limit", "_loop", "_on_message", "_side", "_sink", "_source")

    def __init__(
        self,
        source: Peer,
        sink: Peer,
        side: Side,
        rate: Rate,
        on_message: Callable[[], None] | None = None,
    ) -> None:
        self._source, self._sink = source, sink
        self._side = side
        self._limit = RateLimit(rate)
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()

    async def run(self) -> End:
        """Forward until a side ends."""
        side, other = self._side, Side.POD if self._side is Side.CALLER else Side.CALLER
        segment = self._source.take_early()
        while True:
            try:
                if segment.forward and self._on_message is not None:
                    self._on_message()
                self._sink.forward(segment.forward, is_mid_frame=segment.is_mid_frame)
                await self._sink.drain()
            except ConnectionError:
                return _connection_lost(other)
            if segment.close is not None:
                return _closed(side, segment.close)
            delay = self._limit.delay(self._loop.time(), segment.frames, len(segment.forward))
            # Nothing more follows from a lost one.
            if delay > _DELAY_S and not self._source.is_lost:
                await asyncio.sleep(delay)
            elif segment.has_more:
                await asyncio.sleep(0)  # other connections get their turn
            try:
                segment = await self._source.read(self._pass_on)
            except ConnectionError:
                return _connection_lost(side)

    def _pass_on(self, data: bytes, frames: int, now: float) -> bool:
        sink = self._sink
        if sink.is_full or not self._limit.accept(now, frames, len(data)):
            return False
        if data:
            if self._on_message is not None:
                self._on_message()
            try:
                sink.forward(data)
            except ConnectionError:
                return False  # `run` finds the same
            if sink.is_full:
                self._source.wake()  # `run` waits until it has taken enough
        return True


def _closed(side: Side, close: Close) -> End:
    is_too_large = side is Side.CALLER and close.is_violation and close.code == _TOO_BIG
    return End(side, close.code, close.reason, _TOO_LARGE if is_too_large else None)


def _connection_lost(side: Side) -> End:
    """Return the end for a side whose connection ended without a close frame."""
    if side is Side.CALLER:
        return End(side, GOING_AWAY, "the caller's connection was lost", is_lost=True)
    return End(side, _INTERNAL_ERROR, "the pod's connection was lost", is_lost=True)
