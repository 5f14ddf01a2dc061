from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from avatar_contracts.tokens import gateway_key, gateway_token

MASTER = "a-master-secret-of-the-operator"
HEADERS = {"Authorization": f"Bearer {gateway_token(gateway_key(MASTER))}"}
CALLER = {"Authorization": "Bearer a-key-of-some-length"}


def _http(gateway: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(f"http://127.0.0.1:{gateway.admin_port}")


def _caller(gateway: Any, model: str = "acme/concierge") -> connect:
    return connect(f"{gateway.url}?model={model}", additional_headers=CALLER)


async def test_the_administration_port_requires_the_token(gateway: Any) -> None:
    async with _http(gateway) as http:
        for path in ("/metrics", "/control/v1/state"):
            for headers in ({}, CALLER):
                async with http.get(path, headers=headers) as response:
                    assert response.status == 401


async def test_the_state_counts_sessions_arrivals_and_rejections(gateway: Any) -> None:
    await gateway.pod("p1", capacity=1)
    async with _caller(gateway), _http(gateway) as http:
        with pytest.raises(InvalidStatus, match="503"):
            await _caller(gateway)
        async with http.get("/control/v1/state", headers=HEADERS) as response:
            state = await response.json()
    assert state.keys() == {"pod", "services", "tenants", "shared_state", "sequence"}
    assert (state["pod"], state["tenants"]) == ("gateway-1", {})
    assert state["services"] == {
        "acme/concierge": {
            "sessions": 1,
            "waiting": 0,
            "arrivals_per_s": 0.2,
            "arrivals_total": 2,
            "rejected_total": 1,
        }
    }


@pytest.mark.slow
async def test_a_watch_gets_a_line_for_each_change_and_each_second(gateway: Any) -> None:
    await gateway.pod("p1")
    async with _http(gateway) as http:
        async with http.get("/control/v1/state?watch=1", headers=HEADERS) as response:
            first = json.loads(await response.content.readline())
            async with _caller(gateway):
                second = json.loads(await response.content.readline())
            third = json.loads(await response.content.readline())
            while third["services"]["acme/concierge"]["sessions"]:
                third = json.loads(await response.content.readline())
            idle = json.loads(await response.content.readline())
    assert first["services"] == {}
    assert second["services"]["acme/concierge"]["sessions"] == 1
    assert first["sequence"] < second["sequence"] < third["sequence"] == idle["sequence"]


async def test_a_deleted_service_is_removed_from_the_state(gateway: Any) -> None:
    await gateway.pod("p1")
    async with _caller(gateway):
        gateway.registry.remove_service("acme/concierge")
        assert (
            "acme/concierge"
            in gateway.sessions.state("g", gateway.registry.services, 0)["services"]
        )
    async with _http(gateway) as http:
        while True:
            async with http.get("/control/v1/state", headers=HEADERS) as response:
                if not (await response.json())["services"]:
                    break


async def test_the_metrics_have_their_fixed_names(gateway: Any) -> None:
    await gateway.pod("p1")
    async with _caller(gateway), _http(gateway) as http:
        async with http.get("/metrics", headers=HEADERS) as response:
            assert response.content_type == "text/plain"
            text = await response.text()
    assert "avatar_gateway_sessions 1.0" in text
    assert "avatar_gateway_waiting 0.0" in text
    assert "avatar_gateway_placement_duration_seconds_count 1.0" in text
    assert 'avatar_gateway_rejections_total{reason="unauthenticated"} 0.0' in text
