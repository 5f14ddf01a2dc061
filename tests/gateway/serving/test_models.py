"""`/v1/models`: a caller sees the services that it may use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from openai import AsyncOpenAI, AuthenticationError, NotFoundError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

if TYPE_CHECKING:
    from tests.gateway.conftest import Setup

KEY = "a-key-of-some-length"


def client(gateway: Setup, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, base_url=f"http://127.0.0.1:{gateway.port}/v1", max_retries=0)


async def names(gateway: Setup, key: str = KEY) -> list[str]:
    async with client(gateway, key) as openai:
        return [model.id async for model in openai.models.list()]


async def secret(gateway: Setup, model: str) -> str:
    async with client(gateway) as openai:
        made = await openai.realtime.client_secrets.create(
            session={"type": "realtime", "model": model}
        )
        return made.value


async def test_an_api_key_sees_all_services(gateway: Setup) -> None:
    assert await names(gateway) == []
    for name in ("globex/desk", "acme/concierge"):
        gateway.registry.add_service(name)
    assert await names(gateway) == ["acme/concierge", "globex/desk"]
    async with client(gateway) as openai:
        model = await openai.models.retrieve("acme/concierge")
        assert (model.id, model.object, model.owned_by) == ("acme/concierge", "model", "acme")
        with pytest.raises(NotFoundError) as caught:
            await openai.models.retrieve("acme/other")
        assert caught.value.code == "model_not_found"


async def test_a_client_secret_sees_its_service_only(gateway: Setup) -> None:
    for name in ("globex/desk", "acme/concierge"):
        gateway.registry.add_service(name)
    key = await secret(gateway, "acme/concierge")
    assert await names(gateway, key) == ["acme/concierge"]
    async with client(gateway, key) as openai:
        with pytest.raises(NotFoundError):
            await openai.models.retrieve("globex/desk")
    gone = await secret(gateway, "acme/gone")
    assert await names(gateway, gone) == []


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/acme/concierge"])
async def test_others_see_nothing(gateway: Setup, path: str) -> None:
    gateway.registry.add_service("acme/concierge")
    with pytest.raises(AuthenticationError):
        await names(gateway, "a-wrong-key-of-some-length")
    async with aiohttp.ClientSession() as http:
        address = f"http://127.0.0.1:{gateway.port}{path}"
        async with http.get(address) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        async with http.get(f"{address}?api-key={KEY}") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (
                400,
                "key_in_url",
            )


@pytest.mark.parametrize("path", ["/v1/other", "/v1/realtime/", "/voice-live"])
async def test_an_unknown_path_is_404_for_a_websocket(gateway: Setup, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await connect(f"ws://127.0.0.1:{gateway.port}{path}")
    response = caught.value.response
    assert response.status_code == 404
    assert json.loads(response.body or b"")["error"]["code"] == "not_found"


async def test_the_path_and_the_query_of_azure_reach_the_pod(gateway: Setup) -> None:
    pod: Any = await gateway.pod("p1")
    url = f"ws://127.0.0.1:{gateway.port}/voice-live/realtime"
    query = "?api-version=2025-10-01&model=acme/concierge&video=none"
    async with connect(url + query, additional_headers={"api-key": KEY}) as caller:
        await caller.send("hello")
        assert await caller.recv() == "hello"
    (request,) = pod.requests
    assert request.path == "/voice-live/realtime"
    assert request.query["video"] == "none"
    with pytest.raises(InvalidStatus) as caught:
        await connect(url + query)
    assert caught.value.response.status_code == 401
