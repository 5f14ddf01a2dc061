"""`/v1/models`, and the answers for paths that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

pytestmark = pytest.mark.slow


async def test_the_official_client_lists_and_retrieves_the_service(serve: Serve) -> None:
    async with serve() as served:
        client = AsyncOpenAI(api_key="unused", base_url=f"http://{served.sessions}/v1")
        listed = [model async for model in client.models.list()]
        assert [(model.id, model.object, model.owned_by) for model in listed] == [
            ("acme/concierge", "model", "acme")
        ]
        assert await client.models.retrieve("acme/concierge") == listed[0]
        with pytest.raises(NotFoundError, match="this pod serves acme/concierge") as caught:
            await client.models.retrieve("acme/other")
        assert caught.value.code == "model_not_found"
        await client.close()


async def test_a_runtime_without_a_service_has_a_name_too(serve: Serve) -> None:
    async with serve(AVATAR_SERVICE="") as served, httpx.AsyncClient() as http:
        (model,) = (await http.get(f"http://{served.sessions}/v1/models")).json()["data"]
        assert model["id"] == "local/avatar"
        async with served.client(f"?model={model['id']}"):
            pass


async def test_models_need_the_session_token_where_sessions_need_it(serve: Serve) -> None:
    async with serve(AVATAR_SESSION_TOKEN="t0ken") as served, httpx.AsyncClient() as http:
        for path in ("/v1/models", "/v1/models/acme/concierge"):
            url = f"http://{served.sessions}{path}"
            refused = await http.get(url)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                401,
                "unauthenticated",
            )
            allowed = await http.get(url, headers={"Avatar-Session-Token": "t0ken"})
            assert allowed.status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/realtime/", "/v1/other", "/voice-live"])
async def test_an_unknown_path_is_404_for_a_websocket(serve: Serve, path: str) -> None:
    async with serve() as served:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://{served.sessions}{path}")
        response = caught.value.response
        assert response.status_code == 404
        assert response.headers["Content-Type"] == "application/json"
        assert b'"code":"not_found"' in bytes(response.body or b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/other", 404, "not_found"),
        ("GET", "/v1/realtime/", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/realtime", 405, "method_not_allowed"),
        ("GET", "/voice-live/realtime", 426, "upgrade_required"),
        ("GET", "/v1/realtime", 426, "upgrade_required"),
    ],
)
async def test_other_requests_get_the_same_error_object(
    serve: Serve, method: str, path: str, status: int, code: str
) -> None:
    async with serve() as served, httpx.AsyncClient() as http:
        response = await http.request(method, f"http://{served.sessions}{path}")
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
        if status == 405:
            assert response.headers["Allow"]
