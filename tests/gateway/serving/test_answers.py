"""Answers are JSON with safe headers, and repeat no part of a malformed request."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from avatar_gateway.serving import bodies

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "a-key-of-some-length"
BEARER = {"Authorization": f"Bearer {KEY}"}
UPGRADE = (
    "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
SESSION = f"GET /v1/realtime?model=acme/concierge HTTP/1.1\r\n{UPGRADE}"

MALFORMED = {
    "a bad version": f"GET /?x={KEY} HTTP/9.9\r\n\r\n",
    "a bad request line": f"GET {KEY}\r\n\r\n",
    "only a key": f"{KEY}\r\n\r\n",
    "a bad method": f"{KEY} {{}} / HTTP/1.1\r\n\r\n",
    "a key as the path": f"GET /{KEY} HTTP/1.1\r\nHost: h\r\n\r\n",
    "a key as the method": f"{KEY} / HTTP/1.1\r\nHost: h\r\n\r\n",
    "a header without a name": f"GET / HTTP/1.1\r\n: {KEY}\r\n\r\n",
    "a header with a control character": f"GET / HTTP/1.1\r\nAuthorization: {KEY}\x00\r\n\r\n",
    "a header with a space": f"GET / HTTP/1.1\r\nX {KEY}: x\r\n\r\n",
    "a header that is too long": f"GET / HTTP/1.1\r\nAuthorization: {KEY * 500}\r\n\r\n",
    "a URL that is too long": f"GET /?x={KEY * 500} HTTP/1.1\r\n\r\n",
    "a bad length": f"POST / HTTP/1.1\r\nContent-Length: {KEY}\r\n\r\n",
    "a bad chunk": f"POST /v1/realtime/client_secrets HTTP/1.1\r\nHost: h\r\napi-key: {KEY}\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n{KEY}\r\n",
    "a bad encoding": f"POST /v1/realtime/client_secrets HTTP/1.1\r\nHost: h\r\napi-key: {KEY}\r\n"
    f"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n{KEY[:5]}",
    "a key in the URL": f"GET /v1/realtime?{KEY} HTTP/1.1\r\n{UPGRADE}\r\n",
    "a bad subprotocol": f"{SESSION}api-key: {KEY}\r\nSec-WebSocket-Protocol: {KEY}\xff\r\n\r\n",
    "a bad forwarded header": f"{SESSION}api-key: {KEY}\r\nOpenAI-Beta: {KEY}\xff\r\n\r\n",
    "a bad credential": f"{SESSION}Authorization: Bearer {KEY}\xff\r\n\r\n",
    "a bad upgrade": f"{SESSION}Sec-WebSocket-Key: {KEY}\xff\r\n\r\n",
    "a bad host": f"GET /none?x={KEY} HTTP/1.1\r\nHost: {KEY}[:\r\n\r\n",
    "a bad absolute URL": f"GET http://[{KEY}/ HTTP/1.1\r\nHost: h\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_no_part_of_a_malformed_request_is_answered_or_logged(
    gateway: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.INFO)
    await gateway.pod("p1")
    for port in (gateway.port, gateway.admin_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(MALFORMED[name].encode("latin-1"))
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = int(re.search(r"Content-Length: (\d+)", head)[1])  # type: ignore[index]
            body = (await reader.readexactly(length)).decode()
        writer.close()
        assert KEY not in head + body
        assert 400 <= int(head.split()[1]) < 500, head
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert "X-Content-Type-Options: nosniff" in head
    texts = [
        logging.Formatter().format(record)
        for record in caplog.records
        if record.name.startswith(("aiohttp", "asyncio", "avatar"))
    ]
    assert not any(KEY in text for text in texts)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/none", 404, "not_found"),
        ("DELETE", "/v1/realtime/client_secrets", 405, "method_not_allowed"),
        ("POST", "/v1/realtime/client_secrets", 413, "message_too_large"),
    ],
)
async def test_errors_are_json(
    gateway: Any, method: str, path: str, status: int, code: str
) -> None:
    data = io.BytesIO(bytes(2_000_000)) if status == 413 else None
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}", headers=BEARER) as http,
        http.request(method, path, data=data) as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["error"]["code"] == code
        assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("port", ["port", "admin_port"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/none", "/v1/realtime", "/metrics"])
async def test_every_answer_has_the_security_headers(gateway: Any, port: str, path: str) -> None:
    url = f"http://127.0.0.1:{getattr(gateway, port)}{path}"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


async def test_a_failure_is_logged_without_the_text_of_its_error(
    gateway: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(f"cannot use {KEY}")

    monkeypatch.setattr("avatar_gateway.core.requests.parse", fail)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"{SESSION}api-key: {KEY}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"internal_error" in answer
    assert "request failed error=RuntimeError" in caplog.text
    assert "in fail" in caplog.text
    assert KEY not in caplog.text + answer.decode()


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_json_does_not_have_are_rejected(gateway: Any, text: str) -> None:
    body = f'{{"session": {{"model": "acme/concierge", "speed": {text}}}}}'
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        http.post("/v1/realtime/client_secrets", data=body, headers=BEARER) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "invalid_query"


async def test_a_client_secret_needs_a_model(gateway: Any) -> None:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
        http.post("/v1/realtime/client_secrets", json={}, headers=BEARER) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "session.model"


async def test_a_body_has_a_deadline(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_BODY_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"POST /v1/realtime/client_secrets HTTP/1.1\r\nHost: h\r\napi-key: {KEY}\r\n"
        "Content-Length: 100\r\n\r\n{".encode()
    )
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in await reader.readuntil(b"}")
    writer.close()


async def test_keys_are_replaced_without_a_restart(
    start_gateway: Callable[..., Any], tmp_path: Any
) -> None:
    current, another = tmp_path / "api-key", tmp_path / "api-key-previous"
    current.write_text(KEY)
    (tmp_path / "notes").write_text("not-a-key-of-callers")
    new = "another-key-of-some-length"
    options = {"AVATAR_API_KEY": "", "AVATAR_API_KEY_FOLDER": str(tmp_path)}
    async with start_gateway(**options) as process, aiohttp.ClientSession() as http:
        base = f"http://127.0.0.1:{process.ports[0]}/v1/realtime"

        async def status(credential: str) -> int:
            # Without a service the answer is 404 for a caller that is authenticated.
            headers = {
                **dict(line.split(": ") for line in UPGRADE.splitlines()),
                "api-key": credential,
            }
            async with http.get(f"{base}?model=acme/x", headers=headers) as answer:
                return answer.status

        async def secret(key: str) -> str:
            body = {"session": {"model": "acme/x"}}
            async with http.post(
                f"{base}/client_secrets", json=body, headers={"api-key": key}
            ) as answer:
                return str((await answer.json())["value"])

        old_secret = await secret(KEY)
        refused = 401
        assert refused not in (await status(KEY), await status(old_secret))
        assert await status(new) == refused
        assert await status("not-a-key-of-callers") == refused
        another.write_text(KEY)
        current.write_text(f"{new}\n")
        new_secret = await secret(KEY)
        for credential in (KEY, new, old_secret, new_secret):
            assert await status(credential) != refused
        another.unlink()
        assert await status(KEY) == await status(old_secret) == refused
        assert refused not in (await status(new), await status(new_secret))
        current.write_text("short")
        assert await status("short") == refused
