"""Tests of the reports of gateways, over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from aiohttp import web

from avatar_operator.core.autoscaling import capacity
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.resources.tenant_report import TenantReport
from avatar_operator.streams.endpoint import Endpoint
from avatar_operator.streams.gateways import GatewayStates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

KEY = ServiceKey("acme", "concierge")


class Gateway:
    """The admin port of a gateway that sends the reports of the test."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.tokens: set[str] = set()
        self.endpoint = Endpoint("gw", "", "")

    def report(self, waiting: int, arrived: int) -> None:
        demand = {"sessions": 0, "waiting": waiting, "arrivals_total": arrived}
        self.put({"pod": "gw", "services": {str(KEY): demand}})

    def put(self, document: Any) -> None:
        self.lines.put_nowait(json.dumps(document).encode() + b"\n")

    async def state(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers["Authorization"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await self.lines.get()) is not None:
            await response.write(line)
        return response


class Reports:
    """The gateway states under test, and the services whose demand changed."""

    def __init__(self) -> None:
        self.changed: asyncio.Queue[ServiceKey] = asyncio.Queue()
        self.tenants_changed = asyncio.Event()
        self.gateways = GatewayStates(self.changed.put_nowait, self.tenants_changed.set)

    async def next_change(self) -> ServiceKey:
        async with asyncio.timeout(5):
            return await self.changed.get()


@pytest_asyncio.fixture
async def reports() -> AsyncIterator[Reports]:
    made = Reports()
    yield made
    await made.gateways.close()


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    application = web.Application()
    application.router.add_get("/control/v1/state", made.state)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    made.endpoint = Endpoint("gw", f"{host}:{port}", "secret")
    yield made
    made.lines.put_nowait(None)
    await runner.cleanup()


async def test_waiting_callers_change_the_demand_of_their_service(
    reports: Reports, gateway: Gateway
) -> None:
    reports.gateways.follow("u", gateway.endpoint)
    gateway.report(waiting=0, arrived=40)
    assert await reports.next_change() == KEY
    gateway.report(waiting=2, arrived=43)
    assert await reports.next_change() == KEY
    assert reports.gateways.demand(KEY) == Demand(waiting=2, arrived=3, gateways=1, silent=0)
    assert gateway.tokens == {"Bearer secret"}


async def test_a_repeated_report_is_no_change(reports: Reports, gateway: Gateway) -> None:
    reports.gateways.follow("u", gateway.endpoint)
    gateway.report(waiting=0, arrived=40)
    gateway.report(waiting=0, arrived=40)
    gateway.report(waiting=1, arrived=41)
    assert [await reports.next_change(), await reports.next_change()] == [KEY, KEY]
    assert reports.changed.empty()


async def test_reports_of_tenants_are_kept_for_each_gateway(
    reports: Reports, gateway: Gateway
) -> None:
    reports.gateways.follow("u", gateway.endpoint)
    acme = {"sessions": 3, "waiting": 1, "seconds_this_month": 61, "keys": {"valid": 2}}
    broken = {"sessions": -1}
    gateway.put({"services": {}, "tenants": {"acme": acme, "b": broken, "c": 7}})
    async with asyncio.timeout(5):
        await reports.tenants_changed.wait()
    assert reports.gateways.tenant("acme") == (TenantReport(3, 1, 61, valid_keys=2),)
    assert reports.gateways.tenant("b") == reports.gateways.tenant("c") == ()
    assert reports.gateways.know_each_other()
    reports.tenants_changed.clear()
    gateway.put({"services": {}, "tenants": {}, "shared_state": "unavailable"})
    async with asyncio.timeout(5):
        await reports.tenants_changed.wait()
    assert not reports.gateways.know_each_other()


async def test_callers_of_a_deleted_gateway_no_longer_count(
    reports: Reports, gateway: Gateway
) -> None:
    reports.gateways.follow("u", gateway.endpoint)
    gateway.report(waiting=2, arrived=2)
    await reports.next_change()
    reports.gateways.unfollow("u")
    assert await reports.next_change() == KEY
    assert reports.gateways.demand(KEY) == Demand()


async def test_a_gateway_without_recent_reports_becomes_stale(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports.gateways.follow("u", Endpoint("gw", "127.0.0.1:1", "secret"))
    assert reports.gateways.stale() == frozenset()
    loop = asyncio.get_running_loop()
    later = loop.time() + capacity.STALE_S + 0.1
    monkeypatch.setattr(loop, "time", lambda: later)
    assert reports.gateways.stale() == {"u"}
    assert reports.gateways.demand(KEY) == Demand(gateways=1, silent=1)
