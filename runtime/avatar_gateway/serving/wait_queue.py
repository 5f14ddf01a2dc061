"""Keeps callers waiting until a pod accepts them, and reports each caller's position."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core import wait_queue
from avatar_gateway.core.fair_queue import MAX_CALLERS
from avatar_gateway.serving.peer import EarlyInputTooLarge
from avatar_gateway.serving.waiters import Outcome, ServiceQueue, Waiter, share_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avatar_gateway.core.demand import DemandLimiter
    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession
    from avatar_gateway.serving.sessions import Sessions
    from avatar_gateway.serving.waiters import PlaceSession
    from avatar_gateway.shared.waiting import SharedQueue

    EndSession = Callable[[PlacedSession], Awaitable[None]]

POLL_INTERVAL_S: Final = 0.1
"""How often a queue looks for a free slot for its first caller.

It reads the last reported states; it sends no request to a pod that reports no free slot.
"""
HANDOVER_S: Final = 0.02
"""The same while a slot is free and it is the turn of another gateway."""
SHARED_ROUND_S: Final = 0.25
"""How often the positions are read from the shared state at most."""
QUOTA_INTERVAL_S: Final = 0.25
"""How often a queue asks whether a tenant at its own limit may have another session."""
SHORT: Final = 100
"""In a queue of no more callers, a new one gets its position at once, otherwise soon after."""
DEMAND_S: Final = 1.0
"""A caller that leaves the queue sooner does not count as an arrival.

Its waiting counts while it waits; its arrival would raise the demand for much longer.
"""


class WaitQueues:
    """The wait queues of all services. One task serves each queue that has callers."""

    def __init__(
        self,
        sessions: Sessions,
        end_session: EndSession,
        held_bytes: int,
        demand: DemandLimiter,
        has_room: Callable[[SessionRequest], bool] = lambda _request: False,
        shared_queue: Callable[[str], SharedQueue | None] = lambda _service: None,
    ) -> None:
        """`has_room` returns whether some pod seems to have a slot for a request.

        `shared_queue` returns the order of a service over all gateways, if there is a shared state.
        """
        self._has_room = has_room
        self._shared_queue = shared_queue
        self._sessions = sessions
        self._end_session = end_session
        self._held_bytes = held_bytes
        self._demand = demand
        self._queues: dict[str, ServiceQueue] = {}
        self._caller_ids = itertools.count()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        """Callers of each tenant, of all services."""
        self._nobody_waits_until: dict[str, float] = {}
        """Until when services count as without waiting callers at other gateways."""

    async def callers_before(self, service: str, principal: Principal) -> int:
        """Return how many callers wait, if a new caller must not overtake them; otherwise 0."""
        queue = self._queues.get(service)
        if queue is not None and queue.order.has_before(share_of(principal)):
            return len(queue.order)
        if self._nobody_waits_until.get(service, 0.0) > _now():
            return 0
        shared = self._shared_queue(service) if queue is None else queue.shared
        if shared is None:
            return 0
        try:
            must_wait, callers = await shared.before(share_of(principal))
        except errors.SharedStateUnavailable:
            return 0
        if not callers:
            self._nobody_waits_until[service] = _now() + POLL_INTERVAL_S
        return max(1, callers) if must_wait else 0

    def tenant_waiting(self, tenant: str) -> int:
        """Return how many callers of a tenant wait here, whether they count as demand or not."""
        return self._waiting[tenant]

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
        waiter = Waiter(caller, request, place, loop.create_future())
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
        self, waiter: Waiter, holding: asyncio.Task[None], wait_ms: int
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

    async def _give_back(self, waiter: Waiter) -> None:
        """End the session that a pod accepted at the moment when its caller left."""
        result = waiter.result
        if result.done() and not result.cancelled() and result.exception() is None:
            await self._end_session(result.result())

    async def _serve(self, service: str) -> None:
        """Give slots to the callers of one queue in its order, until it is empty."""
        queue = self._queues[service]
        try:
            while queue.order or queue.leaving:
                for tenant in [name for name, until in queue.set_aside.items() if until <= _now()]:
                    del queue.set_aside[tenant]
                    queue.order.resume(tenant)
                is_our_turn = await self._serve_once(service, queue)
                await self._announce(service, queue)
                waits_for_other = not is_our_turn and self._sees_room(queue)
                await asyncio.sleep(HANDOVER_S if waits_for_other else POLL_INTERVAL_S)
        finally:
            # Not in a callback of the task: a caller may arrive before that is called.
            del self._tasks[service]
            if not queue.waiters and not queue.grants:
                del self._queues[service]

    async def _serve_once(self, service: str, queue: ServiceQueue) -> bool:
        """Give slots to callers until no slot is free for anybody, or another gateway is next.

        A tenant at its own limit, or whose GPU classes have no free slot, does not keep the others
        waiting.

        Returns:
            Whether it is not the turn of another gateway.
        """
        while (caller_id := await self._next(queue)) is not None:
            principal = queue.waiters[caller_id].principal
            outcome = await self._try(queue, caller_id)
            is_at_limit = outcome is Outcome.OWN_LIMIT
            (queue.at_limit.add if is_at_limit else queue.at_limit.discard)(principal.tenant_name)
            self._count(service, queue, principal)
            if is_at_limit or (outcome is Outcome.NO_SLOT and principal.gpu_classes):
                pause_s = QUOTA_INTERVAL_S if is_at_limit else 0.0
                queue.order.set_aside(principal.tenant_name)
                queue.set_aside[principal.tenant_name] = _now() + pause_s
                await self._set_aside_at_all(queue, principal.tenant_name, pause_s)
            elif outcome is Outcome.NO_SLOT:
                return True
        return not queue.order or queue.order.next() is None

    async def _next(self, queue: ServiceQueue) -> str | None:
        """Return the next caller; None if there is none, or it is the turn of another gateway.

        While the shared state is away, this gateway serves its callers in its own order.
        """
        if queue.shared is None:
            return queue.order.next()
        while True:
            joining, leaving = queue.joining, queue.leaving
            queue.joining, queue.leaving = {}, []
            try:
                turn = await queue.shared.poll(joining, leaving)
            except errors.SharedStateUnavailable:
                queue.rejoin()
                queue.leaving = [*leaving, *queue.leaving][-MAX_CALLERS:]
                return queue.order.next()
            if turn.known < len(queue.order) - len(queue.joining):
                queue.rejoin()  # the shared state has lost some, or took this gateway for dead
            if turn.caller is None or turn.caller in queue.order:
                return turn.caller
            queue.leaving.append(turn.caller)  # it left while the shared state was away

    async def _set_aside_at_all(self, queue: ServiceQueue, tenant: str, pause_s: float) -> None:
        if queue.shared is not None:
            with contextlib.suppress(errors.SharedStateUnavailable):
                await queue.shared.set_aside(tenant, max(pause_s, POLL_INTERVAL_S))

    def _sees_room(self, queue: ServiceQueue) -> bool:
        caller_id = queue.order.next()
        return caller_id is not None and self._has_room(queue.waiters[caller_id].request)

    async def _try(self, queue: ServiceQueue, caller_id: str) -> Outcome:
        """Try to place one caller."""
        waiter = queue.waiters[caller_id]
        try:
            if self._sessions.draining:
                raise errors.Rejection("draining", "this gateway is shutting down")
            placed = await waiter.place()
        except Exception as error:
            if isinstance(error, errors.Rejection) and not self._sessions.draining:
                if wait_queue.is_own_limit(error):
                    return Outcome.OWN_LIMIT
                if wait_queue.is_temporary(error):
                    return Outcome.NO_SLOT
            if not waiter.result.done():
                waiter.result.set_exception(error)
            queue.order.leave(caller_id)
        else:
            if caller_id not in queue.order or waiter.result.done():
                await self._end_session(placed)
                return Outcome.GONE
            queue.order.grant(caller_id)
            queue.grants = wait_queue.with_grant(queue.grants, _now())
            waiter.result.set_result(placed)
            if queue.shared is not None:
                with contextlib.suppress(errors.SharedStateUnavailable):
                    await queue.shared.grant(caller_id)
        return Outcome.GONE

    async def _announce(self, service: str, queue: ServiceQueue) -> None:
        """Send each caller of a queue its position if it is due."""
        if _now() < queue.announce_at:
            return
        if queue.shared is None:
            self._announce_own(queue)
        else:
            await self._announce_shared(service, queue)
        self._demand.refresh()

    def _announce_own(self, queue: ServiceQueue) -> None:
        now = _now()
        queue.announce_at = now + wait_queue.round_s(len(queue.order))
        for caller_id, position in queue.order.places().items():
            queue.announce(queue.waiters[caller_id], position, now)

    async def _announce_shared(self, service: str, queue: ServiceQueue) -> None:
        """Announce the positions in the order over all gateways."""
        assert queue.shared is not None
        queue.announce_at = _now() + max(SHARED_ROUND_S, wait_queue.round_s(len(queue.order)))
        tenants = {
            caller_id: waiter.principal.tenant_name
            for caller_id, waiter in queue.waiters.items()
            if caller_id in queue.order
        }
        try:
            places = await queue.shared.places(tenants)
        except errors.SharedStateUnavailable:
            self._announce_own(queue)
            return
        for caller_id, (position, rank) in places.items():
            if waiter := queue.waiters.get(caller_id):
                waiter.rank = rank
                queue.announce(waiter, position, _now())
        found = {
            waiter.principal.tenant_name: waiter.principal for waiter in queue.waiters.values()
        }
        queue.count_permitted(
            {name: self._demand.allowance(each, service) for name, each in found.items()}
        )
        for principal in found.values():
            self._count(service, queue, principal)

    def _add(self, service: str, caller_id: str, waiter: Waiter) -> None:
        queue = self._queues.get(service)
        if queue is None:
            queue = self._queues[service] = ServiceQueue(shared=self._shared_queue(service))
        queue.waiters[caller_id] = waiter
        self._sessions.waiting += 1
        self._waiting[waiter.principal.tenant_name] += 1
        queue.order.join(caller_id, share_of(waiter.principal))
        self._count(service, queue, waiter.principal)
        if queue.shared is not None:
            queue.joining[caller_id] = share_of(waiter.principal)
        elif len(queue.order) <= SHORT:
            self._announce_own(queue)
        if service not in self._tasks:
            task = asyncio.create_task(self._serve(service), name=f"wait-queue-{service}")
            self._tasks[service] = task

    async def _remove(self, service: str, caller_id: str, holding: asyncio.Task[None]) -> None:
        queue = self._queues[service]
        waiter = queue.waiters.pop(caller_id)
        self._sessions.waiting -= 1
        self._waiting[waiter.principal.tenant_name] -= 1
        if not self._waiting[waiter.principal.tenant_name]:
            del self._waiting[waiter.principal.tenant_name]
        queue.order.leave(caller_id)
        if queue.shared is not None and queue.joining.pop(caller_id, None) is None:
            queue.leaving.append(caller_id)
        self._count(service, queue, waiter.principal)
        waiter.result.cancel()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

    def _count(self, service: str, queue: ServiceQueue, principal: Principal) -> None:
        """Publish how many callers of a tenant wait.

        In an order over all gateways, a caller counts at its own gateway, if the limits of its
        tenant permit a session for it and for all callers of the tenant before it.
        """
        callers = queue.order.callers_of(principal.tenant_name)
        if not callers:
            queue.at_limit.discard(principal.tenant_name)
        is_held = principal.tenant_name in queue.at_limit
        ranked = None if queue.shared is None else queue.permitted[principal.tenant_name]
        self._demand.set_waiting(principal, service, callers, ranked=ranked, by_quota=is_held)


def _now() -> float:
    return asyncio.get_running_loop().time()
