"""The waiting callers of one service at this gateway."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from avatar_gateway.core import wait_queue
from avatar_gateway.core.fair_queue import FairQueue, Share
from avatar_gateway.core.frames import Opcode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession
    from avatar_gateway.shared.waiting import SharedQueue

    PlaceSession = Callable[[], Awaitable[PlacedSession]]


class Outcome(Enum):
    """What an attempt to place a caller shows."""

    GONE = "gone"
    """The caller no longer waits: it was placed, or it cannot be."""
    NO_SLOT = "no_slot"
    """No slot is free for this tenant."""
    OWN_LIMIT = "own_limit"
    """Its tenant may have no more sessions."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A caller in a queue."""

    caller: Peer
    request: SessionRequest
    place: PlaceSession
    result: asyncio.Future[PlacedSession]
    last: wait_queue.Announcement | None = None
    rank: int | None = None
    """How many callers of its tenant are before it at all gateways; None if it is not known."""

    @property
    def principal(self) -> Principal:
        """Who waits."""
        return self.request.principal


@dataclass(slots=True, eq=False)
class ServiceQueue:
    """The callers of one service."""

    order: FairQueue = field(default_factory=FairQueue)
    waiters: dict[str, Waiter] = field(default_factory=dict)
    grants: tuple[float, ...] = ()
    """When callers got a slot: seconds on a monotonic clock, oldest first."""
    set_aside: dict[str, float] = field(default_factory=dict)
    """Until when tenants take no part."""
    at_limit: set[str] = field(default_factory=set)
    """Tenants that may have no more sessions, as far as is known."""
    announce_at: float = 0.0
    shared: SharedQueue | None = None
    """The order over all gateways; None if this gateway is alone."""
    joining: dict[str, Share] = field(default_factory=dict)
    """Callers that the shared order does not know yet."""
    leaving: list[str] = field(default_factory=list)
    """Callers that it may still know."""

    permitted: Counter[str] = field(default_factory=Counter)
    """Callers of each tenant that count as demand, with an order over all gateways."""

    def count_permitted(self, allowances: Mapping[str, int | None]) -> None:
        """Count the callers for which the limits of their tenants permit sessions.

        A caller counts if its tenant may have a session for it and for all callers before it.
        """
        self.permitted = Counter(
            waiter.principal.tenant_name
            for caller_id, waiter in self.waiters.items()
            if caller_id in self.order
            and waiter.rank is not None
            and (
                (allowed := allowances.get(waiter.principal.tenant_name)) is None
                or waiter.rank < allowed
            )
        )

    def announce(self, waiter: Waiter, position: int, now: float) -> None:
        """Send a caller its position if it is due."""
        if wait_queue.is_due(waiter.last, position, now):
            waiter.last = wait_queue.Announcement(position, now)
            is_held = waiter.principal.tenant_name in self.at_limit
            eta_ms = None if is_held else wait_queue.eta_ms(position, self.grants, now)
            waiter.caller.send(Opcode.TEXT, _queued(position, eta_ms))

    def rejoin(self) -> None:
        """Let every caller join the shared order again."""
        self.joining = {
            caller_id: share_of(waiter.principal)
            for caller_id, waiter in self.waiters.items()
            if caller_id in self.order
        }


def share_of(principal: Principal) -> Share:
    """Return what the tenant of a caller is entitled to."""
    tenant = principal.tenant
    return Share() if tenant is None else Share(tenant.name, tenant.weight, tenant.priority)


def _queued(position: int, eta_ms: int | None) -> bytes:
    event = {"type": "session.queued", "event_id": f"event_queued_{position}"}
    return json.dumps({**event, "position": position, "eta_ms": eta_ms}).encode()
