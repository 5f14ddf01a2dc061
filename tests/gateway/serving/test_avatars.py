"""`/v1/avatars` at the gateway: a ready pod of the service answers, for who may use the service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from avatar_contracts import labels, packaged_files, tokens

if TYPE_CHECKING:
    from tests.gateway.conftest import Setup

KEY = "a-key-of-some-length"
MODEL = "acme/concierge"
DEADLINE_S = 3.0  # less than the gateway waits for a pod


async def get(
    gateway: Setup, path: str, key: str | None = KEY
) -> tuple[int, str, bytes, dict[str, str]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"http://127.0.0.1:{gateway.port}{path}"
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(address) as answer,
    ):
        return answer.status, answer.content_type, await answer.read(), dict(answer.headers)


async def test_a_pod_answers_with_the_token_of_its_service(gateway: Setup) -> None:
    pod = await gateway.pod("p1", capacity=1)
    pod.avatar_answer = b'{"avatars": []}'
    gateway.report_state(pod, free=0)  # a full pod answers, too
    status, kind, body, headers = await get(gateway, f"/v1/avatars?model={MODEL}")
    assert (status, kind, body) == (200, "application/json", pod.avatar_answer)
    assert headers["X-Content-Type-Options"] == "nosniff"
    (request,) = pod.requests
    expected = ",".join(tokens.session_token(key, MODEL) for key in gateway.keys)
    assert request.headers[labels.SESSION_TOKEN_HEADER] == expected
    assert "Authorization" not in request.headers


async def test_a_picture_comes_from_a_pod(gateway: Setup) -> None:
    pod = await gateway.pod("p1")
    pod.avatar_answer = b"\xff\xd8picture"
    path = f"/v1/avatars/anna/picture.jpg?model={MODEL}&version=1"
    assert (await get(gateway, path))[:3] == (200, "image/jpeg", pod.avatar_answer)
    assert pod.requests[0].raw_path == "/v1/avatars/anna/picture.jpg"


async def test_an_idle_picture_is_passed_on_with_the_query_of_the_pod(gateway: Setup) -> None:
    pod = await gateway.pod("p1")
    pod.avatar_answer = b"\xff\xd8picture"
    path = f"/v1/avatars/anna/idle/12.jpg?model={MODEL}&crop=1,2,70,80&version=0f&x=1"
    status, kind, body, headers = await get(gateway, path)
    assert (status, kind, body) == (200, "image/jpeg", pod.avatar_answer)
    assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert pod.requests[0].raw_path == "/v1/avatars/anna/idle/12.jpg?version=0f&crop=1,2,70,80"
    _, _, _, headers = await get(gateway, f"/v1/avatars/anna/idle/12.jpg?model={MODEL}")
    assert headers["Cache-Control"] == "no-store"
    assert pod.requests[1].raw_path == "/v1/avatars/anna/idle/12.jpg"


async def test_a_pod_learns_who_asks_and_says_when_to_ask_again(gateway: Setup) -> None:
    pod = await gateway.pod("p1")
    pod.avatar_status, pod.avatar_headers = 503, {"Retry-After": "1", "X-Other": "1"}
    status, _, _, headers = await get(gateway, f"/v1/avatars/anna/idle/1.jpg?model={MODEL}")
    assert (status, headers["Retry-After"], "X-Other" in headers) == (503, "1", False)
    code = tokens.caller_code(gateway.keys[0], "127.0.0.1")
    assert pod.requests[0].headers[labels.CALLER_HEADER] == code
    pod.avatar_headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    _, _, _, headers = await get(gateway, f"/v1/avatars/anna/idle/1.jpg?model={MODEL}")
    assert "Retry-After" not in headers


async def test_a_request_ends_at_the_pod_when_its_caller_leaves(gateway: Setup) -> None:
    pod = await gateway.pod("p1")
    pod.may_answer = asyncio.Event()
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = f"GET /v1/avatars/anna/idle/1.jpg?model={MODEL} HTTP/1.1\r\nHost: gateway\r\n"
    writer.write(f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode())
    async with asyncio.timeout(DEADLINE_S):
        while not pod.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        writer.close()
        while pod.requests[0].transport is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert len(pod.requests) == 1  # it asks no other pod, and not again
    pod.may_answer.set()


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        (f"/v1/avatars?model={MODEL}", None, 401),
        (f"/v1/avatars?model={MODEL}", "another-key-of-some-length", 401),
        ("/v1/avatars?model=acme/other", KEY, 404),
        ("/v1/avatars", KEY, 404),
        (f"/v1/avatars?model={MODEL}&key={KEY}", KEY, 400),
        (f"/v1/avatars/..%2F..%2Fhealthz/picture.jpg?model={MODEL}", KEY, 400),
        (f"/v1/avatars/a%3Fb/picture.jpg?model={MODEL}", KEY, 400),
        (f"/v1/avatars/anna/idle/1.jpg?model={MODEL}", None, 401),
        (f"/v1/avatars/..%2Fx/idle/1.jpg?model={MODEL}", KEY, 400),
        (f"/v1/avatars/anna/idle/1%2F2.jpg?model={MODEL}", KEY, 404),
        (f"/v1/avatars/anna/idle/1234567.jpg?model={MODEL}", KEY, 404),
    ],
)
async def test_a_request_is_refused_before_a_pod_sees_it(
    gateway: Setup, path: str, key: str | None, status: int
) -> None:
    pod = await gateway.pod("p1")
    assert (await get(gateway, path, key))[0] == status
    assert pod.requests == []


async def test_a_service_without_a_ready_pod_answers_with_503(gateway: Setup) -> None:
    gateway.registry.add_service(MODEL)
    status, _, body, headers = await get(gateway, f"/v1/avatars?model={MODEL}")
    assert (status, b"not_ready" in body, "Retry-After" in headers) == (503, True, True)


async def test_an_answer_without_end_is_not_passed_on(gateway: Setup) -> None:
    pod = await gateway.pod("p1")
    pod.avatar_answer = bytes(3 << 20)
    assert (await get(gateway, f"/v1/avatars?model={MODEL}"))[0] == 503


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/javascript"])
async def test_no_page_of_a_pod_has_the_origin_of_the_gateway(gateway: Setup, kind: str) -> None:
    pod = await gateway.pod("p1")
    pod.avatar_type, pod.avatar_answer = kind, b"<script>alert(1)</script>"
    status, shown, body, _ = await get(gateway, f"/v1/avatars?model={MODEL}")
    assert (status, shown, b"script" in body) == (503, "application/json", False)


@pytest.mark.parametrize("name", sorted(packaged_files.page_files()))
async def test_each_file_of_the_page_is_served(gateway: Setup, name: str) -> None:
    file = packaged_files.page_files()[name]
    status, kind, body, headers = await get(gateway, f"/page/{name}", key=None)
    assert (status, kind, body) == (200, file.media_type, file.content)
    assert headers.items() >= packaged_files.page_headers().items()


async def test_no_other_file_is_served(gateway: Setup) -> None:
    for name in ("client/package.json", "client/LICENSE", "../gpu_profiles.json", "", "client"):
        assert (await get(gateway, f"/page/{name}", key=None))[0] == 404
    assert (await get(gateway, "/", key=None))[2] == packaged_files.page_files()[
        "index.html"
    ].content
