"""Tests of what is heard of gateways, over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from aiohttp import web

from avatar_operator.core.autoscaling import capacity
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.streams.client import Endpoint
from avatar_operator.streams.gateways import Gateways

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

KEY = ServiceKey("acme", "concierge")


class Gateway:
    """The admin port of a gateway that says what the test tells it to."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.tokens: set[str] = set()
        self.endpoint = Endpoint("gw", "", "")

    def say(self, waiting: int, arrived: int) -> None:
        told = {"sessions": 0, "waiting": waiting, "arrivals_total": arrived}
        self.put({"pod": "gw", "services": {str(KEY): told}})

    def put(self, document: Any) -> None:
        self.lines.put_nowait(json.dumps(document).encode() + b"\n")

    async def state(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers["Authorization"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await self.lines.get()) is not None:
            await response.write(line)
        return response


class Heard:
    """The gateways under test, and whom they woke."""

    def __init__(self) -> None:
        self.woken: asyncio.Queue[ServiceKey] = asyncio.Queue()
        self.gateways = Gateways(self.woken.put_nowait)

    async def wake(self) -> ServiceKey:
        async with asyncio.timeout(5):
            return await self.woken.get()


@pytest_asyncio.fixture
async def heard() -> AsyncIterator[Heard]:
    made = Heard()
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


async def test_callers_who_wait_wake_their_service(heard: Heard, gateway: Gateway) -> None:
    heard.gateways.follow("u", gateway.endpoint)
    gateway.say(waiting=0, arrived=40)
    assert await heard.wake() == KEY
    gateway.say(waiting=2, arrived=43)
    assert await heard.wake() == KEY
    assert heard.gateways.demand(KEY) == Demand(waiting=2, arrived=3, gateways=1, silent=0)
    assert gateway.tokens == {"Bearer secret"}


async def test_a_line_that_says_nothing_new_wakes_nobody(heard: Heard, gateway: Gateway) -> None:
    heard.gateways.follow("u", gateway.endpoint)
    gateway.say(waiting=0, arrived=40)
    gateway.say(waiting=0, arrived=40)
    gateway.say(waiting=1, arrived=41)
    assert [await heard.wake(), await heard.wake()] == [KEY, KEY]
    assert heard.woken.empty()


async def test_who_waits_at_a_gateway_that_went_waits_no_more(
    heard: Heard, gateway: Gateway
) -> None:
    heard.gateways.follow("u", gateway.endpoint)
    gateway.say(waiting=2, arrived=2)
    await heard.wake()
    heard.gateways.unfollow("u")
    assert await heard.wake() == KEY
    assert heard.gateways.demand(KEY) == Demand()


async def test_a_gateway_that_is_not_heard_of_becomes_silent(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard.gateways.follow("u", Endpoint("gw", "127.0.0.1:1", "secret"))
    assert heard.gateways.silent() == frozenset()
    loop = asyncio.get_running_loop()
    later = loop.time() + capacity.STALE_S + 0.1
    monkeypatch.setattr(loop, "time", lambda: later)
    assert heard.gateways.silent() == {"u"}
    assert heard.gateways.demand(KEY) == Demand(gateways=1, silent=1)
