"""Waiting callers of several tenants, without sockets: a test decides which of them get a slot."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from avatar_gateway import errors
from avatar_gateway.core.demand import DemandLimiter
from avatar_gateway.core.requests import SessionRequest
from avatar_gateway.core.tenants import PLATFORM, Principal, Tenant, TenantLimits
from avatar_gateway.serving.sessions import Sessions
from avatar_gateway.serving.wait_queue import WaitQueues

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession

SERVICE = "acme/concierge"


@dataclass
class _Caller:
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


class _World:
    """The queues, and the slots and sessions that a test allows."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.ended: list[str] = []
        self.free: dict[str, int] = {}
        """Free slots by GPU class."""
        self.at_limit: dict[str, str] = {}
        """The limit that a tenant has reached."""
        self.served: list[str] = []
        self.attempts: list[str] = []
        self.demand = DemandLimiter(self.sessions.set_waiting)
        self.queues = WaitQueues(self.sessions, self._end, 1024, self.demand)
        self.tasks: list[asyncio.Task[Any]] = []

    @property
    def published(self) -> int:
        services = self.sessions.state("g", frozenset({SERVICE}), 0.0)["services"]
        return services[SERVICE]["waiting"] if SERVICE in services else 0

    def wait(self, name: str, principal: Principal = PLATFORM, wait_ms: int = 20_000) -> _Caller:
        caller = _Caller()
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


@pytest.fixture
async def world() -> Any:
    """Return the queues; waiting callers leave at the end."""
    found = _World()
    yield found
    await found.close()


def _tenant(name: str, **changes: Any) -> Principal:
    return Principal(replace(Tenant(name), **changes))


async def test_slots_are_shared_between_tenants_by_weight(
    world: _World, until: Callable[..., Awaitable[None]]
) -> None:
    for number in range(40):
        world.wait(f"a{number}", _tenant("a"))
    for number in range(20):
        world.wait(f"b{number}", _tenant("b", weight=3))
    await until(lambda: world.published == 60)
    world.free["t4"] = 20
    await until(lambda: len(world.served) == 20)
    assert sum(name.startswith("b") for name in world.served) == 15
    assert world.published == 40


async def test_a_tenant_at_its_own_limit_keeps_nobody_else_waiting(
    world: _World, until: Callable[..., Awaitable[None]]
) -> None:
    world.at_limit["a"] = "sessions"
    limited = _tenant("a", limits=TenantLimits(sessions=1))
    first, second = world.wait("a1", limited), world.wait("a2", limited)
    await until(lambda: "a1" in world.attempts and world.published == 0)
    assert world.queues.callers_before(SERVICE, _tenant("b")) == 0
    assert world.queues.callers_before(SERVICE, limited) == 2
    other = world.wait("b1", _tenant("b"))
    await until(lambda: other.positions)
    world.free["t4"] = 2
    await until(lambda: world.served == ["b1"])
    assert (first.positions[-1], second.positions[-1]) == (1, 2)
    assert first.events[-1]["eta_ms"] is None
    del world.at_limit["a"]  # one of its sessions has ended
    await until(lambda: world.served == ["b1", "a1"])
    await until(lambda: second.positions[-1] == 1)


async def test_a_tenant_whose_gpu_classes_are_full_keeps_nobody_else_waiting(
    world: _World, until: Callable[..., Awaitable[None]]
) -> None:
    world.wait("a1", _tenant("a", priority=9, gpu_classes=frozenset({"h100"})))
    world.wait("b1", _tenant("b"))
    world.free["l4"] = 1
    await until(lambda: world.served == ["b1"])
    assert world.published == 1
    world.free["h100"] = 1
    await until(lambda: world.served == ["b1", "a1"])


async def test_callers_of_a_higher_priority_come_first(
    world: _World, until: Callable[..., Awaitable[None]]
) -> None:
    low = world.wait("low", _tenant("a"))
    await until(lambda: low.positions == [1])
    high = world.wait("high", _tenant("b", priority=1))
    await until(lambda: high.positions == [1] and low.positions == [1, 2])
    world.free["t4"] = 1
    await until(lambda: world.served == ["high"])


async def test_a_flood_of_one_tenant_does_not_fill_the_queue(world: _World) -> None:
    flood = _tenant("a", limits=TenantLimits(sessions=3))
    while world.queues.accepts(SERVICE, flood):
        world.wait("a", flood, 60_000)
        await asyncio.sleep(0)
    assert world.queues.accepts(SERVICE, _tenant("b"))
    assert world.queues.accepts(SERVICE, PLATFORM)
    assert world.published == 3


async def test_a_caller_that_has_left_is_gone_at_once(
    world: _World, until: Callable[..., Awaitable[None]]
) -> None:
    first, second = world.wait("a1", _tenant("a")), world.wait("a2", _tenant("a"))
    await until(lambda: second.positions == [2])
    first.gone.set()
    await until(lambda: world.published == 1)
    await until(lambda: second.positions[-1] == 1)
    # The next caller arrives while the task of the emptied queue still sleeps.
    second.gone.set()
    await until(lambda: world.published == 0)
    third = world.wait("a3", _tenant("a"))
    await until(lambda: third.positions == [1])
    world.free["t4"] = 1
    await until(lambda: world.served == ["a3"])
