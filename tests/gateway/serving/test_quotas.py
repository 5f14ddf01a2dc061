"""The limits of a tenant: counted before a pod is asked, freed on every path."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.gateway.tenants import tenant_of
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import session_ids
from avatar_contracts.tokens import gateway_key, gateway_token
from avatar_gateway.core import usage
from avatar_gateway.core.leases import Usage
from avatar_gateway.core.tenants import Principal, Tenant, TenantLimits
from avatar_gateway.core.usage import Record
from avatar_gateway.serving.auth import Authenticator
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.shared.metering import Meter
from avatar_gateway.shared.redis import RedisState
from avatar_gateway.shared.usage_log import UsageLog
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web
    from tests.redis_server import RedisServer

KEY = "a-key-of-some-length"
BEARER = {"Authorization": f"Bearer {KEY}"}
SERVICE = "acme/concierge"
MASTER = "a-master-secret-of-the-operator"
WAIT_S = 30.0


@pytest.fixture(autouse=True)
def tenant(monkeypatch: pytest.MonkeyPatch) -> list[Tenant | None]:
    """Return the tenant of all requests, which a test may replace."""
    found: list[Tenant | None] = [Tenant("acme", TenantLimits(sessions=2))]

    async def authenticate(*arguments: Any) -> Principal:
        return Principal(found[0])

    monkeypatch.setattr(Authenticator, "authenticate", authenticate)
    monkeypatch.setattr(Authenticator, "check_current", lambda *_: None)
    monkeypatch.setattr(TenantRegistry, "permits", lambda *_: True)
    return found


@dataclass
class Counting:
    """A gateway with its leases."""

    gateway: Any
    leases: Leases

    def open(self, query: str = "", **options: Any) -> connect:
        options = {"additional_headers": BEARER, "compression": None} | options
        return connect(f"{self.gateway.url}?model={SERVICE}{query}", **options)

    async def refusal(self, query: str = "") -> dict[str, Any]:
        with pytest.raises(InvalidStatus) as refused:
            await self.open(query)
        response = refused.value.response
        assert response.status_code == 429
        assert response.headers["Retry-After"]
        found: dict[str, Any] = json.loads(response.body)["error"]
        return found

    async def until_free(self, sessions: int, tenant: str = "acme") -> None:
        async with asyncio.timeout(WAIT_S):
            while self.leases.usage(tenant).sessions != sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
async def counting(make_gateway: Callable[..., Any]) -> AsyncIterator[Counting]:
    """Return a gateway that counts alone."""
    now = asyncio.get_running_loop().time
    leases = Leases(MemoryState(now), "g1", now)
    async with make_gateway(leases=leases) as gateway:
        yield Counting(gateway, leases)


async def test_a_session_over_the_limit_is_refused_until_another_one_ends(
    counting: Counting,
) -> None:
    await counting.gateway.pod("p1")
    first, second = await counting.open(), await counting.open()
    error = await counting.refusal()
    assert (error["code"], error["param"], error["limit"]) == ("quota_exceeded", "sessions", 2)
    await first.send("x")
    assert await first.recv() == "x"
    await first.close(1000)
    await counting.until_free(1)
    third = await counting.open()
    await counting.refusal()
    async with counting.open("&refuse=close") as browser:
        assert json.loads(await browser.recv())["error"]["code"] == "quota_exceeded"
        with pytest.raises(ConnectionClosed) as closed:
            await browser.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4429
    for caller in (second, third):
        await caller.close()


async def test_a_caller_waits_until_a_session_of_its_tenant_ends(counting: Counting) -> None:
    await counting.gateway.pod("p1")
    first, second = await counting.open(), await counting.open()
    running = asyncio.create_task(counting.leases.run())
    waiting = await counting.open("&wait_ms=30000")
    assert json.loads(await waiting.recv())["type"]
    await first.close(1000)
    await waiting.send("x")
    async with asyncio.timeout(WAIT_S):
        while await waiting.recv() != "x":
            pass
    await counting.refusal()
    for caller in (second, waiting):
        await caller.close()
    running.cancel()


async def test_the_state_document_names_the_limit_and_the_month(
    counting: Counting, tenant: list[Tenant | None]
) -> None:
    await counting.gateway.pod("p1")
    counting.gateway.tenants.set_tenant(tenant_of("acme", limits={"sessions": 2}))
    record = Record("r", usage.Account("acme", SERVICE, "-"), usage.of(session_ms=61_500))
    await counting.leases.state.report_usage([record])
    await counting.leases.report()
    callers = [await counting.open() for _ in range(2)]
    headers = {"Authorization": f"Bearer {gateway_token(gateway_key(MASTER))}"}
    url = f"http://127.0.0.1:{counting.gateway.admin_port}/control/v1/state"

    async def shown() -> tuple[str, int, int]:
        async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as response:
            acme = (await response.json())["tenants"]["acme"]
        return acme["limited_by"], acme["seconds_this_month"], acme["sessions"]

    assert await shown() == ("", 61, 2)
    await counting.refusal()
    assert await shown() == ("sessions", 61, 2)
    for caller in callers:
        await caller.close()


@pytest.mark.parametrize("status", [503, 400])
async def test_a_pod_that_refuses_frees_the_slot(counting: Counting, status: int) -> None:
    pod = await counting.gateway.pod("p1")
    pod.rejection = (status, {"code": "no_capacity"})
    for _ in range(3):
        with pytest.raises(InvalidStatus) as refused:
            await counting.open()
        assert refused.value.response.status_code == status
    assert counting.leases.usage("acme") == Usage()


async def test_a_caller_that_leaves_before_its_pod_refuses_frees_the_slot(
    counting: Counting,
) -> None:
    pod = await counting.gateway.pod("p1")
    pod.may_answer = asyncio.Event()
    pod.rejection = (503, {"code": "no_capacity"})
    task = asyncio.create_task(counting.open().__aenter__())
    await counting.until_free(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    pod.may_answer.set()
    await counting.until_free(0)


async def test_a_platform_key_has_no_lease(counting: Counting, tenant: list[Tenant | None]) -> None:
    tenant[0] = None
    await counting.gateway.pod("p1")
    callers = [await counting.open() for _ in range(3)]
    await counting.leases.report()
    assert counting.leases.overview.tenants == {}
    for caller in callers:
        await caller.close()


@pytest.mark.parametrize("named", ["sess_1", "x" * 4000, "sess_0123456789abcdef01234567", "a b"])
async def test_what_a_pod_says_about_its_session_is_not_trusted(
    counting: Counting, named: str
) -> None:
    pod = await counting.gateway.pod("p1")
    pod.session_header = lambda _: named
    first, second = await counting.open(), await counting.open()
    assert "Avatar-Session" not in (first.response.headers if first.response else {})
    await counting.leases.report()
    assert counting.leases.overview.tenants["acme"].sessions == 2
    await counting.refusal()
    for caller in (first, second):
        await caller.close()


async def test_what_a_session_uses_is_measured(
    make_gateway: Callable[..., Any], tenant: list[Tenant | None]
) -> None:
    now = asyncio.get_running_loop().time
    state = MemoryState(time.time)
    meter = Meter(state, UsageLog(""), "g1", lambda _: 4, now, time.time)
    leases = Leases(state, "g1", now)
    async with make_gateway(leases=leases, meter=meter) as gateway:
        counting = Counting(gateway, leases)
        pod = await gateway.pod("p1")
        pod.session_header = _name
        first, second = await counting.open(), await counting.open()
        await counting.refusal()
        await first.send(b"x" * 1000)
        assert await first.recv() == b"x" * 1000
        tenant[0] = None
        platform = await counting.open()
        for caller in (first, second, platform):
            await caller.close(1000)
        async with asyncio.timeout(WAIT_S):
            while gateway.sessions.live:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await meter.close()
        hour = int(time.time() // 3600)
        totals = usage.sums(await state.usage(hour - 1, hour + 2))
    found = {
        (account.tenant, account.gpu_class): dict(zip(usage.FIGURES, figures, strict=True))
        for account, figures in totals.items()
    }
    mine = found["acme", "-"]
    assert (mine["sessions"], mine["rejections"]) == (2, 1)
    # Frames have headers of 2 to 14 bytes.
    assert 1000 < mine["bytes_in"] < 1100
    assert 1000 < mine["bytes_out"] < 1100
    assert mine["gpu_ms"] == pytest.approx(mine["session_ms"] / 4, abs=2)
    assert found["-", "-"]["sessions"] == 1


def _name(request: web.Request) -> str:
    """Name the session as a runtime pod does."""
    return request.query.get("resume") or session_ids.new("p1")


@pytest.mark.slow
async def test_a_session_counts_once_while_its_caller_changes_gateways(
    make_gateway: Callable[..., Any], redis_server: RedisServer
) -> None:
    now = asyncio.get_running_loop().time
    async with AsyncExitStack() as stack:
        found = []
        for name in ("g1", "g2"):
            state = RedisState(redis_server.connection())
            stack.push_async_callback(state.close)
            leases = Leases(state, name, now)
            running = asyncio.create_task(leases.run())
            stack.callback(running.cancel)
            gateway = await stack.enter_async_context(make_gateway(leases=leases))
            found.append(Counting(gateway, leases))
        one, two = found
        pod = await one.gateway.pod("p1")
        two.gateway.registry.add_service(SERVICE)
        two.gateway.report_state(pod)

        named: list[str] = []

        def name_session(request: web.Request) -> str:
            named.append(_name(request))
            return named[-1]

        pod.session_header = name_session
        first = await one.open()
        await one.leases.report()
        second = await two.open()
        await one.refusal()
        await first.send("x")
        assert await first.recv() == "x"
        first.transport.abort()
        await one.until_free(1)  # suspended: it counts
        await one.refusal()
        await two.refusal()

        again = await two.open(f"&resume={named[0]}")
        await again.send("y")
        assert await again.recv() == "y"
        await one.refusal()
        # Somebody without the token asks for the session, and gets nothing.
        stranger = await one.open(f"&resume={named[0]}")
        await stranger.close(1000)
        async with asyncio.timeout(WAIT_S):
            while one.gateway.sessions.live:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await one.leases.report()
        await two.leases.report()
        await one.refusal()

        await again.close(1000)
        await two.until_free(1)
        await two.leases.report()
        third = await one.open()
        await two.refusal()
        for caller in (second, third):
            await caller.close()


async def test_the_lease_of_a_session_follows_it_from_a_lost_pod_to_another_one(
    make_gateway: Callable[..., Any], redis_server: RedisServer, until: Callable[..., Any]
) -> None:
    now, connection = asyncio.get_running_loop().time, redis_server.connection()
    leases = Leases(RedisState(connection), "g1", now)
    running = asyncio.create_task(leases.run())

    async def names() -> list[str]:
        async with redis_server.client() as client:
            return list(map(str, await client.zrange("avatar:leases:acme", 0, -1)))

    async def until_named(expected: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while await names() != [expected]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with make_gateway(leases=leases) as gateway:
        counting = Counting(gateway, leases)
        first, second = [await gateway.pod(name) for name in ("p1", "p2")]
        before, after = session_ids.new("p1"), session_ids.new("p2")
        first.session_header, second.session_header = lambda _: before, lambda _: after
        second.imported = (200, {"session": {"id": after}, "ttl_ms": 30_000})
        gateway.report_state(first, free=2)
        async with counting.open("&resumes=1") as caller:
            await until_named(before)
            first.resume_s = 30
            first.snapshot(before, b"{}")
            await until(lambda: b"snapshot_bytes 2.0" in gateway.metrics.render())
            gateway.registry.remove_pod("acme/p1")
            first.lose()
            assert json.loads(await caller.recv())["session_id"] == after
            with pytest.raises(ConnectionClosed) as closed:
                await caller.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        await until_named(after)  # the session has one lease, whatever its pod is
        async with counting.open(f"&resume={after}&resumes=1") as again:
            await again.send("x")
            assert await again.recv() == "x"
            await until_named(after)
            async with counting.open():
                await counting.refusal()
    running.cancel()
    await connection.close()
