from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import labels, tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = "a-key-of-some-length"
BEARER = {"Authorization": f"Bearer {KEY}"}
MODEL = "model=acme/concierge"


def _open(gateway: Any, query: str = MODEL, **options: Any) -> connect:
    options = {"additional_headers": BEARER, "compression": None, "max_size": 2**25} | options
    return connect(f"{gateway.url}?{query}", **options)


async def _rejection(gateway: Any, query: str = MODEL, **options: Any) -> tuple[int, Any, Any]:
    with pytest.raises(InvalidStatus) as refused:
        await _open(gateway, query, **options)
    response = refused.value.response
    return response.status_code, json.loads(response.body)["error"], response.headers


async def _status(gateway: Any, path: str) -> int:
    url = f"http://127.0.0.1:{gateway.port}{path}"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status


async def test_messages_are_forwarded_unchanged_in_both_directions(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway, f"{MODEL}&avatar=anna&wait_ms=10") as caller:
        messages: list[str | bytes] = ['{"type":"x",  "é":1}', b"\xa7\x01\xff", "", "x" * 3_000_000]
        for message in messages:
            await caller.send(message)
            assert await caller.recv() == message
    (request,) = pod.requests
    assert dict(request.query) == {"model": "acme/concierge", "avatar": "anna"}
    assert "Authorization" not in request.headers


async def test_the_beta_header_reaches_the_pod(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    headers = {**BEARER, "OpenAI-Beta": "realtime=v1"}
    async with _open(gateway, additional_headers=headers):
        assert pod.requests[0].headers["OpenAI-Beta"] == "realtime=v1"


async def test_the_pod_gets_the_session_token_of_its_service_and_no_key(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    forged = {**BEARER, labels.SESSION_TOKEN_HEADER: "forged", "X-Other": "x"}
    async with _open(gateway, additional_headers=forged):
        (request,) = pod.requests
    key = gateway.keys[0]
    sent = request.headers.getall(labels.SESSION_TOKEN_HEADER)
    assert sent == [tokens.session_token(key, "acme/concierge")]
    assert "X-Other" not in request.headers
    assert not {key, KEY} & set(request.headers.values())


async def test_a_pod_gets_a_token_for_each_key_of_a_rotation(gateway: Any) -> None:
    """The pod may not have the new tokens yet, or the gateway may not have the new key yet."""
    pod = await gateway.pod("p1")
    gateway.keys[:] = ["the-new-gateway-key", "the-old-gateway-key"]
    async with _open(gateway):
        (request,) = pod.requests
    sent = request.headers[labels.SESSION_TOKEN_HEADER].split(",")
    assert sent == [tokens.session_token(key, "acme/concierge") for key in gateway.keys]


async def test_a_pod_that_refuses_the_token_is_like_one_without_room(gateway: Any) -> None:
    """The caller's key was right: its client must not be told that it was wrong."""
    first, second = await gateway.pod("p1"), await gateway.pod("p2", capacity=4)
    first.rejection = second.rejection = (401, {"code": "unauthenticated"})
    status, error, _ = await _rejection(gateway)
    assert (status, error["code"]) == (503, "no_capacity")
    assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param({"additional_headers": BEARER}, id="bearer"),
        pytest.param({"additional_headers": {"api-key": KEY}}, id="api-key"),
        pytest.param(
            {
                "additional_headers": {},
                "subprotocols": ["realtime", f"openai-insecure-api-key.{KEY}"],
            },
            id="subprotocol",
        ),
    ],
)
async def test_the_key_is_accepted_in_each_place(gateway: Any, credential: dict[str, Any]) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway, **credential) as caller:
        await caller.send("hello")
        assert await caller.recv() == "hello"
        assert caller.subprotocol == ("realtime" if "subprotocols" in credential else None)
    assert KEY not in str(pod.requests[0].headers)


async def test_a_client_secret_permits_a_session(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    body = {"expires_after": {"seconds": 60}, "session": {"model": "acme/concierge", "voice": "v"}}
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        http.post("/v1/realtime/client_secrets", json=body, headers=BEARER) as response,
    ):
        secret = await response.json()
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store")
    assert secret["session"]["voice"] == "v"
    assert secret["session"]["type"] == "realtime"
    assert secret["expires_at"] > 1_700_000_000
    protocols = ["realtime", f"openai-insecure-api-key.{secret['value']}"]
    async with _open(gateway, additional_headers={}, subprotocols=protocols) as caller:
        assert caller.subprotocol == "realtime"
    assert secret["value"] not in str(pod.requests[0].headers)
    # The secret permits only its service, and cannot create further secrets.
    status, error, _ = await _rejection(
        gateway, "model=acme/other", additional_headers={}, subprotocols=protocols
    )
    assert (status, error["code"]) == (401, "unauthenticated")
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        http.post(
            "/v1/realtime/client_secrets",
            headers={"Authorization": f"Bearer {secret['value']}"},
        ) as response,
    ):
        assert response.status == 401


@pytest.mark.parametrize(
    "body",
    [
        *("{", "[1]", '{"expires_after": 1}', "x" * 70_000, "[" * 60_000),
        *('{"session": {"x": NaN}}', '{"session": {"x": 1e999}}'),
    ],
)
async def test_a_wrong_request_for_a_secret_is_rejected(gateway: Any, body: str) -> None:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        http.post("/v1/realtime/client_secrets", data=body, headers=BEARER) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_query"


async def test_a_body_with_a_wrong_encoding_is_rejected(gateway: Any) -> None:
    headers = {**BEARER, "Content-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        http.post("/v1/realtime/client_secrets", data=b"{}", headers=headers) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_query"


async def test_each_rejection_has_its_status_and_code(gateway: Any) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    status, error, headers = await _rejection(gateway, additional_headers=wrong)
    assert (status, error["code"]) == (401, "unauthenticated")
    assert headers["WWW-Authenticate"] == "Bearer"
    status, error, _ = await _rejection(gateway, additional_headers={})
    assert (status, error["code"]) == (401, "unauthenticated")
    status, error, _ = await _rejection(gateway)
    assert (status, error["code"]) == (404, "model_not_found")
    status, error, _ = await _rejection(gateway, "avatar=anna")
    assert (status, error["code"], error["param"]) == (400, "invalid_query", "model")
    status, error, _ = await _rejection(gateway, f"{MODEL}&api_key={KEY}")
    assert (status, error["code"], error["param"]) == (400, "key_in_url", "api_key")
    status, error, _ = await _rejection(gateway, f"{MODEL}&wait_ms=x")
    assert (error["param"], error["value"], error["limit"]) == ("wait_ms", "x", [0, 600_000])


async def test_a_shortage_is_503_with_retry_after(gateway: Any) -> None:
    gateway.registry.add_service("acme/concierge")
    status, error, headers = await _rejection(gateway)
    assert (status, error["code"], headers["Retry-After"]) == (503, "not_ready", "5")
    pod = await gateway.pod("p1", capacity=1)
    gateway.report_state(pod, free=0, sessions=1)
    assert (await _rejection(gateway))[1]["code"] == "no_capacity"
    gateway.report_state(pod, draining=True)
    assert (await _rejection(gateway))[1]["code"] == "draining"
    gateway.synced = False
    assert (await _rejection(gateway))[1]["code"] == "not_ready"
    rendered = gateway.metrics.render().decode()
    assert 'avatar_gateway_rejections_total{reason="no_capacity"} 1.0' in rendered
    assert 'avatar_gateway_rejections_total{reason="not_ready"} 2.0' in rendered


async def test_a_plain_http_request_gets_426(gateway: Any) -> None:
    url = f"http://127.0.0.1:{gateway.port}/v1/realtime?{MODEL}"
    async with aiohttp.ClientSession() as http, http.get(url, headers=BEARER) as response:
        assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
        assert (await response.json())["error"]["code"] == "upgrade_required"


@pytest.mark.parametrize(
    ("query", "options", "code", "close"),
    [
        (MODEL, {"additional_headers": {}}, "unauthenticated", 4401),
        (MODEL, {}, "model_not_found", 4404),
        (f"{MODEL}&wait_ms=x", {}, "invalid_query", 1008),
        (f"{MODEL}&token=x", {}, "key_in_url", 1008),
    ],
)
async def test_a_browser_gets_an_event_and_a_close_code(
    gateway: Any, query: str, options: dict[str, Any], code: str, close: int
) -> None:
    async with _open(gateway, f"{query}&refuse=close", **options) as caller:
        event = json.loads(await caller.recv())
        assert (event["type"], event["error"]["code"]) == ("error", code)
        assert "seq" not in event
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (close, code)


async def test_a_burst_fills_the_pods_and_the_rest_is_rejected(gateway: Any) -> None:
    first, second = await gateway.pod("p1", 2), await gateway.pod("p2", 3)
    opened = await asyncio.gather(
        *(_open(gateway).__aenter__() for _ in range(7)), return_exceptions=True
    )
    refused = [item for item in opened if isinstance(item, InvalidStatus)]
    callers = [item for item in opened if not isinstance(item, BaseException)]
    assert (len(callers), len(refused)) == (5, 2)
    assert (len(first.sockets), len(second.sockets)) == (2, 3)
    assert {error.response.status_code for error in refused} == {503}
    for caller in callers:
        await caller.close()


async def test_the_next_pod_is_tried_after_a_pod_rejects(gateway: Any) -> None:
    full, free = await gateway.pod("p1"), await gateway.pod("p2")
    gateway.report_state(full, sessions=4, free=1)
    full.rejection = (503, {"code": "no_capacity"})
    async with _open(gateway):
        assert (len(full.requests), len(free.sockets)) == (1, 1)


async def test_the_next_pod_is_tried_if_a_pod_is_unreachable(gateway: Any) -> None:
    gone, there = await gateway.pod("p1"), await gateway.pod("p2")
    gone.port = 1
    gateway.report_state(gone, sessions=4, free=1)
    async with _open(gateway):
        assert len(there.sockets) == 1


async def test_the_caller_gets_no_capacity_if_every_pod_rejects(gateway: Any) -> None:
    for name in ("p1", "p2"):
        (await gateway.pod(name)).rejection = (503, {"code": "draining"})
    status, error, _ = await _rejection(gateway)
    assert (status, error["code"]) == (503, "no_capacity")


async def test_the_caller_gets_a_pod_rejection_of_the_request_itself(gateway: Any) -> None:
    first, second = await gateway.pod("p1"), await gateway.pod("p2")
    error = {"type": "invalid_request_error", "code": "avatar_not_found", "param": "avatar"}
    first.rejection = second.rejection = (404, error)
    assert (await _rejection(gateway))[:2] == (404, error)
    assert len(first.requests) + len(second.requests) == 1
    async with _open(gateway, f"{MODEL}&refuse=close") as caller:
        assert json.loads(await caller.recv())["error"] == error
        with pytest.raises(ConnectionClosed, match="4404"):
            await caller.recv()


@pytest.mark.parametrize(
    "rejection", [(404, {"code": "model_not_found"}), (401, {}), (500, {}), (200, {})]
)
async def test_the_next_pod_is_tried_after_an_answer_that_depends_on_the_pod(
    gateway: Any, rejection: tuple[int, dict[str, Any]]
) -> None:
    odd, fine = await gateway.pod("p1"), await gateway.pod("p2")
    odd.rejection = rejection
    gateway.report_state(odd, sessions=4, free=1)
    async with _open(gateway):
        assert len(fine.sockets) == 1


async def test_the_probes_follow_the_watch_and_the_drain(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    pod = await gateway.pod("p1")

    gateway.synced = False
    assert await _status(gateway, "/readyz") == 503
    gateway.synced = True
    assert await _status(gateway, "/readyz") == 200
    async with _open(gateway) as caller:
        drain = asyncio.create_task(gateway.sessions.drain(60))
        await until(lambda: gateway.sessions.draining)
        assert await _status(gateway, "/readyz") == 503
        assert (await _rejection(gateway))[1]["code"] == "draining"
        await caller.send("still here")
        assert await caller.recv() == "still here"
        assert not drain.done()
    assert await drain == 0
    await until(lambda: not pod.sockets)


async def test_a_drain_that_times_out_ends_sessions_with_1012(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    async with _open(gateway) as caller:
        assert await gateway.sessions.drain(0.01) == 1
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert pod.closed_with == [1012]


async def _request_session(gateway: Any, query: str = MODEL) -> asyncio.StreamWriter:
    """Send an upgrade request without waiting for the response."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = (
        f"GET /v1/realtime?{query} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    )
    writer.write(request.encode())
    await writer.drain()
    return writer


def _placed(gateway: Any) -> int:
    (candidate,) = gateway.registry.candidates("acme/concierge")
    return int(candidate.placed)


@pytest.mark.parametrize(
    ("query", "code"),
    # A caller that waits has no session yet that could wait for it.
    [(MODEL, 1001), (f"{MODEL}&wait_ms=5000", 1000)],
    ids=["at once", "waiting"],
)
async def test_a_caller_that_leaves_while_it_is_placed_frees_the_slot(
    gateway: Any, until: Callable[..., Awaitable[None]], query: str, code: int
) -> None:
    pod = await gateway.pod("p1")
    pod.may_answer = asyncio.Event()
    if query != MODEL:
        gateway.report_state(pod, free=0)
    writer = await _request_session(gateway, query)
    if query != MODEL:
        await until(lambda: gateway.sessions.waiting == 1)
        gateway.report_state(pod)
    # The request has reached the pod, which has not accepted the session yet.
    await until(lambda: len(pod.requests) == 1)
    assert _placed(gateway) == 1
    writer.transport.abort()
    # When this request is answered, the gateway has noticed that the caller is gone.
    assert await _status(gateway, "/healthz") == 200
    assert pod.closed_with == []
    pod.may_answer.set()
    await until(lambda: pod.closed_with == [code], lambda: pod.closed_with)
    assert not pod.sockets
    await until(lambda: (gateway.sessions.live, gateway.sessions.waiting) == (0, 0))
    assert _placed(gateway) == 0


async def test_no_credential_is_logged(gateway: Any, caplog: pytest.LogCaptureFixture) -> None:
    await gateway.pod("p1")
    # As the command line does: aiohttp logs the offered subprotocols otherwise.
    logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)
    caplog.set_level(logging.DEBUG)
    protocols = [f"openai-insecure-api-key.{KEY}"]
    async with _open(gateway, additional_headers={}, subprotocols=protocols):
        pass
    await _rejection(gateway, f"{MODEL}&key={KEY}")
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets")]
    assert ours
    assert not any(KEY in line for line in ours)


async def test_a_pod_that_is_taken_over_serves_the_callers_of_both_services(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    gateway.registry.add_service("acme/second")
    async with _open(gateway) as first:  # placed just before the takeover
        moved = replace(pod.as_pod(), service="acme/second", made_for="acme/concierge")
        gateway.registry.set_pod(moved)
        status, error, _ = await _rejection(gateway)
        assert (status, error["code"]) == (
            503,
            "not_ready",
        )  # the pod no longer belongs to the first service
        async with _open(gateway, "model=acme/second&avatar=anna") as second:
            for caller in (first, second):
                await caller.send("hello")
                assert await caller.recv() == "hello"
    before, after = pod.requests
    # The pod rejects a request for a service other than the one that it was started for.
    assert dict(after.query) == {"model": "acme/concierge", "avatar": "anna"}
    assert after.headers["Avatar-Service"] == "acme/second"
    # It has the tokens of that service, too.
    token = tokens.session_token(gateway.keys[0], "acme/concierge")
    assert after.headers[labels.SESSION_TOKEN_HEADER] == token
    assert "Avatar-Service" not in before.headers
