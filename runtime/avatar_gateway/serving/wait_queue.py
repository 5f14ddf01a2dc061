"""Keeps callers waiting until a pod accepts them, and reports each caller's position."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSMsgType, web

from avatar_gateway import errors
from avatar_gateway.core import wait_queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.serving.placement import PlacedSession
    from avatar_gateway.serving.sessions import Sessions

    PlaceSession = Callable[[], Awaitable[PlacedSession]]
    EndSession = Callable[[PlacedSession], Awaitable[None]]

POLL_INTERVAL_S: Final = 0.1
"""How often the first caller of a queue looks for a free slot.

It reads the last reported states; it sends no request to a pod that reports no free slot.
"""


@dataclass(frozen=True, slots=True)
class Message:
    """A WebSocket message as it was received."""

    data: bytes
    type: WSMsgType


@dataclass(frozen=True, slots=True)
class QueueResult:
    """A caller that left the queue because a pod accepted its session."""

    placed: PlacedSession
    first_message: Message | None
    """What the caller sent while it waited. The pod must receive it before anything else."""


class WaitQueues:
    """The wait queues of all services."""

    def __init__(self, sessions: Sessions, end_session: EndSession) -> None:
        self._sessions = sessions
        self._end_session = end_session
        self._queues: dict[str, wait_queue.WaitQueue] = {}
        self._caller_ids = itertools.count()

    def queue(self, service: str) -> wait_queue.WaitQueue:
        """Return the queue of a service."""
        return self._queues.get(service, wait_queue.WaitQueue())

    async def wait_for_slot(
        self,
        caller: web.WebSocketResponse[bool],
        request: SessionRequest,
        place: PlaceSession,
    ) -> QueueResult:
        """Wait until a pod accepts the caller's session.

        Raises:
            Rejection: no slot became free in time, or waiting cannot help.
            PodRejection: a pod rejected the request itself.
            ConnectionError: the caller disconnected.
        """
        caller_id = next(self._caller_ids)
        self._set(request.model, self.queue(request.model).with_caller(caller_id))
        reading = asyncio.create_task(_read_first_message(caller), name="read-waiting-caller")
        try:
            async with asyncio.timeout(request.wait_ms / 1000):
                placed = await self._poll(caller, caller_id, request.model, place, reading)
        except TimeoutError as error:
            text = f"no slot became free within {request.wait_ms} ms"
            raise errors.Rejection("no_capacity", text, limit=request.wait_ms) from error
        finally:
            if not reading.done():
                reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._set(request.model, self.queue(request.model).without(caller_id))
        if reading.cancelled():
            return QueueResult(placed, None)
        if reading.exception() is not None:
            # The caller disconnected at the moment when the pod accepted the session.
            await self._end_session(placed)
            raise ConnectionError("the caller left the queue")
        return QueueResult(placed, reading.result())

    async def _poll(
        self,
        caller: web.WebSocketResponse[bool],
        caller_id: int,
        service: str,
        place: PlaceSession,
        reading: asyncio.Task[Message],
    ) -> PlacedSession:
        """Look for a slot at each interval while the caller is first; report new positions."""
        loop = asyncio.get_running_loop()
        sent_position = 0
        while True:
            if self._sessions.draining:
                raise errors.Rejection("draining", "this gateway is shutting down")
            if reading.done() and reading.exception() is not None:
                raise ConnectionError("the caller left the queue")
            queue = self.queue(service)
            position = queue.position(caller_id)
            if position == 1:
                try:
                    placed = await place()
                except errors.Rejection as rejection:
                    if rejection.code not in wait_queue.RETRYABLE_CODES:
                        raise
                else:
                    self._set(service, self.queue(service).with_grant(caller_id, loop.time()))
                    return placed
            if position != sent_position:
                eta_ms = wait_queue.eta_ms(position, queue.grants, loop.time())
                await _send_position(caller, position, eta_ms)
                sent_position = position
            await asyncio.sleep(POLL_INTERVAL_S)

    def _set(self, service: str, queue: wait_queue.WaitQueue) -> None:
        if queue.callers or queue.grants:
            self._queues[service] = queue
        else:
            self._queues.pop(service, None)
        self._sessions.set_waiting(service, len(queue.callers))


async def _read_first_message(caller: web.WebSocketResponse[bool]) -> Message:
    """Return the first message of a caller. The pending read also detects a disconnect.

    Raises:
        ConnectionError: the caller disconnected.
    """
    message = await caller.receive()
    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
        raise ConnectionError("the caller disconnected")
    return Message(message.data, message.type)


async def _send_position(
    caller: web.WebSocketResponse[bool], position: int, eta_ms: int | None
) -> None:
    event: dict[str, Any] = {"type": "session.queued", "event_id": f"event_queued_{position}"}
    text = json.dumps({**event, "position": position, "eta_ms": eta_ms})
    await caller.send_frame(text.encode(), WSMsgType.TEXT)
