"""The order in Redis and the one in memory are the same after any history."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from avatar_gateway.core.fair_queue import FairQueue, Share
from avatar_gateway.shared.waiting import TTL_MS, SharedQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis
    from tests.redis_server import RedisServer

SERVICE = "acme/concierge"


@asynccontextmanager
async def _gateways(server: RedisServer, count: int) -> AsyncIterator[list[SharedQueue]]:
    async with AsyncExitStack() as stack:
        queues = []
        for number in range(count):
            connection = server.connection()
            stack.push_async_callback(connection.close)
            queues.append(SharedQueue(connection, SERVICE, f"g{number}"))
        yield queues


class _Both:
    """The same operations on the queue in memory and on that of two gateways in Redis."""

    def __init__(self, gateways: list[SharedQueue], chance: random.Random) -> None:
        self.gateways = gateways
        self.chance = chance
        self.memory = FairQueue()
        self.home: dict[str, int] = {}
        """The gateway of each caller."""
        self.tenants: dict[str, str] = {}
        self.count = 0

    async def join(self) -> None:
        self.count += 1
        caller, tenant = f"{self.count}", self.chance.choice(["", "a", "b", "c", "d"])
        weight, priority = self.chance.choice([1, 2, 3, 7, 1000]), self.chance.choice([0, 0, 0, 4])
        share = Share(tenant, weight, priority)
        self.home[caller] = self.chance.randrange(len(self.gateways))
        self.tenants[caller] = tenant
        self.memory.join(caller, share)
        for _ in range(2):  # a repeated call changes nothing
            await self.gateways[self.home[caller]].poll({caller: share}, [])

    async def leave(self) -> None:
        if self.home:
            caller = self.chance.choice(sorted(self.home))
            self.memory.leave(caller)
            await self.gateways[self.home.pop(caller)].poll({}, [caller, "unknown"])

    async def grant(self) -> None:
        caller = self.memory.next()
        turns = [await gateway.poll({}, []) for gateway in self.gateways]
        expected = [
            caller if caller is not None and self.home[caller] == at else None
            for at in range(len(self.gateways))
        ]
        assert [turn.caller for turn in turns] == expected
        counts = Counter(self.home.values())
        assert [turn.known for turn in turns] == [counts[at] for at in range(len(turns))]
        if caller is not None:
            self.memory.grant(caller)
            await self.gateways[self.home.pop(caller)].grant(caller)

    async def set_aside(self) -> None:
        tenant = self.chance.choice(["", "a", "b"])
        self.memory.set_aside(tenant)
        await self.gateways[0].set_aside(tenant, 3600)

    async def resume(self) -> None:
        tenant = self.chance.choice(["", "a", "b"])
        self.memory.resume(tenant)
        await self.gateways[1].resume(tenant)

    async def places(self) -> None:
        expected = self.memory.places()
        found: dict[str, int] = {}
        for at, gateway in enumerate(self.gateways):
            own = {caller: self.tenants[caller] for caller, home in self.home.items() if home == at}
            places = await gateway.places(own)
            found |= {caller: place for caller, (place, _) in places.items()}
        assert found == expected


@pytest.mark.parametrize("seed", range(4))
async def test_the_queue_in_redis_is_the_queue_in_memory(
    seed: int, redis_server: RedisServer
) -> None:
    async with _gateways(redis_server, 2) as gateways:
        both = _Both(gateways, random.Random(seed))
        actions = [both.join] * 8 + [both.grant] * 7 + [both.leave] * 2
        actions += [both.set_aside, both.resume, both.resume, both.places]
        for _ in range(250):
            await both.chance.choice(actions)()
        for tenant in ("", "a", "b"):
            both.memory.resume(tenant)
            await gateways[0].resume(tenant)
        await both.places()
        while both.home:
            await both.grant()
    async with redis_server.client() as client:
        left = {str(key).rpartition(":")[2] for key in await client.keys("avatar:queue:*")}
        assert left <= {"arrivals", "gateways"}
        assert all([await client.pttl(key) > 0 for key in await client.keys("avatar:queue:*")])


async def _expire(client: Redis, gateway: str) -> None:
    await client.zincrby(f"avatar:queue:{SERVICE}:gateways", -2.0 * TTL_MS, gateway)


async def test_the_callers_of_a_dead_gateway_vanish(redis_server: RedisServer) -> None:
    async with _gateways(redis_server, 2) as (dead, alive), redis_server.client() as client:
        await dead.poll({f"{n}": Share("a") for n in range(5)}, [])
        assert (await alive.poll({"b": Share("b", priority=0), "c": Share("a")}, [])).caller is None
        await _expire(client, "g0")
        assert (await alive.poll({}, [])).caller is not None
        await alive.grant("c")
        assert (await alive.poll({}, [])).caller == "b"
        # A gateway that was only slow finds that its callers are gone, and adds them again.
        assert (await dead.poll({}, [])).known == 0
        assert (await dead.poll({"0": Share("a")}, [])).known == 1


async def test_the_callers_of_a_dead_gateway_keep_no_newcomer_waiting(
    redis_server: RedisServer,
) -> None:
    async with _gateways(redis_server, 2) as (dead, alive), redis_server.client() as client:
        await dead.poll({"1": Share("a"), "2": Share("b"), "3": Share("b")}, [])
        await dead.set_aside("b", 3600)
        assert await alive.before(Share("b")) == (True, 3)
        assert await alive.before(Share("c")) == (True, 3)
        assert await alive.before(Share("c", priority=1)) == (False, 3)
        await _expire(client, "g0")
        assert await alive.before(Share("c")) == (False, 2)
        assert await alive.before(Share("b")) == (False, 0)


async def test_a_tenant_is_set_aside_for_some_time(redis_server: RedisServer) -> None:
    async with _gateways(redis_server, 1) as (queue,):
        await queue.poll({"a": Share("a", priority=9), "b": Share("b")}, [])
        await queue.set_aside("a", 3600)
        assert (await queue.poll({}, [])).caller == "b"
        await queue.set_aside("a", 0)
        async with asyncio.timeout(10):
            while (await queue.poll({}, [])).caller != "a":  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_the_order_of_a_thousand_tenants_over_three_gateways_is_fair(
    redis_server: RedisServer,
) -> None:
    async with _gateways(redis_server, 3) as gateways:
        for at, gateway in enumerate(gateways):
            shares = {f"{n}": Share(f"t{n}") for n in range(at, 1000, 3)}
            await gateway.poll(shares, [])
        flood = {f"flood-{n}": Share("t0") for n in range(500)}
        await gateways[1].poll(flood, [])
        ranks = await gateways[1].places(dict.fromkeys(flood, "t0"))
        assert ranks["flood-499"] == (1500, 500)
        assert ranks["flood-0"][1] == 1
