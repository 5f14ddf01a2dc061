"""Waiting callers of two gateways with a real Redis: one order, and each caller counts once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.waiting_world import SERVICE, WaitingWorld

from avatar_gateway.core.tenants import Principal, Tenant, TenantLimits
from avatar_gateway.shared.waiting import SharedQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.redis_server import RedisServer

    Until = Callable[..., Awaitable[None]]


@asynccontextmanager
async def _gateways(server: RedisServer) -> AsyncIterator[tuple[WaitingWorld, WaitingWorld]]:
    async with AsyncExitStack() as stack:

        def world(name: str) -> WaitingWorld:
            connection = server.connection()
            stack.push_async_callback(connection.close)
            found = WaitingWorld(lambda service: SharedQueue(connection, service, name))
            stack.push_async_callback(found.close)
            return found

        yield world("g1"), world("g2")


def _tenant(name: str, **changes: Any) -> Principal:
    return Principal(replace(Tenant(name), **changes))


async def test_the_callers_of_two_gateways_have_one_order(
    redis_server: RedisServer, until: Until
) -> None:
    async with _gateways(redis_server) as (first, second):
        one = first.wait("a1", _tenant("a"))
        await until(lambda: one.positions == [1])
        two = second.wait("a2", _tenant("a"))
        await until(lambda: two.positions == [2])
        three = first.wait("a3", _tenant("a"))
        await until(lambda: three.positions == [3])
        other = second.wait("b1", _tenant("b"))
        await until(lambda: other.positions and other.positions[0] <= 2)
        # The first gateway may not serve a3 before a2 and b1, which wait at the second one.
        first.free["t4"] = 4
        await until(lambda: first.served == ["a1"])
        await until(lambda: "a2" in second.attempts or "b1" in second.attempts)
        await asyncio.sleep(0)
        assert first.served == ["a1"]
        second.free["t4"] = 4
        await until(lambda: first.served == ["a1", "a3"])
        assert sorted(second.served) == ["a2", "b1"]


async def test_a_newcomer_does_not_overtake_the_callers_of_another_gateway(
    redis_server: RedisServer, until: Until
) -> None:
    async with _gateways(redis_server) as (first, second):
        ask = second.queues.callers_before
        assert await ask(SERVICE, _tenant("b")) == 0
        one = first.wait("a1", _tenant("a", priority=1))
        await until(lambda: one.positions == [1])
        async with asyncio.timeout(10):
            while not await ask(SERVICE, _tenant("b")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await ask(SERVICE, _tenant("b", priority=2)) == 0
        assert await ask(SERVICE, _tenant("a", priority=2)) == 1
        one.gone.set()
        async with asyncio.timeout(10):
            while await ask(SERVICE, _tenant("b")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_each_waiting_caller_counts_once_as_far_as_the_quota_permits(
    redis_server: RedisServer, until: Until
) -> None:
    limited = _tenant("a", limits=TenantLimits(sessions=5))
    async with _gateways(redis_server) as (first, second):
        for world in (first, second):
            world.usage["a"] = {SERVICE: 2}  # of all gateways
            for number in range(20):
                world.wait(f"a{number}", limited)
        await until(
            lambda: first.published + second.published == 3,
            lambda: (first.published, second.published),
        )
        for world in (first, second):
            world.usage["a"] = {SERVICE: 5}
        await until(lambda: first.published + second.published == 0)


async def test_without_the_shared_state_each_gateway_serves_its_own_callers(
    redis_server: RedisServer, until: Until
) -> None:
    async with _gateways(redis_server) as (first, second):
        one, two = first.wait("a1"), second.wait("a2")
        await until(lambda: one.positions and two.positions)
        await redis_server.kill()
        second.free["t4"] = 1
        await until(lambda: second.served == ["a2"])
        three = second.wait("a3")
        await until(lambda: three.positions == [1])
        await redis_server.start()  # it has lost everything; the callers join again
        await until(lambda: {one.positions[-1], three.positions[-1]} == {1, 2})
        first.free["t4"] = second.free["t4"] = 1
        await until(lambda: first.served == ["a1"] and second.served == ["a2", "a3"])
