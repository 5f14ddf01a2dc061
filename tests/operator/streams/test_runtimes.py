from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from avatar_operator.core.autoscaling import capacity
from avatar_operator.errors import NotLeading, RuntimeUnreachable
from avatar_operator.streams import client
from avatar_operator.streams.endpoint import Endpoint, admin_address
from avatar_operator.streams.runtimes import RuntimeStates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.operator.conftest import Make

    from avatar_operator.fence import Fence

STATE = {"pod": "p0", "sessions": 1, "capacity": 2, "free": 1, "draining": False, "ready": True}


class Stream:
    """The lines for one reader of the state; None ends the stream."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, **changes: Any) -> None:
        self.lines.put_nowait(json.dumps(STATE | changes).encode() + b"\n")


class Pod:
    """The admin port of a runtime that sends the states of the test."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.drained: list[object] = []
        self.tokens: set[str] = set()
        self.status = 200
        self.accepted: str | None = None  # None accepts every token
        self.refusals = 0
        self.port = 0

    async def accept(self) -> Stream:
        async with asyncio.timeout(5):
            return await self.streams.get()

    def refuses(self, request: web.Request) -> bool:
        return self.accepted is not None and (
            request.headers["Authorization"] != f"Bearer {self.accepted}"
        )

    async def state(self, request: web.Request) -> web.StreamResponse:
        assert request.query == {"watch": "1"}
        self.tokens.add(request.headers["Authorization"])
        if self.refuses(request):
            return web.Response(status=401)
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=401)
        response = web.StreamResponse()
        await response.prepare(request)
        stream = Stream()
        self.streams.put_nowait(stream)
        with contextlib.suppress(ConnectionResetError):  # the reader closed the connection
            while (line := await stream.lines.get()) is not None:
                await response.write(line)
        return response

    async def drain(self, request: web.Request) -> web.Response:
        if self.refuses(request):
            return web.Response(status=401)
        self.drained.append(await request.json())
        return web.Response(status=self.status)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("p0", f"127.0.0.1:{self.port}", "secret", ready=True)


@pytest_asyncio.fixture
async def pod() -> AsyncIterator[Pod]:
    pod = Pod()
    application = web.Application()
    application.router.add_get("/control/v1/state", pod.state)
    application.router.add_post("/control/v1/drain", pod.drain)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pod.port = runner.addresses[0][1]
    yield pod
    await runner.cleanup()


class Followed:
    """Runtime states whose changes can be awaited."""

    def __init__(self, fence: Fence) -> None:
        self.changes: asyncio.Queue[str] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.runtimes = RuntimeStates(self.changes.put_nowait, fence, self.refused.put_nowait)

    async def changed(self) -> str:
        async with asyncio.timeout(5):
            return await self.changes.get()


@pytest_asyncio.fixture
async def followed(fence: Fence) -> AsyncIterator[Followed]:
    followed = Followed(fence)
    yield followed
    await followed.runtimes.close()


async def test_a_change_is_reported_and_a_repeated_line_is_not(
    pod: Pod, followed: Followed
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send()
    assert await followed.changed() == "u"
    stream.send()
    stream.send(sessions=2, free=0)
    assert await followed.changed() == "u"
    assert followed.changes.empty()
    state = followed.runtimes.states(["u", "unknown"])["u"]
    assert (state.sessions, state.free) == (2, 0)
    assert 0 <= state.age_s < 5
    assert followed.runtimes.oldest_s() >= state.age_s
    assert pod.tokens == {"Bearer secret"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        pytest.param(None, "the stream ended", id="end"),
        pytest.param(b"nonsense\n", "not a state: b'nonsense'", id="not JSON"),
        pytest.param(b"[1]\n", "not a state: b'[1]'", id="not an object"),
        pytest.param(b'{"sessions": -1}\n', "sessions is -1", id="not a state"),
    ],
)
async def test_a_broken_stream_is_opened_again(
    pod: Pod,
    followed: Followed,
    line: bytes | None,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "SWEEP_S", 3600.0)  # neither silence nor a sweep is the cause
    caplog.set_level("INFO")
    followed.runtimes.follow("u", pod.endpoint)
    first = await pod.accept()
    first.send()
    await followed.changed()
    first.lines.put_nowait(line)
    second = await pod.accept()
    second.send(sessions=2)
    await followed.changed()
    assert followed.runtimes.states(["u"])["u"].sessions == 2
    (message,) = [r.getMessage() for r in caplog.records if "state stream lost" in r.getMessage()]
    assert message.startswith("state stream lost pod=p0 fault=")
    assert fault in message


async def test_following_twice_opens_one_stream(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send()
    await followed.changed()
    assert pod.streams.empty()


async def test_a_pod_whose_readiness_changes_keeps_its_last_state(
    pod: Pod, followed: Followed
) -> None:
    ready, hanging = pod.endpoint, replace(pod.endpoint, ready=False)
    followed.runtimes.follow("u", ready)
    stream = await pod.accept()
    stream.send(sessions=2)
    await followed.changed()
    followed.runtimes.follow("u", hanging)  # it hangs, and its readiness probe fails
    assert followed.runtimes.states(["u"])["u"].sessions == 2
    stream.send(sessions=1)  # on the same stream
    await followed.changed()
    followed.runtimes.follow("u", ready)
    assert pod.streams.empty()
    followed.runtimes.follow("u", hanging)
    stream.lines.put_nowait(None)
    followed.runtimes.follow("u", ready)  # a stream that waits for its retry is opened immediately
    await pod.accept()
    assert followed.runtimes.states(["u"])["u"].sessions == 1


async def test_a_pod_that_is_no_longer_followed_is_unknown(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send()
    await followed.changed()
    followed.runtimes.unfollow("u")
    assert followed.runtimes.states(["u"]) == {}
    assert followed.runtimes.oldest_s() == 0.0


async def test_a_drain_is_posted(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    await followed.runtimes.drain("u", draining=True)
    await followed.runtimes.drain("u", draining=False)
    assert pod.drained == [{"draining": True}, {"draining": False}]


async def test_a_pod_that_repeats_its_state_stays_fresh_and_empty(
    pod: Pod, followed: Followed
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send(sessions=0, free=2, sequence=1)
    await followed.changed()
    stream.send(sessions=0, free=2, sequence=2)
    stream.send(sessions=0, free=2, draining=True, sequence=3)
    await followed.changed()
    assert followed.changes.empty()
    state = followed.runtimes.states(["u"])["u"]
    assert state.draining
    assert state.empty_s > 0  # since the first line


async def test_a_pod_that_continues_to_drain_is_draining(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send(draining=True)
    await followed.changed()
    await followed.runtimes.drain("u", draining=False)
    assert not followed.runtimes.states(["u"])["u"].draining
    stream.send(draining=True)
    await followed.changed()
    assert followed.runtimes.states(["u"])["u"].draining


async def test_an_error_response_is_not_a_state(pod: Pod, followed: Followed) -> None:
    pod.refusals = 1
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send()  # the second attempt
    await followed.changed()


@pytest.mark.slow
async def test_a_silent_stream_is_opened_again(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send()
    await followed.changed()
    assert await pod.accept()  # after `SILENCE_S`


async def test_a_drain_that_fails_names_the_pod(pod: Pod, followed: Followed) -> None:
    with pytest.raises(RuntimeUnreachable, match="its address is unknown"):
        await followed.runtimes.drain("u", draining=True)
    pod.status = 401
    followed.runtimes.follow("u", pod.endpoint)
    with pytest.raises(
        RuntimeUnreachable, match="pod p0 did not respond on its admin port: HTTP status 401"
    ):
        await followed.runtimes.drain("u", draining=True)
    followed.runtimes.follow("u", Endpoint("p0", "127.0.0.1:1", "secret"))
    with pytest.raises(RuntimeUnreachable, match="ClientConnectorError"):
        await followed.runtimes.drain("u", draining=True)


def test_the_admin_port_of_an_ipv6_pod_is_bracketed(make: Make) -> None:
    assert admin_address("10.0.0.1") == "10.0.0.1:9090"
    assert admin_address("fd00::1") == "[fd00::1]:9090"


async def test_figures_within_the_objectives_wake_nobody_and_pressure_does(
    pod: Pod, followed: Followed
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send(vram={"ratio": 0.5}, deadline_miss_ratio=0.0, latency_ms={"frame_p95": 20.0})
    await followed.changed()
    stream.send(vram={"ratio": 0.87}, deadline_miss_ratio=0.004, latency_ms={"frame_p95": 61.0})
    stream.send(vram={"ratio": 0.97})
    assert await followed.changed() == "u"
    assert followed.changes.empty()
    assert followed.runtimes.states(["u"])["u"].vram_ratio == 0.97


async def test_a_pod_without_recent_states_is_stale(
    pod: Pod, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send()
    await followed.changed()
    assert followed.runtimes.stale() == frozenset()
    loop = asyncio.get_running_loop()
    later = loop.time() + 5.1
    monkeypatch.setattr(loop, "time", lambda: later)
    assert followed.runtimes.stale() == {"u"}


async def test_draining_alone_is_a_change_and_part_of_the_state(
    pod: Pod, followed: Followed
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send()
    await followed.changed()
    assert not followed.runtimes.states(["u"])["u"].draining
    stream.send(draining=True)
    assert await followed.changed() == "u"
    assert followed.runtimes.states(["u"])["u"].draining
    stream.send(draining=False)
    assert await followed.changed() == "u"
    assert not followed.runtimes.states(["u"])["u"].draining


async def test_a_posted_drain_counts_only_when_the_pod_reports_it(
    pod: Pod, followed: Followed
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send()
    await followed.changed()
    await followed.runtimes.drain("u", draining=True)
    assert not followed.runtimes.states(["u"])["u"].draining
    stream.send(draining=True)
    await followed.changed()
    assert followed.runtimes.states(["u"])["u"].draining


async def test_a_drain_is_not_posted_by_a_replica_that_does_not_lead(
    pod: Pod, followed: Followed, fence: Fence
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    fence.close()
    with pytest.raises(NotLeading):
        await followed.runtimes.drain("u", draining=True)
    assert pod.drained == []


async def test_a_pod_with_sessions_is_not_empty(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send(sessions=0, free=2)
    await followed.changed()
    stream.send(sessions=1, free=1)
    await followed.changed()
    assert followed.runtimes.states(["u"])["u"].empty_s == 0.0
    stream.send(sessions=0, free=2)
    await followed.changed()
    assert followed.runtimes.states(["u"])["u"].empty_s == 0.0  # only since this line


async def test_a_new_address_discards_the_last_state(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send()
    await followed.changed()
    followed.runtimes.follow("u", replace(pod.endpoint, token="other"))
    assert followed.runtimes.states(["u"]) == {}
    (await pod.accept()).send()
    await followed.changed()
    assert pod.tokens == {"Bearer secret", "Bearer other"}


async def test_a_repeated_drain_keeps_the_pod_draining(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    (await pod.accept()).send(draining=True)
    await followed.changed()
    await followed.runtimes.drain("u", draining=True)
    assert followed.runtimes.states(["u"])["u"].draining


async def test_the_tokens_of_all_keys_are_tried_in_turn(pod: Pod, followed: Followed) -> None:
    pod.accepted = "new"
    endpoint = replace(pod.endpoint, token="old", other_tokens=("new",))
    followed.runtimes.follow("u", endpoint)
    (await pod.accept()).send()
    assert await followed.changed() == "u"
    assert pod.tokens == {"Bearer old", "Bearer new"}
    assert followed.refused.empty()
    await followed.runtimes.drain("u", draining=True)
    assert pod.drained == [{"draining": True}]


async def test_a_pod_that_refuses_every_token_is_reported_until_it_accepts_one(
    pod: Pod, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "STALE_S", 0.0)
    monkeypatch.setattr(client, "RETRY_S", (0.01, 0.02))
    pod.accepted = "unknown"
    followed.runtimes.follow("u", replace(pod.endpoint, other_tokens=("another",)))
    async with asyncio.timeout(5):
        assert await followed.refused.get() == "u"
        assert await followed.refused.get() == "u"  # it is tried again
    reason = "the pod refused every token: HTTP status 401"
    assert followed.runtimes.silent(["u", "unknown"]) == {"u": reason}
    assert followed.runtimes.stale() == {"u"}
    with pytest.raises(RuntimeUnreachable, match="401"):
        await followed.runtimes.drain("u", draining=True)
    pod.accepted = "another"
    (await pod.accept()).send()
    assert await followed.changed() == "u"
    assert followed.runtimes.states(["u"])["u"].sessions == 1


class _CountedDict(dict[str, float]):
    """Counts how many entries an iteration returned."""

    iterated = 0

    def items(self) -> Any:
        self.iterated += len(self)
        return super().items()

    def __iter__(self) -> Any:
        self.iterated += len(self)
        return super().__iter__()


async def test_the_pods_of_one_service_are_checked_without_all_others(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtimes = followed.runtimes
    known = _CountedDict({str(number): 0.0 for number in range(1000)})
    monkeypatch.setattr(runtimes, "_followed_at", known)
    assert set(runtimes.silent(["7", "1000"])) == {"7"}
    assert known.iterated == 0
    assert len(runtimes.stale()) == 1000
    assert known.iterated == 1000


async def test_a_pod_is_silent_only_after_the_time_for_its_first_state(
    pod: Pod, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    assert followed.runtimes.silent(["u"]) == {}
    monkeypatch.setattr(capacity, "STALE_S", 0.0)
    await pod.accept()
    assert set(followed.runtimes.silent(["u"])) == {"u"}
    assert followed.runtimes.silent(["another"]) == {}
    followed.runtimes.unfollow("u")
    assert followed.runtimes.silent(["u"]) == {}


async def test_another_key_keeps_the_connection_and_the_state(pod: Pod, followed: Followed) -> None:
    followed.runtimes.follow("u", pod.endpoint)
    stream = await pod.accept()
    stream.send()
    assert await followed.changed() == "u"
    followed.runtimes.follow("u", replace(pod.endpoint, token="new", other_tokens=("secret",)))
    assert followed.runtimes.states(["u"])["u"].sessions == 1
    stream.send(sessions=2)
    assert await followed.changed() == "u"
    assert pod.streams.empty()
    pod.accepted = "new"
    stream.lines.put_nowait(None)  # the connection ends, and the pod knows only the new token
    (await pod.accept()).send(sessions=0)
    assert await followed.changed() == "u"
    assert "Bearer new" in pod.tokens
