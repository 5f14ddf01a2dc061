"""The leases of gateways: what they do while the shared state is away, and afterwards."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.redis_server import shift_leases

from avatar_gateway import errors
from avatar_gateway.core.leases import TTL_MS, Usage, limits_alone, share
from avatar_gateway.core.tenants import AtMonthlyLimit, Tenant, TenantLimits
from avatar_gateway.shared import leases as shared_leases
from avatar_gateway.shared.leases import HeldLease, Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.shared.redis import RedisState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from redis.asyncio import Redis
    from tests.redis_server import RedisServer

WAIT_S = 30.0
ACME = Tenant("acme", TenantLimits(sessions=7))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  the condition is about another process
            await asyncio.sleep(0.01)


async def refused(leases: Leases, tenant: Tenant = ACME) -> errors.Rejection:
    with pytest.raises(errors.Rejection) as found:
        await leases.acquire(tenant, "acme/a")
    return found.value


async def fill(leases: Leases) -> list[HeldLease]:
    """Acquire until the limit refuses."""
    held = []
    try:
        while True:
            held.append(await leases.acquire(ACME, "acme/a"))
    except errors.Rejection:
        return held


def in_memory(now: Callable[[], float] = lambda: 0.0) -> Leases:
    return Leases(MemoryState(now), "g", now)


async def test_a_refusal_names_the_limit_and_what_is_used() -> None:
    leases = in_memory()
    held = await fill(leases)
    assert len(held) == 7
    found = await refused(leases)
    assert (found.code, found.param, found.value, found.limit) == (
        *("quota_exceeded", "sessions"),
        *(7, 7),
    )
    narrow = Tenant("globex", TenantLimits(sessions=7, sessions_per_service=1))
    await leases.acquire(narrow, "globex/a")
    await leases.acquire(narrow, "globex/b")
    with pytest.raises(errors.Rejection, match="sessionsPerService"):
        await leases.acquire(narrow, "globex/a")


async def test_a_released_lease_is_free_for_the_next_request_at_once() -> None:
    leases = in_memory()
    held = await fill(leases)
    held[0].release()
    held[0].release()
    held[0].suspend()
    await leases.acquire(ACME, "acme/a")
    assert (await refused(leases)).param == "sessions"


async def test_a_caller_that_is_away_keeps_its_slot_until_it_comes_back() -> None:
    now = [0.0]
    leases = in_memory(lambda: now[0])
    held = await fill(leases)
    held[0].bind("s1")
    held[0].suspend()
    await refused(leases)
    again = await leases.take_over(ACME, "acme/a", "s1")
    await refused(leases)
    held[0].release()  # the old connection ends late
    await refused(leases)
    again.suspend()
    await leases.report()
    now[0] = 34.0
    await leases.report()
    await refused(leases)
    now[0] = 36.0
    await leases.acquire(ACME, "acme/a")


async def test_the_name_of_a_session_that_another_lease_has_is_not_taken() -> None:
    leases = in_memory()
    held = await fill(leases)
    for each in held:
        each.bind("the-same")
    await leases.report()
    assert leases.overview.tenants["acme"].sessions == 7
    held[3].release()
    await leases.acquire(ACME, "acme/a")
    await refused(leases)


async def test_an_offered_session_counts_from_the_offer_until_its_end() -> None:
    now = [0.0]
    leases = in_memory(lambda: now[0])
    for number in range(7):
        await leases.offer(ACME, "acme/a", f"conn_{number}")
    await refused(leases)
    adopted = leases.adopt("acme", "acme/a", "conn_0", "sess_0")
    for now[0] in (20.0, 40.0):  # nobody came for the others
        await leases.report()
    assert leases.overview.tenants["acme"].sessions == 1
    assert leases.usage("acme").sessions == 1
    again = await leases.take_over(ACME, "acme/a", "sess_0")  # resumed through a gateway
    await leases.report()
    assert leases.overview.tenants["acme"].sessions == 1
    again.release()
    adopted.release()
    await leases.report()
    assert leases.overview.tenants == {}


async def test_an_offer_that_nobody_gets_is_free_at_once() -> None:
    leases = in_memory()
    offers = [await leases.offer(ACME, "acme/a", f"conn_{number}") for number in range(7)]
    with pytest.raises(errors.Rejection, match=r"limits\.sessions"):
        await leases.offer(ACME, "acme/a", "conn_7")
    leases.withdraw(offers[0])
    await leases.offer(ACME, "acme/a", "conn_8")


@pytest.mark.slow
async def test_all_gateways_renew_an_offered_session_and_count_it_once(
    redis_server: RedisServer,
) -> None:
    globex = Tenant("globex", TenantLimits(sessions=1))
    async with two_gateways(redis_server) as (first, second, client):
        await first.offer(globex, "globex/a", "conn_0")
        with pytest.raises(errors.Rejection, match=r"limits\.sessions"):
            await second.acquire(globex, "globex/a")
        held = [each.adopt("globex", "globex/a", "conn_0", "sess_0") for each in (first, second)]
        for each in (first, second, first):
            await each.report()
        assert second.overview.tenants["globex"].sessions == 1
        assert (first.usage("globex").sessions, second.usage("globex").sessions) == (1, 0)
        first.forget(held[0])  # it has died
        for _ in range(2):
            await shift_leases(client, TTL_MS - 5000)
            await second.report()
        assert second.overview.tenants["globex"].sessions == 1
        held[1].release()
        held[1].release()
        await second.report()
        assert second.overview.tenants.get("globex", Usage()).sessions == 0


async def test_a_cancelled_request_gives_back_what_it_may_have_got() -> None:
    leases = in_memory()
    memory = leases.state
    reached = asyncio.Event()
    acquire = memory.acquire

    async def slow(*arguments: object) -> None:
        await acquire(*arguments)  # type: ignore[arg-type]
        reached.set()
        await asyncio.Event().wait()

    memory.acquire = slow  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(leases.acquire(ACME, "acme/a"))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    memory.acquire = acquire  # type: ignore[method-assign]
    await leases.report()
    assert len(await fill(leases)) == 7


@pytest.mark.parametrize(
    ("limit", "own", "total", "replicas", "expected"),
    [
        (None, 3, 9, 2, None),
        (10, 3, 6, 2, 5),
        (10, 3, 6, 3, 4),
        (10, 3, 12, 2, 3),
        (10, 0, 0, 0, 0),
        (10, 2, 2, 0, 2),
    ],
)
def test_a_share_is_what_it_had_and_an_equal_part_of_the_rest(
    limit: int | None, own: int, total: int, replicas: int, expected: int | None
) -> None:
    assert share(limit, own, total, replicas) == expected
    alone = limits_alone(
        TenantLimits(sessions=limit, sessions_per_service=limit),
        Usage(own, {"a": own}),
        Usage(total, {"a": total}),
        "a",
        replicas,
    )
    assert (alone.sessions, alone.sessions_per_service) == (expected, expected)


@pytest.mark.slow
async def test_while_the_state_is_away_new_sessions_stay_within_the_share(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_leases, "HEARTBEAT_S", 0.05)
    loop = asyncio.get_running_loop()
    late = [0.0]
    states = [RedisState(redis_server.connection()) for _ in range(3)]
    first, second, third = (
        Leases(state, f"g{at}", lambda: loop.time() + late[0]) for at, state in enumerate(states)
    )
    async with AsyncExitStack() as stack:
        for state in states:
            stack.push_async_callback(state.close)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [group.create_task(each.run()) for each in (first, second, third)]
        held = [await first.acquire(ACME, "acme/a"), await first.acquire(ACME, "acme/a")]
        held.append(await second.acquire(ACME, "acme/a"))
        await until(
            lambda: (
                all(
                    each.overview.replicas == 3 and each.overview.tenants["acme"].sessions == 3
                    for each in (first, second, third)
                    if "acme" in each.overview.tenants or each.overview.replicas != 3
                )
                and "acme" in third.overview.tenants
                and "acme" in second.overview.tenants
                and "acme" in first.overview.tenants
            )
        )
        await redis_server.kill()
        # 4 of 7 are left, for three gateways: one each.
        counts = [len(await fill(each)) for each in (first, second, third)]
        assert counts == [1, 1, 1]
        assert "while the shared state is unavailable" in str(await refused(second))
        assert (await refused(second)).code == "quota_exceeded"
        unlimited = await third.acquire(Tenant("globex"), "globex/a")
        held[2].release()
        held.append(await second.acquire(ACME, "acme/a"))
        await refused(second)
        held[0].release()

        await redis_server.start()  # it has lost everything
        await until(
            lambda: all(
                each.overview.tenants.get("acme", Usage()).sessions == 5
                for each in (first, second, third)  # each has seen that the server is back
            )
        )
        assert third.overview.tenants["globex"].sessions == 1
        # Until the others had time to report, each stays within its share.
        assert len(await fill(first)) == 1
        await refused(first)
        assert first.is_alone
        late[0] = shared_leases.GRACE_S + 1
        assert not first.is_alone
        assert len(await fill(third)) == 1  # 7 in all
        await refused(second)
        unlimited.release()
        for task in tasks:
            task.cancel()


@pytest.mark.slow
async def test_a_gateway_is_not_alone_any_more_when_the_server_has_kept_its_data(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "avatar_gateway.shared.leases")
    loop = asyncio.get_running_loop()
    state = RedisState(redis_server.connection())
    leases = Leases(state, "g", loop.time)
    held = [await leases.acquire(ACME, "acme/a") for _ in range(3)]
    await leases.report()
    held.append(await leases.acquire(ACME, "acme/a"))
    async with redis_server.client() as client:
        redis_server.freeze()
        more = await fill(leases)  # the only replica may have all
        assert leases.is_alone
        assert len(more) == 3
        held[0].release()
        held[1].release()
        more += await fill(leases)
        assert len(more) == 5
        redis_server.thaw()
        await until(lambda: state.name == "ok")
        # What it granted alone is added before what ended is given back.
        await leases.report()
        assert not leases.is_alone
        assert caplog.messages[-1] == "sessions of all gateways count together again"
        assert await client.zcard("avatar:leases:acme") == 7
    await refused(leases)
    await state.close()


@pytest.mark.slow
async def test_a_dead_gateway_frees_its_slots_and_another_one_continues_its_sessions(
    redis_server: RedisServer,
) -> None:
    loop = asyncio.get_running_loop()
    dead, alive = (
        Leases(RedisState(redis_server.connection()), f"g{at}", loop.time) for at in range(2)
    )
    held = await fill(dead)
    for at, each in enumerate(held):
        each.bind(f"s{at}")
    await dead.report()
    continued = [await alive.take_over(ACME, "acme/a", f"s{at}") for at in range(5)]
    await alive.report()
    await refused(alive)
    await dead.report()  # it was only slow: its connections have lost their leases
    for each in held[:5]:
        each.release()
    await dead.report()
    await alive.report()
    assert alive.overview.tenants["acme"].sessions == 7
    for each in continued:
        each.release()
    assert len(await fill(alive)) == 5
    for leases in (dead, alive):
        await leases.state.close()


def counts_with_others(leases: Leases) -> str:
    """Return the name of the state; as a text, since it changes between two calls."""
    return leases.state_name


@asynccontextmanager
async def two_gateways(server: RedisServer) -> AsyncIterator[tuple[Leases, Leases, Redis]]:
    """Return two gateways, of which the first has 3 and the second 4 of 7 sessions."""
    loop = asyncio.get_running_loop()
    states = [RedisState(server.connection()) for _ in range(2)]
    first, second = (Leases(state, f"g{at}", loop.time) for at, state in enumerate(states))
    for _ in range(3):
        await first.acquire(ACME, "acme/a")
    await fill(second)
    for _ in range(2):  # both have read what the other one has
        for each in (first, second):
            await each.report()
    async with server.client() as client:
        yield first, second, client
    for state in states:
        await state.close()


@pytest.mark.slow
async def test_a_server_that_was_away_longer_than_leases_live_has_lost_its_data(
    redis_server: RedisServer,
) -> None:
    async with two_gateways(redis_server) as (first, second, client):
        assert 0 < await client.pttl("avatar:data-id") <= TTL_MS - 10_000
        redis_server.freeze()
        for each in (first, second):
            await refused(each)
            assert each.state_name == "unavailable"
        redis_server.thaw()
        await shift_leases(client, TTL_MS)  # 35 s later; the id of the data is gone since 10 s
        await client.delete("avatar:data-id")
        await until(lambda: first.state.name == second.state.name == "ok")
        await first.report()
        assert first.state_name == "ok"
        assert first.is_alone  # the leases of the other one are missing
        assert await fill(first) == []


@pytest.mark.slow
async def test_a_server_that_loses_its_data_between_two_reports_grants_nothing_by_it(
    redis_server: RedisServer,
) -> None:
    async with two_gateways(redis_server) as (first, second, client):
        await client.flushall()
        await first.acquire(Tenant("globex"), "globex/a")  # a tenant without limits
        assert await fill(first) == []
        assert first.is_alone
        await second.report()
        assert second.is_alone
        assert await fill(second) == []
        await first.report()
        assert await client.zcard("avatar:leases:acme") == 7


@pytest.mark.slow
async def test_a_server_that_is_full_is_unavailable_and_the_log_says_why(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    state = RedisState(redis_server.connection())
    leases = Leases(state, "g", asyncio.get_running_loop().time)
    await leases.report()
    async with redis_server.client() as client:
        await client.config_set("maxmemory", "1")
        await leases.acquire(ACME, "acme/a")  # the share of the only gateway
        assert counts_with_others(leases) == "unavailable"
        assert "maxmemory" in caplog.text
        await client.config_set("maxmemory", "0")
        await leases.report()
        assert counts_with_others(leases) == "ok"
    await state.close()


@pytest.mark.slow
async def test_a_clock_that_went_back_keeps_no_lease_for_longer(redis_server: RedisServer) -> None:
    async with two_gateways(redis_server) as (first, _, client):
        await shift_leases(client, -3_600_000)  # written before the clock went back by an hour
        now_s = int((await client.time())[0])
        await first.report()
        ids = await client.zrange("avatar:leases:acme", 0, -1)
        scores = [float(await client.zscore("avatar:leases:acme", str(each)) or 0) for each in ids]
        assert len(scores) == 7
        assert max(scores) < (now_s + 70) * 1000


@pytest.mark.parametrize("at_limit", AtMonthlyLimit, ids=lambda each: each.value)
async def test_a_gateway_that_starts_without_the_state_knows_no_minutes(
    redis_server: RedisServer, at_limit: AtMonthlyLimit
) -> None:
    await redis_server.kill()
    state = RedisState(redis_server.connection())
    leases = Leases(state, "g", asyncio.get_running_loop().time)
    tenant = Tenant("acme", TenantLimits(minutes_per_month=10, at_monthly_limit=at_limit))
    if at_limit is AtMonthlyLimit.REFUSE:
        assert (await refused(leases, tenant)).param == "minutesPerMonth"
    else:
        await leases.acquire(tenant, "acme/a")
    await state.close()


@given(data=st.data())
def test_shares_after_a_loss_exceed_a_limit_by_no_more_than_was_granted_since_the_counts(
    data: st.DataObject,
) -> None:
    limit, replicas = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 4))
    held, totals = [0] * replicas, [0]
    seen = [(0, 0)] * replicas  # own and total when each gateway counted last
    for _ in range(data.draw(st.integers(0, 40))):
        at = data.draw(st.integers(0, replicas - 1))
        change = data.draw(st.sampled_from(["grant", "end", "count"]))
        if change == "grant" and sum(held) < limit:
            held[at] += 1
        elif change == "end" and held[at]:
            held[at] -= 1
        elif change == "count":
            seen[at] = held[at], sum(held)
        totals.append(sum(held))
    shares = [
        share(limit, own, total, replicas, had)
        for (own, total), had in zip(seen, held, strict=True)
    ]
    least = min(total for _, total in seen)
    assert all((each or 0) >= had for each, had in zip(shares, held, strict=True))
    assert sum(each or 0 for each in shares) <= limit + max(0, sum(held) - least)
    if least >= limit:  # nothing was left when they counted
        assert sum(each or 0 for each in shares) <= limit


@pytest.mark.slow
async def test_a_server_that_lost_its_data_between_two_calls_grants_nothing_above_a_limit(
    redis_server: RedisServer,
) -> None:
    loop = asyncio.get_running_loop()
    states = [RedisState(redis_server.connection()) for _ in range(2)]
    first, second = (Leases(state, f"g{at}", loop.time) for at, state in enumerate(states))
    await first.report()
    await second.report()
    held = [*await fill(first), *await fill(second)]
    assert len(held) == 7
    await first.report()
    await second.report()
    await redis_server.kill()
    await redis_server.start()
    await refused(first)
    await refused(second)
    assert first.is_alone
    assert second.is_alone
    for state in states:
        await state.close()
