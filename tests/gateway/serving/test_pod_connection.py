"""The handshake with a pod: what it gets, and what its answers may do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from avatar_gateway import errors
from avatar_gateway.serving import pod_connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Pod:
    """A pod that answers every request with the same bytes."""

    def __init__(self, answer: bytes, *, ends: bool) -> None:
        self.answer = answer
        self.ends = ends
        self.address = ("127.0.0.1", 0)
        self.request = b""
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.request = await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            if self.ends:
                writer.write_eof()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            writer.transport.abort()


@asynccontextmanager
async def _pod(answer: bytes, *, ends: bool = False) -> AsyncIterator[Pod]:
    pod = Pod(answer, ends=ends)
    server = await asyncio.start_server(pod.serve, "127.0.0.1", 0)
    pod.address = server.sockets[0].getsockname()
    async with server, asyncio.timeout(30):
        yield pod


async def test_the_request_has_what_was_given() -> None:
    query = [("model", "acme/concierge"), ("instructions", "say: héllo & more\r\nX: y")]
    async with _pod(SWITCHING) as pod:
        protocol, message = await pod_connection.upgrade(
            pod.address, "/v1/realtime", query, {"Upgrade": "websocket", "X-Token": "a,b"}
        )
        assert message.code == 101
        assert protocol.transport is not None
        protocol.transport.abort()
    assert pod.request.decode().split("\r\n") == [
        "GET /v1/realtime?model=acme%2Fconcierge"
        "&instructions=say%3A%20h%C3%A9llo%20%26%20more%0D%0AX%3A%20y HTTP/1.1",
        f"Host: 127.0.0.1:{pod.address[1]}",
        "Upgrade: websocket",
        "X-Token: a,b",
        "",
        "",
    ]


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\0", "é"], ids=repr)
async def test_a_header_never_becomes_two(value: str) -> None:
    async with _pod(SWITCHING) as pod:
        with pytest.raises(ValueError, match="X-Token"):
            await pod_connection.upgrade(pod.address, "/", [], {"X-Token": value})
    assert pod.request == b""


async def test_a_refusal_has_its_body_and_few_of_its_headers() -> None:
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nRetry-After: 9\r\nSet-Cookie: a=b\r\n"
        b"Content-Type: application/json\r\nContent-Length: 31\r\n\r\n"
        b'{"error": {"code": "too_busy"}}'
    )
    async with _pod(answer) as pod:
        with pytest.raises(errors.PodRejection) as refused:
            await pod_connection.upgrade(pod.address, "/", [], {})
        await pod.closed.wait()
    assert refused.value.status == 503
    assert refused.value.headers == {"Retry-After": "9", "Content-Type": "application/json"}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Switch",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 A\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 A\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    ],
    ids=["nothing", "a part", "no HTTP", "a long header", "many headers"],
)
async def test_an_answer_that_is_no_http_closes_the_connection(answer: bytes) -> None:
    async with _pod(answer, ends=True) as pod:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await pod_connection.upgrade(pod.address, "/", [], {})
        await pod.closed.wait()


async def test_a_pod_that_does_not_answer_is_left_when_the_caller_gives_up() -> None:
    async with _pod(b"") as pod:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pod_connection.upgrade(pod.address, "/", [], {})
        await pod.closed.wait()


async def test_a_large_refusal_is_not_read_to_its_end() -> None:
    size = 2**24
    answer = b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with _pod(answer) as pod:
        with pytest.raises(errors.PodRejection) as refused:
            await pod_connection.upgrade(pod.address, "/", [], {})
        await pod.closed.wait()
    assert len(refused.value.body) <= 64 * 1024
