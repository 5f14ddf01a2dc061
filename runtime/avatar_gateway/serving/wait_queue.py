"""Keeps callers waiting until a pod accepts them, and reports each caller's position."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core import wait_queue
from avatar_gateway.core.frames import Opcode
from avatar_gateway.serving.peer import EarlyInputTooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession
    from avatar_gateway.serving.sessions import Sessions

    PlaceSession = Callable[[], Awaitable[PlacedSession]]
    EndSession = Callable[[PlacedSession], Awaitable[None]]

POLL_INTERVAL_S: Final = 0.1
"""How often a queue looks for a free slot for its first caller.

It reads the last reported states; it sends no request to a pod that reports no free slot.
"""
DEMAND_S: Final = 1.0
"""A caller that leaves the queue sooner does not count as an arrival.

Its waiting counts while it waits; its arrival would raise the demand for much longer.
"""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A caller in a queue."""

    caller: Peer
    place: PlaceSession
    result: asyncio.Future[PlacedSession]
    last: wait_queue.Announcement | None = None


class WaitQueues:
    """The wait queues of all services. One task serves each queue that has callers."""

    def __init__(self, sessions: Sessions, end_session: EndSession, held_bytes: int) -> None:
        self._sessions = sessions
        self._end_session = end_session
        self._held_bytes = held_bytes
        self._queues: dict[str, wait_queue.WaitQueue] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._caller_ids = itertools.count()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def queue(self, service: str) -> wait_queue.WaitQueue:
        """Return the queue of a service."""
        return self._queues.get(service, wait_queue.WaitQueue())

    async def wait_for_slot(
        self, caller: Peer, request: SessionRequest, place: PlaceSession
    ) -> PlacedSession:
        """Wait until a pod accepts the caller's session; what the caller sends is kept.

        Raises:
            Rejection: no slot became free in time, or waiting cannot help.
            PodRejection: a pod rejected the request itself.
            ConnectionError: the caller disconnected.
        """
        loop = asyncio.get_running_loop()
        caller_id, service = next(self._caller_ids), request.model
        waiter = _Waiter(caller, place, loop.create_future())
        arrival = loop.call_later(DEMAND_S, self._sessions.record_arrival, service, loop.time())
        holding = asyncio.create_task(caller.hold(self._held_bytes), name="hold-caller")
        self._add(service, caller_id, waiter)
        try:
            return await self._first_of(waiter, holding, request.wait_ms)
        except BaseException as error:
            if isinstance(error, ConnectionError):
                arrival.cancel()
            await self._give_back(waiter)
            raise
        finally:
            if not arrival.cancelled() and loop.time() < arrival.when():
                arrival.cancel()
                self._sessions.record_arrival(service, loop.time())
            await self._remove(service, caller_id, holding)

    async def _first_of(
        self, waiter: _Waiter, holding: asyncio.Task[None], wait_ms: int
    ) -> PlacedSession:
        """Return the placed session, unless the caller leaves or its time ends before."""
        ends: list[asyncio.Future[Any]] = [waiter.result, holding]
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        try:
            if holding.done():
                holding.result()  # raises the reason
        except EarlyInputTooLarge:
            text = f"a waiting caller may send at most {self._held_bytes} bytes"
            raise errors.Rejection("message_too_large", text, limit=self._held_bytes) from None
        if waiter.result.done():
            return waiter.result.result()
        text = f"no slot became free within {wait_ms} ms"
        raise errors.Rejection("no_capacity", text, limit=wait_ms)

    async def _give_back(self, waiter: _Waiter) -> None:
        """End the session that a pod accepted at the moment when its caller left."""
        result = waiter.result
        if result.done() and not result.cancelled() and result.exception() is None:
            await self._end_session(result.result())

    async def _serve(self, service: str) -> None:
        """Give slots to the callers of one queue in order, until it is empty."""
        try:
            while callers := self.queue(service).callers:
                self._announce(service)
                first = callers[0]
                if not await self._try(service, first, self._waiters[first]):
                    await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            # Not in a callback of the task: a caller may arrive before that is called.
            del self._tasks[service]

    async def _try(self, service: str, caller_id: int, waiter: _Waiter) -> bool:
        """Try to place one caller; return whether it stopped waiting."""
        try:
            if self._sessions.draining:
                raise errors.Rejection("draining", "this gateway is shutting down")
            placed = await waiter.place()
        except Exception as error:
            if self._may_succeed_later(error):
                return False
            if not waiter.result.done():
                waiter.result.set_exception(error)
        else:
            if waiter.result.done():
                await self._end_session(placed)
                return True
            self._set(service, self.queue(service).with_grant(caller_id, _now()))
            waiter.result.set_result(placed)
        self._set(service, self.queue(service).without(caller_id))
        return True

    def _may_succeed_later(self, error: Exception) -> bool:
        retryable = isinstance(error, errors.Rejection) and error.code in wait_queue.RETRYABLE_CODES
        return retryable and not self._sessions.draining

    def _announce(self, service: str) -> None:
        """Send each caller of a queue its position if it is due."""
        queue = self.queue(service)
        for position, caller_id in enumerate(queue.callers, start=1):
            _announce_one(self._waiters[caller_id], position, queue.grants)

    def _add(self, service: str, caller_id: int, waiter: _Waiter) -> None:
        self._waiters[caller_id] = waiter
        queue = self.queue(service).with_caller(caller_id)
        self._set(service, queue)
        _announce_one(waiter, len(queue.callers), queue.grants)
        if service not in self._tasks:
            task = asyncio.create_task(self._serve(service), name=f"wait-queue-{service}")
            self._tasks[service] = task

    async def _remove(self, service: str, caller_id: int, holding: asyncio.Task[None]) -> None:
        waiter = self._waiters.pop(caller_id)
        self._set(service, self.queue(service).without(caller_id))
        waiter.result.cancel()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

    def _set(self, service: str, queue: wait_queue.WaitQueue) -> None:
        if queue.callers or queue.grants:
            self._queues[service] = queue
        else:
            self._queues.pop(service, None)
        self._sessions.set_waiting(service, len(queue.callers))


def _announce_one(waiter: _Waiter, position: int, grants: Sequence[float]) -> None:
    now = _now()
    if wait_queue.is_due(waiter.last, position, now):
        waiter.last = wait_queue.Announcement(position, now)
        eta_ms = wait_queue.eta_ms(position, grants, now)
        waiter.caller.send(Opcode.TEXT, _queued(position, eta_ms))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _queued(position: int, eta_ms: int | None) -> bytes:
    event = {"type": "session.queued", "event_id": f"event_queued_{position}"}
    return json.dumps({**event, "position": position, "eta_ms": eta_ms}).encode()
