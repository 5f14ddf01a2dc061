"""A pod reports what each of its sessions has used."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import pytest
from tests.runtime.serving.conftest import DEADLINE_S

from avatar_contracts import labels, tokens, usage
from avatar_contracts.documents import MAX_LINE_BYTES
from avatar_contracts.state import StateFault
from avatar_runtime.serving.usage import UsageReports, UsageWatcher, encode

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve, Served

    from avatar_contracts.usage import SessionUsageDocument

KEY = "a-gateway-key-of-some-length"


class FakeSession:
    """A session whose figures a test sets."""

    def __init__(self, session_id: str, account: str = "") -> None:
        self.account = account
        self.usage: SessionUsageDocument = {
            "id": session_id, "frames": 0, "speech_ms": 0, "ended": False,
        }  # fmt: skip

    def speak(self, frames: int) -> None:
        self.usage = {**self.usage, "frames": self.usage["frames"] + frames}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_reader_gets_what_has_changed_and_the_end_once() -> None:
    reports = UsageReports(Clock())
    first, second = FakeSession("a"), FakeSession("b")
    reports.add("a", first)
    watcher = UsageWatcher(reports)
    assert watcher.next_changes() == [first.usage]
    assert watcher.next_changes() == []
    reports.add("b", second)
    first.speak(3)
    assert watcher.next_changes() == [first.usage, second.usage]
    reports.remove("a")
    assert watcher.next_changes() == [{**first.usage, "ended": True}]
    assert watcher.next_changes() == []


def test_a_late_reader_gets_the_sessions_that_ended_a_short_time_ago() -> None:
    clock = Clock()
    reports = UsageReports(clock)
    for name, at in (("old", 0.0), ("new", usage.KEPT_S), ("last", usage.KEPT_S + 1)):
        clock.now = at
        reports.add(name, FakeSession(name))
        reports.remove(name)
    assert [each["id"] for each in UsageWatcher(reports).next_changes()] == ["new", "last"]


def test_ended_sessions_are_bounded_and_a_line_too() -> None:
    reports = UsageReports(Clock())
    for number in range(usage.MAX_KEPT + 10):
        reports.add(str(number), FakeSession(str(number)))
        reports.remove(str(number))
    told: list[str] = []
    watcher = UsageWatcher(reports)
    while changes := watcher.next_changes():
        assert len(changes) <= usage.MAX_SESSIONS
        told += [each["id"] for each in changes]
    assert told == [str(number) for number in range(10, usage.MAX_KEPT + 10)]


def test_the_text_of_a_direct_session_is_told_once_to_each_reader() -> None:
    clock = Clock()
    reports = UsageReports(clock)
    direct, other = FakeSession("a", "text"), FakeSession("b")
    reports.add("a", direct)
    reports.add("b", other)
    early = UsageWatcher(reports)
    introduced: dict[str, object] = {**direct.usage, "account": "text"}
    assert early.next_changes() == [introduced, other.usage]
    direct.speak(2)
    assert early.next_changes() == [direct.usage]
    reports.remove("a")
    assert early.next_changes() == [{**direct.usage, "ended": True}]
    late = UsageWatcher(reports).next_changes()
    assert late == [{**direct.usage, "ended": True, "account": "text"}, other.usage]
    clock.now += usage.KEPT_S + 1
    reports.remove("b")
    assert reports.account("a") == ""


def test_connections_that_have_ended_are_reported_once_to_each_reader() -> None:
    clock = Clock()
    reports = UsageReports(clock)
    early = UsageWatcher(reports)
    with reports.connected("first"):
        clock.now += 1.5
        assert early.next_connections() == []
    with reports.connected(""):  # no gateway has opened it
        clock.now += 1
    with reports.connected("second"):
        clock.now += 2
    first: dict[str, object] = {"account": "first", "connected_ms": 1500}
    second: dict[str, object] = {"account": "second", "connected_ms": 2000}
    assert early.next_connections() == [first, second]
    assert early.next_connections() == []
    assert UsageWatcher(reports).next_connections() == [first, second]
    clock.now += usage.KEPT_S - 1
    with reports.connected("third"):
        pass
    (found,) = early.next_connections()
    assert found["account"] == "third"
    assert [each["account"] for each in UsageWatcher(reports).next_connections()] == [
        "second",
        "third",
    ]


def test_the_longest_line_is_one_that_gateways_read() -> None:
    reports = UsageReports(Clock())
    for number in range(usage.MAX_KEPT):
        session = FakeSession(f"sess_{number:024x}", "a" * usage.MAX_ACCOUNT)
        session.usage = {**session.usage, "frames": 10**7, "speech_ms": 10**9}
        reports.add(session.usage["id"], session)
        reports.remove(session.usage["id"])
        with reports.connected("a" * usage.MAX_ACCOUNT):
            pass
    watcher, sessions, ended = UsageWatcher(reports), 0, 0
    while True:
        changes, connections = watcher.next_changes(), watcher.next_connections()
        if not changes and not connections:
            break
        line = encode("p" * 253, changes, connections)
        assert len(line) < MAX_LINE_BYTES
        assert not isinstance(usage.parse_usage(json.loads(line)), StateFault)
        sessions += len(changes)
        ended += len(connections)
    assert (sessions, ended) == (usage.MAX_KEPT, usage.MAX_KEPT)
    assert isinstance(usage.parse_connections(json.loads(line)), list)


async def read(served: Served) -> list[usage.SessionUsage]:
    async with httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        document = (await http.get("/control/v1/usage")).json()
    assert document["pod"] == "concierge-0"
    sessions = usage.parse_usage(document)
    assert isinstance(sessions, list)
    return sessions


@pytest.mark.slow
async def test_frames_and_seconds_of_speech_are_counted(serve: Serve) -> None:
    async with serve() as served:
        async with served.client() as client:
            session_id = served.live().session.id
            assert await read(served) == [usage.SessionUsage(session_id, 0, 0, ended=False)]
            for _ in range(2):
                await client.speak(10)
                await client.until("response.done")
            frames = len(client.of("response.video.delta"))
            assert frames == 20
            assert await read(served) == [usage.SessionUsage(session_id, 20, 800, ended=False)]
        await served.eventually(lambda: not served.runtime.connections, "ended")
        assert await read(served) == [usage.SessionUsage(session_id, 20, 800, ended=True)]


@pytest.mark.slow
async def test_the_stream_reports_changes_and_ends_with_the_pod(serve: Serve) -> None:
    async with serve() as served:
        address = f"http://{served.admin}/control/v1/usage?watch=1"
        async with (
            asyncio.timeout(DEADLINE_S),
            aiohttp.ClientSession() as http,
            http.get(address) as stream,
        ):
            assert json.loads(await stream.content.readline())["sessions"] == []
            async with served.client() as client:
                await client.speak(5)
                await client.until("response.done")
            figures: dict[str, Any] = {}
            while not figures.get("ended"):
                for figures in json.loads(await stream.content.readline())["sessions"]:
                    assert figures["frames"] <= 5
            assert (figures["frames"], figures["speech_ms"]) == (5, 200)
            served.runtime.stop_watchers()
            assert await stream.content.read() == b""


@pytest.mark.slow
async def test_a_pod_returns_what_the_gateway_sent_for_a_connection(serve: Serve) -> None:
    async with serve() as served:
        url = f"ws://{served.sessions}/v1/realtime"
        headers = {labels.USAGE_HEADER: "gAAAA-text_of_a_gateway="}
        async with (
            asyncio.timeout(DEADLINE_S),
            aiohttp.ClientSession() as http,
            http.ws_connect(url, headers=headers) as socket,
        ):
            await socket.receive()
            assert socket._response.connection is not None
            transport = socket._response.connection.transport
            assert transport is not None
            transport.abort()  # as a gateway that is killed
            await served.eventually(lambda: bool(served.runtime.usage.connections()), "ended")
        ((_, document),) = served.runtime.usage.connections()
        assert document["account"] == "gAAAA-text_of_a_gateway="
        assert 0 <= document["connected_ms"] < DEADLINE_S * 1000
        async with httpx.AsyncClient(base_url=f"http://{served.admin}") as client:
            body = (await client.get("/control/v1/usage")).json()
        assert body["connections"] == [document]


@pytest.mark.slow
async def test_the_stream_needs_the_token_that_reads_the_state(serve: Serve) -> None:
    token = tokens.state_token(KEY, "acme/concierge")
    variables = {"AVATAR_STATE_TOKEN": token, "AVATAR_ADMIN_TOKEN": "another-token-of-the-pod"}
    async with (
        serve(**variables) as served,
        httpx.AsyncClient(base_url=f"http://{served.admin}") as http,
    ):
        assert (await http.get("/control/v1/usage")).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert (await http.get("/control/v1/usage", headers=headers)).status_code == 200
