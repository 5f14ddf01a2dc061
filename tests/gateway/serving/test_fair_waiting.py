"""Waiting callers of several tenants at one gateway."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.waiting_world import SERVICE, WaitingWorld

from avatar_gateway.core.tenants import PLATFORM, Principal, Tenant, TenantLimits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.fixture
async def world() -> Any:
    """Return the queues; waiting callers leave at the end."""
    found = WaitingWorld()
    yield found
    await found.close()


def _tenant(name: str, **changes: Any) -> Principal:
    return Principal(replace(Tenant(name), **changes))


async def test_slots_are_shared_between_tenants_by_weight(
    world: WaitingWorld, until: Callable[..., Awaitable[None]]
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
    world: WaitingWorld, until: Callable[..., Awaitable[None]]
) -> None:
    world.at_limit["a"] = "sessions"
    limited = _tenant("a", limits=TenantLimits(sessions=1))
    first, second = world.wait("a1", limited), world.wait("a2", limited)
    await until(lambda: "a1" in world.attempts and world.published == 0)
    assert await world.queues.callers_before(SERVICE, _tenant("b")) == 0
    assert await world.queues.callers_before(SERVICE, limited) == 2
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
    world: WaitingWorld, until: Callable[..., Awaitable[None]]
) -> None:
    world.wait("a1", _tenant("a", priority=9, gpu_classes=frozenset({"h100"})))
    world.wait("b1", _tenant("b"))
    world.free["l4"] = 1
    await until(lambda: world.served == ["b1"])
    assert world.published == 1
    world.free["h100"] = 1
    await until(lambda: world.served == ["b1", "a1"])


async def test_callers_of_a_higher_priority_come_first(
    world: WaitingWorld, until: Callable[..., Awaitable[None]]
) -> None:
    low = world.wait("low", _tenant("a"))
    await until(lambda: low.positions == [1])
    high = world.wait("high", _tenant("b", priority=1))
    await until(lambda: high.positions == [1] and low.positions == [1, 2])
    world.free["t4"] = 1
    await until(lambda: world.served == ["high"])


async def test_a_flood_of_one_tenant_does_not_fill_the_queue(world: WaitingWorld) -> None:
    flood = _tenant("a", limits=TenantLimits(sessions=3))
    while world.queues.accepts(SERVICE, flood):
        world.wait("a", flood, 60_000)
        await asyncio.sleep(0)
    assert world.queues.accepts(SERVICE, _tenant("b"))
    assert world.queues.accepts(SERVICE, PLATFORM)
    assert world.published == 3
    assert world.queues.tenant_waiting("a") == 1000
    assert world.queues.tenant_waiting("b") == 0


async def test_a_caller_that_has_left_is_gone_at_once(
    world: WaitingWorld, until: Callable[..., Awaitable[None]]
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
