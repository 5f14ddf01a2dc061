"""Keeps callers waiting until a pod accepts them, and reports each caller's position."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core import wait_queue
from avatar_gateway.core.fair_queue import FairQueue, Share
from avatar_gateway.core.frames import Opcode
from avatar_gateway.serving.peer import EarlyInputTooLarge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avatar_gateway.core.demand import DemandLimiter
    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession
    from avatar_gateway.serving.sessions import Sessions

    PlaceSession = Callable[[], Awaitable[PlacedSession]]
    EndSession = Callable[[PlacedSession], Awaitable[None]]

POLL_INTERVAL_S: Final = 0.1
"""How often a queue looks for a free slot for its first caller.

It reads the last reported states; it sends no request to a pod that reports no free slot.
"""
QUOTA_INTERVAL_S: Final = 0.25
"""How often a queue asks whether a tenant at its own limit may have another session."""
SHORT: Final = 100
"""In a queue of no more callers, a new one gets its position at once, otherwise soon after."""
DEMAND_S: Final = 1.0
"""A caller that leaves the queue sooner does not count as an arrival.

Its waiting counts while it waits; its arrival would raise the demand for much longer.
"""


class _Outcome(Enum):
    """What an attempt to place a caller shows."""

    GONE = "gone"
    """The caller no longer waits: it was placed, or it cannot be."""
    NO_SLOT = "no_slot"
    """No slot is free for this tenant."""
    OWN_LIMIT = "own_limit"
    """Its tenant may have no more sessions."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A caller in a queue."""

    caller: Peer
    principal: Principal
    place: PlaceSession
    result: asyncio.Future[PlacedSession]
    last: wait_queue.Announcement | None = None


@dataclass(slots=True, eq=False)
class _Queue:
    """The callers of one service."""

    order: FairQueue = field(default_factory=FairQueue)
    waiters: dict[str, _Waiter] = field(default_factory=dict)
    grants: tuple[float, ...] = ()
    """When callers got a slot: seconds on a monotonic clock, oldest first."""
    set_aside: dict[str, float] = field(default_factory=dict)
    """Until when tenants take no part."""
    at_limit: set[str] = field(default_factory=set)
    """Tenants that may have no more sessions, as far as is known."""
    announce_at: float = 0.0


def share_of(principal: Principal) -> Share:
    """Return what the tenant of a caller is entitled to."""
    tenant = principal.tenant
    return Share() if tenant is None else Share(tenant.name, tenant.weight, tenant.priority)


class WaitQueues:
    """The wait queues of all services. One task serves each queue that has callers."""

    def __init__(
        self, sessions: Sessions, end_session: EndSession, held_bytes: int, demand: DemandLimiter
    ) -> None:
        self._sessions = sessions
        self._end_session = end_session
        self._held_bytes = held_bytes
        self._demand = demand
        self._queues: dict[str, _Queue] = {}
        self._caller_ids = itertools.count()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def callers_before(self, service: str, principal: Principal) -> int:
        """Return how many callers wait, if a new caller must not overtake them; otherwise 0."""
        queue = self._queues.get(service)
        if queue is None or not queue.order.has_before(share_of(principal)):
            return 0
        return len(queue.order)

    def accepts(self, service: str, principal: Principal) -> bool:
        """Return whether one more caller of a tenant may wait."""
        queue = self._queues.get(service)
        return queue is None or queue.order.accepts(principal.tenant_name)

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
        caller_id, service = f"{next(self._caller_ids):x}", request.model
        waiter = _Waiter(caller, request.principal, place, loop.create_future())
        arrival = loop.call_later(DEMAND_S, self._record_arrival, request)
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
                self._record_arrival(request)
            await self._remove(service, caller_id, holding)

    def _record_arrival(self, request: SessionRequest) -> None:
        if self._demand.counts_arrival(request.principal, request.model, _now()):
            self._sessions.record_arrival(request.model, _now())

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
        """Give slots to the callers of one queue in its order, until it is empty."""
        queue = self._queues[service]
        try:
            while queue.order:
                for tenant in [name for name, until in queue.set_aside.items() if until <= _now()]:
                    del queue.set_aside[tenant]
                    queue.order.resume(tenant)
                await self._serve_once(service, queue)
                self._announce(queue)
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            # Not in a callback of the task: a caller may arrive before that is called.
            del self._tasks[service]
            if not queue.waiters and not queue.grants:
                del self._queues[service]

    async def _serve_once(self, service: str, queue: _Queue) -> None:
        """Give slots to callers until no slot is free for anybody.

        A tenant at its own limit, or whose GPU classes have no free slot, does not keep the others
        waiting.
        """
        while (caller_id := queue.order.next()) is not None:
            principal = queue.waiters[caller_id].principal
            outcome = await self._try(service, queue, caller_id)
            is_at_limit = outcome is _Outcome.OWN_LIMIT
            (queue.at_limit.add if is_at_limit else queue.at_limit.discard)(principal.tenant_name)
            self._count(service, queue, principal)
            if is_at_limit or (outcome is _Outcome.NO_SLOT and principal.gpu_classes):
                until = _now() + (QUOTA_INTERVAL_S if is_at_limit else 0.0)
                queue.order.set_aside(principal.tenant_name)
                queue.set_aside[principal.tenant_name] = until
            elif outcome is _Outcome.NO_SLOT:
                return

    async def _try(self, service: str, queue: _Queue, caller_id: str) -> _Outcome:
        """Try to place one caller."""
        waiter = queue.waiters[caller_id]
        try:
            if self._sessions.draining:
                raise errors.Rejection("draining", "this gateway is shutting down")
            placed = await waiter.place()
        except Exception as error:
            if isinstance(error, errors.Rejection) and not self._sessions.draining:
                if wait_queue.is_own_limit(error):
                    return _Outcome.OWN_LIMIT
                if wait_queue.is_temporary(error):
                    return _Outcome.NO_SLOT
            if not waiter.result.done():
                waiter.result.set_exception(error)
            queue.order.leave(caller_id)
        else:
            if caller_id not in queue.order or waiter.result.done():
                await self._end_session(placed)
                return _Outcome.GONE
            queue.order.grant(caller_id)
            queue.grants = wait_queue.with_grant(queue.grants, _now())
            waiter.result.set_result(placed)
        return _Outcome.GONE

    def _announce(self, queue: _Queue) -> None:
        """Send each caller of a queue its position if it is due."""
        now = _now()
        if now < queue.announce_at:
            return
        queue.announce_at = now + wait_queue.round_s(len(queue.order))
        for caller_id, position in queue.order.places().items():
            _announce_one(queue, queue.waiters[caller_id], position, now)

    def _add(self, service: str, caller_id: str, waiter: _Waiter) -> None:
        queue = self._queues.setdefault(service, _Queue())
        queue.waiters[caller_id] = waiter
        self._sessions.waiting += 1
        queue.order.join(caller_id, share_of(waiter.principal))
        self._count(service, queue, waiter.principal)
        if len(queue.order) <= SHORT:
            queue.announce_at = 0.0
            self._announce(queue)
        if service not in self._tasks:
            task = asyncio.create_task(self._serve(service), name=f"wait-queue-{service}")
            self._tasks[service] = task

    async def _remove(self, service: str, caller_id: str, holding: asyncio.Task[None]) -> None:
        queue = self._queues[service]
        waiter = queue.waiters.pop(caller_id)
        self._sessions.waiting -= 1
        queue.order.leave(caller_id)
        self._count(service, queue, waiter.principal)
        waiter.result.cancel()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

    def _count(self, service: str, queue: _Queue, principal: Principal) -> None:
        """Publish how many callers of a tenant wait."""
        callers = queue.order.callers_of(principal.tenant_name)
        if not callers:
            queue.at_limit.discard(principal.tenant_name)
        is_held = principal.tenant_name in queue.at_limit
        self._demand.set_waiting(principal, service, callers, by_quota=is_held)


def _announce_one(queue: _Queue, waiter: _Waiter, position: int, now: float) -> None:
    if wait_queue.is_due(waiter.last, position, now):
        waiter.last = wait_queue.Announcement(position, now)
        is_held = waiter.principal.tenant_name in queue.at_limit
        eta_ms = None if is_held else wait_queue.eta_ms(position, queue.grants, now)
        waiter.caller.send(Opcode.TEXT, _queued(position, eta_ms))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _queued(position: int, eta_ms: int | None) -> bytes:
    event = {"type": "session.queued", "event_id": f"event_queued_{position}"}
    return json.dumps({**event, "position": position, "eta_ms": eta_ms}).encode()
