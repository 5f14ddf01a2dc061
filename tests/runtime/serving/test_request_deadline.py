"""Connections without a request are closed; sessions and probes are not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from avatar_runtime.serving import request_deadline

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

pytestmark = pytest.mark.slow

DEADLINE_S = 20.0
FIRST = b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n"
HALF = b"GET /v1/realtime HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    ("first", "half"),
    [(b"", b""), (b"", HALF), (FIRST, HALF)],
    ids=["nothing", "half a request", "half a second one"],
)
async def test_a_connection_without_a_request_is_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, first: bytes, half: bytes
) -> None:
    monkeypatch.setattr(request_deadline, "REQUEST_S", 0.2)
    async with serve() as served:
        async with served.client() as client:  # it has no deadline after its upgrade
            for address in (served.sessions, served.admin):
                host, _, port = address.rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(first)
                if first:
                    await reader.readuntil(b"}")  # the answer
                writer.write(half)
                async with asyncio.timeout(DEADLINE_S):
                    try:
                        await reader.read()
                    except ConnectionError:  # the connection is aborted
                        pass
                writer.close()
            await client.speak(5)
            assert (await client.until("response.done"))["response"]["status"] == "completed"
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://{served.sessions}/readyz")).status_code == 200


async def test_a_part_of_a_request_does_not_extend_the_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_deadline, "REQUEST_S", 0.2)
    async with serve() as served, asyncio.timeout(DEADLINE_S):
        host, _, port = served.sessions.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        closed = asyncio.create_task(reader.read())
        writer.write(HALF)
        while not closed.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait([closed], timeout=0.05)
        await asyncio.gather(closed, return_exceptions=True)
        writer.close()
