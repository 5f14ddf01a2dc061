"""Holds callers until a pod takes them: each is told its place, and the first one tries."""

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

    from avatar_gateway.core.requests import Asked
    from avatar_gateway.serving.placement import Placed
    from avatar_gateway.serving.sessions import Sessions

LOOK_S: Final = 0.1
"""How often the first in a line looks for a slot in what the pods said last; nothing is asked."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as it came."""

    data: bytes
    type: WSMsgType


@dataclass(frozen=True, slots=True)
class Turn:
    """A caller whose turn has come."""

    placed: Placed
    first: Sent | None
    """What the caller has sent already; the pod is to get it first."""


class Waiting:
    """The lines of all services."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lines: dict[str, wait_queue.Line] = {}
        self._tickets = itertools.count()

    def line(self, service: str) -> wait_queue.Line:
        """Return the line of a service."""
        return self._lines.get(service, wait_queue.Line())

    async def turn(
        self,
        caller: web.WebSocketResponse[bool],
        asked: Asked,
        place: Callable[[], Awaitable[Placed]],
    ) -> Turn:
        """Wait until the caller has a session on a pod.

        Raises:
            Refusal: no slot came in time, or waiting makes no sense any more.
            PodAnswer: a pod found fault with the request itself.
            ConnectionError: the caller is gone.
        """
        ticket = next(self._tickets)
        self._set(asked.model, self.line(asked.model).with_caller(ticket))
        reading = asyncio.create_task(_first(caller), name="held-caller")
        try:
            async with asyncio.timeout(asked.wait_ms / 1000):
                placed = await self._until_placed(caller, ticket, asked.model, place, reading)
        except TimeoutError as error:
            text = f"no slot came free within {asked.wait_ms} ms"
            raise errors.Refusal("no_capacity", text, limit=asked.wait_ms) from error
        finally:
            if not reading.done():
                reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._set(asked.model, self.line(asked.model).without(ticket))
        if reading.cancelled():
            return Turn(placed, None)
        if reading.exception() is not None:  # gone in the moment of its success
            await placed.socket.close(code=1001)
            raise ConnectionError("the caller left the line")
        return Turn(placed, reading.result())

    async def _until_placed(
        self,
        caller: web.WebSocketResponse[bool],
        ticket: int,
        service: str,
        place: Callable[[], Awaitable[Placed]],
        reading: asyncio.Task[Sent],
    ) -> Placed:
        loop = asyncio.get_running_loop()
        told = 0
        while True:
            if self._sessions.draining:
                raise errors.Refusal("draining", "this gateway is about to go")
            if reading.done() and reading.exception() is not None:
                raise ConnectionError("the caller left the line")
            line = self.line(service)
            position = line.position(ticket)
            if position == 1:
                try:
                    placed = await place()
                except errors.Refusal as refusal:
                    if refusal.code not in wait_queue.WORTH:
                        raise
                else:
                    self._set(service, self.line(service).with_grant(ticket, loop.time()))
                    return placed
            if position != told:
                eta_ms = wait_queue.eta_ms(position, line.grants, loop.time())
                await _tell(caller, position, eta_ms)
                told = position
            await asyncio.sleep(LOOK_S)

    def _set(self, service: str, line: wait_queue.Line) -> None:
        if line.tickets or line.grants:
            self._lines[service] = line
        else:
            self._lines.pop(service, None)
        self._sessions.wait(service, len(line.tickets))


async def _first(caller: web.WebSocketResponse[bool]) -> Sent:
    """Return the first message of a caller; it is read so that its leaving is seen."""
    message = await caller.receive()
    if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
        raise ConnectionError("the caller left")
    return Sent(message.data, message.type)


async def _tell(caller: web.WebSocketResponse[bool], position: int, eta_ms: int | None) -> None:
    event: dict[str, Any] = {"type": "session.queued", "event_id": f"event_queued_{position}"}
    text = json.dumps({**event, "position": position, "eta_ms": eta_ms})
    await caller.send_frame(text.encode(), WSMsgType.TEXT)
