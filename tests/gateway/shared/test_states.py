"""The in-memory state and the real Redis decide the same, whatever gateways die."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.redis_server import RedisServer, shift_leases

from avatar_gateway.core.leases import TTL_MS, Lease, QuotaExceeded
from avatar_gateway.core.tenants import TenantLimits
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.shared.redis import RedisState
from avatar_gateway.shared.state import Finished

if TYPE_CHECKING:
    from redis.asyncio import Redis

LIMITS = TenantLimits(sessions=6, sessions_per_service=4)
TENANTS = ("acme", "globex")
SERVICES = ("acme/a", "acme/b")


@dataclass
class World:
    """Both states, a clock for the one in memory, and what live gateways hold."""

    memory: MemoryState
    redis: RedisState
    client: Redis
    clock: list[float]
    chance: random.Random
    held: dict[str, list[Lease]] = field(default_factory=lambda: {"g1": [], "g2": [], "g3": []})
    away: list[tuple[Lease, float]] = field(default_factory=list)
    """Leases that nobody renews, and when they end."""
    count: int = 0

    def new(self, tenant: str, service: str) -> Lease:
        self.count += 1
        return Lease(f"l{self.count}", tenant, service, f"o{self.count}")

    async def acquire(self, gateway: str) -> None:
        lease = self.new(self.chance.choice(TENANTS), self.chance.choice(SERVICES))
        found = [await state.acquire(lease, LIMITS) for state in (self.memory, self.redis)]
        assert found[0] == found[1]
        if found[0] is None:
            self.held[gateway].append(lease)

    async def bind(self, gateway: str) -> None:
        if not self.held[gateway]:
            return
        at = self.chance.randrange(len(self.held[gateway]))
        lease = self.held[gateway][at]
        self.count += 1
        taken = [each.id for each in self.held["g1"] if each.tenant == lease.tenant]
        name = self.chance.choice([f"s{self.count}", *taken])
        found = [await state.bind(lease, name) for state in (self.memory, self.redis)]
        assert found[0] == found[1]
        if found[0]:
            self.held[gateway][at] = Lease(name, lease.tenant, lease.service, lease.owner)

    async def finish(self, gateway: str) -> None:
        if not self.held[gateway]:
            return
        lease = self.held[gateway].pop(self.chance.randrange(len(self.held[gateway])))
        is_suspended = self.chance.random() < 0.4
        for state in (self.memory, self.redis):
            await state.finish([Finished(lease, is_suspended)])
        if is_suspended:
            self.away.append((lease, self.clock[0] + TTL_MS / 1000))

    async def take_over(self, gateway: str) -> None:
        """A caller comes back: from a dead gateway, or through another connection."""
        found = [lease for lease, _ in self.away]
        if not found:
            return
        old = self.chance.choice(found)
        self.away = [each for each in self.away if each[0] is not old]
        self.count += 1
        lease = Lease(old.id, old.tenant, old.service, f"o{self.count}")
        for state in (self.memory, self.redis):
            await state.take_over(lease)
            await state.finish([Finished(old, is_suspended=False)])  # too late: not the owner
        self.held[gateway].append(lease)

    async def die(self, gateway: str) -> None:
        """A gateway dies after it has renewed its leases."""
        await self.renew()
        until = self.clock[0] + TTL_MS / 1000
        self.away += [(lease, until) for lease in self.held[gateway]]
        self.held[gateway].clear()

    async def renew(self) -> None:
        leases = [lease for held in self.held.values() for lease in held]
        for state in (self.memory, self.redis):
            await state.renew(leases)

    async def step(self, gateway: str) -> None:
        """Time passes; live gateways renew in time."""
        del gateway
        seconds = self.chance.choice([1.0, 9.0, 30.0])
        await self.renew()
        self.clock[0] += seconds
        await shift_leases(self.client, seconds * 1000)
        self.away = [each for each in self.away if each[1] > self.clock[0]]

    async def check(self) -> None:
        """No limit is exceeded, and every session counts once."""
        overviews = [await state.overview("g1") for state in (self.memory, self.redis)]
        live = [lease for held in self.held.values() for lease in held]
        live += [lease for lease, _ in self.away]
        for tenant in TENANTS:
            ids = {lease.id for lease in live if lease.tenant == tenant}
            assert len(ids) == sum(lease.tenant == tenant for lease in live)
            assert len(ids) <= (LIMITS.sessions or 0)
            for overview in overviews:
                usage = overview.tenants.get(tenant)
                assert (usage.sessions if usage else 0) == len(ids)
            for service in SERVICES:
                own = sum(e.tenant == tenant and e.service == service for e in live)
                assert own <= (LIMITS.sessions_per_service or 0)
                for overview in overviews:
                    usage = overview.tenants.get(tenant)
                    assert (usage.by_service.get(service, 0) if usage else 0) == own


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_no_limit_is_exceeded_whatever_dies(seed: int, redis_server: RedisServer) -> None:
    clock = [1_000_000.0]
    connection, client = redis_server.connection(), redis_server.client()
    world = World(
        MemoryState(lambda: clock[0]), RedisState(connection), client, clock, random.Random(seed)
    )
    actions = [world.acquire] * 8 + [world.finish] * 3 + [world.bind] * 3
    actions += [world.take_over] * 3 + [world.die]
    actions += [world.step] * 2
    try:
        for _ in range(400):
            action = world.chance.choice(actions)
            await action(world.chance.choice(["g1", "g2", "g3"]))
            await world.check()
        for gateway in world.held:
            await world.die(gateway)
        clock[0] += TTL_MS / 1000
        await shift_leases(client, TTL_MS)
        world.away.clear()
        await world.check()
        for key in ("leases", "holders", "counts"):  # nothing is left behind
            assert await client.keys(f"avatar:{key}:*") == []
    finally:
        await connection.close()
        await client.aclose()


async def test_a_repeated_request_counts_once(redis_server: RedisServer) -> None:
    connection = redis_server.connection()
    for state in (MemoryState(lambda: 0.0), RedisState(connection)):
        lease = Lease("l1", "acme", "acme/a", "o1")
        one = TenantLimits(sessions=1)
        assert await state.acquire(lease, one) is None
        assert await state.acquire(lease, one) is None
        assert await state.bind(lease, "s1")
        assert await state.bind(lease, "s1")
        other = Lease("l2", "acme", "acme/a", "o2")
        assert await state.acquire(other, one) == QuotaExceeded("sessions", 1, 1)
    await connection.close()


async def test_a_connection_without_the_token_cannot_take_a_lease_away(
    redis_server: RedisServer,
) -> None:
    connection = redis_server.connection()
    one = TenantLimits(sessions=1)
    for state in (MemoryState(lambda: 0.0), RedisState(connection)):
        live, stranger = (Lease("s1", "acme", "acme/a", owner) for owner in ("o1", "o2"))
        assert await state.acquire(live, one) is None
        await state.take_over(stranger)
        await state.renew([live])
        await state.finish([Finished(stranger, is_suspended=True)])
        await state.renew([live])
        await state.finish([Finished(stranger, is_suspended=False)])
        assert await state.acquire(Lease("l2", "acme", "acme/a", "o3"), one) is not None
        await state.finish([Finished(live, is_suspended=False)])
        assert await state.acquire(Lease("l2", "acme", "acme/a", "o3"), one) is None
    await connection.close()


async def test_gateways_of_one_server_never_exceed_a_limit(redis_server: RedisServer) -> None:
    connections = [redis_server.connection() for _ in range(3)]
    states = [RedisState(each) for each in connections]
    leases = [Lease(f"l{at}", "acme", "acme/a", f"o{at}") for at in range(60)]
    found = await asyncio.gather(
        *(
            states[at % 3].acquire(lease, TenantLimits(sessions=7))
            for at, lease in enumerate(leases)
        )
    )
    assert found.count(None) == 7
    for connection in connections:
        await connection.close()


async def test_uses_are_counted_up_to_a_limit(redis_server: RedisServer) -> None:
    clock, connection = [0.0], redis_server.connection()
    memory = MemoryState(lambda: clock[0])
    for state in (memory, RedisState(connection)):
        assert [await state.count_use("secret", 2, 60) for _ in range(4)] == [1, 1, 0, 0]
        assert await state.count_use("another", 2, 60)
    clock[0] = 61
    assert await memory.count_use("secret", 2, 60)
    async with redis_server.client() as client:
        assert 0 < await client.pttl("avatar:uses:secret") <= 60_000
    await connection.close()


async def test_a_script_that_the_server_forgot_runs_again(redis_server: RedisServer) -> None:
    connection = redis_server.connection()
    state = RedisState(connection)
    assert await state.count_use("secret", 9, 60)
    async with redis_server.client() as client:
        await client.script_flush()
    assert await state.count_use("secret", 9, 60)
    await connection.close()


@pytest.mark.slow
async def test_gateways_know_who_waits_at_the_others(redis_server: RedisServer) -> None:
    connection = redis_server.connection()
    state = RedisState(connection)
    assert (await state.overview("g1", {"acme": {"acme/a": 2}})).waiting == {}
    second = await state.overview("g2", {"acme": {"acme/a": 1, "acme/b": 5}, "globex": {"s": 1}})
    assert second.waiting == {"acme": {"acme/a": 2}}
    third = await state.overview("g3")
    assert third.waiting == {"acme": {"acme/a": 3, "acme/b": 5}, "globex": {"s": 1}}
    async with redis_server.client() as client:
        await client.zadd("avatar:gateways", {"g2": 1})  # it has died long ago
        assert (await state.overview("g3")).waiting == {"acme": {"acme/a": 2}}
        assert sorted(await client.hkeys("avatar:waiting")) == ["g1", "g3"]
    await state.overview("g1")
    assert (await state.overview("g3")).waiting == {}
    await connection.close()
