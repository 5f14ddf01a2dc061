from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

BEARER = {"Authorization": "Bearer a-key-of-some-length"}
SERVICE = "acme/concierge"


def _open(gateway: Any, wait_ms: int = 5000) -> connect:
    url = f"{gateway.url}?model={SERVICE}&wait_ms={wait_ms}"
    return connect(url, additional_headers=BEARER, compression=None)


async def _queued(caller: Any) -> int:
    event = json.loads(await caller.recv())
    assert event["type"] == "session.queued"
    assert "seq" not in event
    assert event["eta_ms"] is None or event["eta_ms"] >= 0
    return int(event["position"])


def _waiting(gateway: Any) -> int:
    state = gateway.sessions.state("g", gateway.registry.services, 0)
    return int(state["services"].get(SERVICE, {}).get("waiting", 0))


async def test_a_waiting_caller_counts_as_demand_and_gets_the_first_pod(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway) as caller:
        assert await _queued(caller) == 1
        assert _waiting(gateway) == 1
        assert "avatar_gateway_waiting 1.0" in gateway.metrics.render().decode()
        await gateway.pod("p1")
        await caller.send("hello")
        assert await caller.recv() == "hello"
        assert _waiting(gateway) == 0


async def test_the_pod_receives_what_a_waiting_caller_sent(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway) as caller:
        await _queued(caller)
        for word in ("one", "two", "three"):
            await caller.send(word)
        await gateway.pod("p1")
        assert [await caller.recv() for _ in range(3)] == ["one", "two", "three"]


async def test_callers_are_served_in_the_order_of_their_arrival(gateway: Any) -> None:
    pod = await gateway.pod("p1", capacity=1)
    gateway.report_state(pod, sessions=1, free=0)
    async with _open(gateway) as first, _open(gateway) as second:
        assert (await _queued(first), await _queued(second)) == (1, 2)
        with pytest.raises(
            InvalidStatus, match="503"
        ) as rejected:  # a later caller does not overtake
            await _open(gateway, 0)
        error = json.loads(rejected.value.response.body)["error"]
        assert (error["code"], error["message"]) == ("no_capacity", "2 callers wait for a slot")
        gateway.report_state(pod, sessions=0, free=1)
        assert await _queued(second) == 1
        await first.send("mine")
        assert await first.recv() == "mine"


async def test_a_caller_that_waits_too_long_gets_an_error_and_a_close(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway, 50) as caller:
        await _queued(caller)
        error = json.loads(await caller.recv())["error"]
        assert (error["code"], error["limit"]) == ("no_capacity", 50)
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    state = gateway.sessions.state("g", gateway.registry.services, 0)["services"][SERVICE]
    assert (state["waiting"], state["arrivals_total"], state["rejected_total"]) == (0, 1, 1)
    async with _open(gateway) as next_one:
        assert await _queued(next_one) == 1


async def test_a_waiting_caller_gets_the_realtime_subprotocol_if_it_offers_it(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    url = f"{gateway.url}?model={SERVICE}&wait_ms=5000"
    for names, selected in (("other realtime", "realtime"), ("other", None)):
        offered = [Subprotocol(name) for name in names.split()]
        async with connect(url, additional_headers=BEARER, subprotocols=offered) as caller:
            await _queued(caller)
            assert caller.subprotocol == selected


async def test_a_caller_that_disconnects_leaves_the_queue(
    gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway) as first:
        await _queued(first)
        async with _open(gateway) as second:
            assert await _queued(second) == 2
            await first.close()
            assert await _queued(second) == 1
    while _waiting(gateway):
        state = gateway.sessions.state("g", gateway.registry.services, 0)
        await gateway.sessions.wait_for_change(state["sequence"], 1)
    assert [record for record in caplog.records if record.name == "aiohttp.server"] == []


async def test_a_draining_gateway_rejects_waiting_callers(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway) as caller:
        await _queued(caller)
        await gateway.sessions.drain(1)
        assert json.loads(await caller.recv())["error"]["code"] == "draining"


async def test_the_deletion_of_a_service_rejects_its_waiting_callers(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway) as caller:
        await _queued(caller)
        gateway.registry.remove_service(SERVICE)
        assert json.loads(await caller.recv())["error"]["code"] == "model_not_found"
        with pytest.raises(ConnectionClosed, match="4404"):
            await caller.recv()


async def test_a_pod_rejection_of_the_request_itself_ends_the_wait(gateway: Any) -> None:
    gateway.registry.add_service(SERVICE)
    async with _open(gateway) as caller:
        await _queued(caller)
        pod = await gateway.pod("p1", capacity=1)
        pod.rejection = (404, {"code": "avatar_not_found"})
        event = json.loads(await caller.recv())
        assert event["error"]["code"] == "avatar_not_found"
        with pytest.raises(ConnectionClosed, match="4404"):
            await caller.recv()
