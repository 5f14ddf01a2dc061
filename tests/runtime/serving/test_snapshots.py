"""The snapshots of the sessions that a gateway carries, and sessions that go on from them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.runtime.serving import test_resume
from tests.runtime.serving.test_resume import FRAMES, append, speech
from tests.runtime.serving.test_session_moves import post
from websockets.asyncio.client import ClientConnection, connect

from avatar_contracts import labels
from avatar_runtime.serving import snapshots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.runtime.serving.conftest import FakeEngine, Serve, Served

engine = test_resume.engine


class Stream:
    """The snapshots that a gateway reads."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def next(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the line and the document of the next record."""
        async with asyncio.timeout(20):
            while (text := await self._content.readuntil(b"\n")) == b"\n":
                pass  # at least once a second
            line = json.loads(text)
            body = await self._content.readexactly(line["bytes"])
        return line, json.loads(body) if body else None


@asynccontextmanager
async def followed(served: Served, gateway: str = "g1") -> AsyncIterator[Stream]:
    url = f"http://{served.admin}{labels.SNAPSHOTS_PATH}"
    async with (
        aiohttp.ClientSession() as http,
        http.get(url, params={"gateway": gateway}) as response,
    ):
        assert response.status == 200
        yield Stream(response.content)


@asynccontextmanager
async def carried(served: Served, connection: str) -> AsyncIterator[ClientConnection]:
    headers = {labels.CONNECTION_HEADER: connection}
    address = f"ws://{served.sessions}/v1/realtime"
    # What nobody reads here must not delay the end.
    async with connect(address, additional_headers=headers, close_timeout=0.2) as socket:
        created = json.loads(await socket.recv())
        assert created["type"] == "session.created"
        yield socket


async def test_a_gateway_gets_the_sessions_that_it_carries(
    serve: Serve, engine: FakeEngine
) -> None:
    async with (
        serve(engine=engine, AVATAR_CAPACITY="3") as served,
        carried(served, "g2/1"),
        carried(served, "g1x/1"),
        carried(served, "g1/7") as socket,
        followed(served) as stream,
    ):
        line, document = await stream.next()
        assert document is not None
        assert line["connection"] == "g1/7"
        assert line["resume_s"] == 30
        assert line["session"] == document["id"]
        # Something changes: another one follows.
        await socket.send(append(speech(FRAMES, 0)))
        while document is not None and document["state"]["received"]["messages"] == 0:
            line, document = await stream.next()
            assert line["connection"] == "g1/7"
        assert served.runtime.slots.sessions == 3  # a snapshot stops nothing


async def test_a_session_with_a_document_that_is_too_large_has_no_snapshot(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve(engine=engine) as served,
        followed(served) as stream,
        carried(served, "g1/1") as socket,
    ):
        _, document = await stream.next()
        assert document is not None
        monkeypatch.setattr(snapshots, "MAX_SNAPSHOT_BYTES", 10)
        await socket.send(append(speech(FRAMES, 0)))
        while document is not None:
            line, document = await stream.next()
        assert line["bytes"] == 0


async def test_a_gateway_that_is_gone_is_noticed(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[None] = []
    records = snapshots.SnapshotStream.records

    async def counted(stream: snapshots.SnapshotStream) -> AsyncIterator[bytes]:
        running.append(None)
        try:
            async for record in records(stream):
                yield record
        finally:
            running.pop()

    monkeypatch.setattr(snapshots.SnapshotStream, "records", counted)
    async with serve(engine=engine) as served:
        async with followed(served) as stream:
            async with asyncio.timeout(20):
                assert await stream._content.readuntil(b"\n") == b"\n"
            assert len(running) == 1
        await served.eventually(lambda: not running, "ended")


def test_a_session_at_rest_has_one_snapshot() -> None:
    watched = snapshots._Watched()
    assert watched.is_due((1, 1, 0), 100.0)
    watched.take((1, 1, 0), 1000, 100.0)
    assert not watched.is_due((1, 1, 0), 10_000.0)


@pytest.mark.parametrize(
    ("progress", "size", "due_after_s"),
    [
        ((2, 2, 0), 1000, snapshots.EVENT_S),
        ((1, 2, 0), 1000, snapshots.PERIOD_S),
        ((1, 1, 1), 1000, snapshots.PERIOD_S),
        ((2, 2, 0), 3_000_000, 3.0),
        ((1, 2, 1), 3_000_000, 3.0),
    ],
    ids=["event", "media", "input", "large event", "large"],
)
def test_a_change_has_a_snapshot_in_time(
    progress: tuple[int, int, int], size: int, due_after_s: float
) -> None:
    watched = snapshots._Watched()
    watched.take((1, 1, 0), size, 100.0)
    assert not watched.is_due(progress, 100.0 + due_after_s - 0.01)
    assert watched.is_due(progress, 100.0 + due_after_s + 0.01)


@pytest.mark.parametrize(
    ("token", "status"), [("session", 200), ("state", 401), ("wrong", 401), ("", 401)]
)
async def test_only_who_opens_sessions_reads_their_snapshots(
    serve: Serve, engine: FakeEngine, token: str, status: int
) -> None:
    tokens = {
        "AVATAR_SESSION_TOKEN": "session",
        "AVATAR_STATE_TOKEN": "state",
        "AVATAR_ADMIN_TOKEN": "control",
    }
    headers = {"Authorization": f"Bearer {token}"}
    async with serve(engine=engine, **tokens) as served:
        url = f"http://{served.admin}{labels.SNAPSHOTS_PATH}?gateway=g1"
        async with aiohttp.ClientSession(headers=headers) as http, http.get(url) as response:
            assert response.status == status


@pytest.mark.parametrize("age", ["", "-1", "1.5", "1000000", "x"])
async def test_a_wrong_age_is_refused_with_its_name(
    serve: Serve, engine: FakeEngine, age: str
) -> None:
    async with serve(engine=engine) as served:
        status, answer = await post(served, f"?recovered_ms={age}", b"{}")
        assert (status, answer["error"]["param"]) == (400, "recovered_ms")
