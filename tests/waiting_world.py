"""Waiting callers of one gateway without sockets: a test decides which of them get a slot."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from avatar_gateway import errors
from avatar_gateway.core.demand import DemandLimiter
from avatar_gateway.core.requests import SessionRequest
from avatar_gateway.core.tenants import PLATFORM, Principal
from avatar_gateway.serving.sessions import Sessions
from avatar_gateway.serving.wait_queue import WaitQueues

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession
    from avatar_gateway.shared.waiting import SharedQueue

SERVICE = "acme/concierge"


@dataclass
class WaitingCaller:
    """A caller that says nothing, and what it was told."""

    events: list[dict[str, Any]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, _opcode: object, data: bytes) -> None:
        self.events.append(json.loads(data))

    async def hold(self, _limit: int) -> None:
        await self.gone.wait()
        raise ConnectionError

    @property
    def positions(self) -> list[int]:
        return [event["position"] for event in self.events]


class WaitingWorld:
    """The queues, and the slots and sessions that a test allows."""

    def __init__(
        self, shared_queue: Callable[[str], SharedQueue | None] = lambda _service: None
    ) -> None:
        self.sessions = Sessions()
        self.ended: list[str] = []
        self.free: dict[str, int] = {}
        """Free slots by GPU class."""
        self.at_limit: dict[str, str] = {}
        """The limit that a tenant has reached."""
        self.served: list[str] = []
        self.attempts: list[str] = []
        self.usage: dict[str, dict[str, int]] = {}
        """The sessions of each tenant at all gateways."""
        self.demand = DemandLimiter(
            self.sessions.set_waiting, lambda name: self.usage.get(name, {})
        )
        self.queues = WaitQueues(
            *(self.sessions, self._end, 1024, self.demand),
            lambda _request: any(self.free.values()),
            shared_queue,
        )
        self.tasks: list[asyncio.Task[Any]] = []

    @property
    def published(self) -> int:
        """Return how many callers count as demand."""
        services = self.sessions.state("g", frozenset({SERVICE}), 0.0)["services"]
        return services[SERVICE]["waiting"] if SERVICE in services else 0

    def wait(
        self, name: str, principal: Principal = PLATFORM, wait_ms: int = 20_000
    ) -> WaitingCaller:
        caller = WaitingCaller()
        request = SessionRequest(SERVICE, wait_ms, [], principal=principal)

        async def place() -> PlacedSession:
            return cast("PlacedSession", self._place(name, principal))

        waiting = self.queues.wait_for_slot(cast("Peer", caller), request, place)
        self.tasks.append(asyncio.create_task(waiting, name=name))
        return caller

    def _place(self, name: str, principal: Principal) -> str:
        self.attempts.append(name)
        if limit := self.at_limit.get(principal.tenant_name):
            raise errors.Rejection("quota_exceeded", "at its limit", param=limit)
        usable = [kind for kind in self.free if kind in principal.gpu_classes]
        for kind in usable if principal.gpu_classes else self.free:
            if self.free[kind]:
                self.free[kind] -= 1
                self.served.append(name)
                return name
        raise errors.Rejection("no_capacity", "all pods are full")

    async def _end(self, placed: object) -> None:
        self.ended.append(str(placed))

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
