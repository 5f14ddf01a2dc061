"""A session moves from one runtime to another one, and its client notices a pause only."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.runtime.serving import test_resume
from tests.runtime.serving.test_resume import (
    COMMIT,
    FRAMES,
    MEDIA,
    Caller,
    append,
    calling,
    check,
    decode,
    speech,
)
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatar_contracts import labels, session_ids
from avatar_operator.core.manifests import pod
from avatar_runtime.protocol import session_document
from avatar_runtime.serving import runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.runtime.serving.conftest import FakeEngine, Serve, Served

pytestmark = pytest.mark.slow

Event = dict[str, Any]
engine = test_resume.engine
PAUSE = json.dumps(
    {
        "type": "session.update",
        "session": {"type": "realtime", "avatar": {"flow": {"overrun": "pause"}}},
    }
)
"""Asks for each frame, also on a machine that is too slow for them."""


async def post(served: Served, path: str, body: Any, token: str = "") -> tuple[int, Any]:
    """Send a request to the admin port, and return the status and the JSON of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"http://{served.admin}{labels.SESSIONS_PATH}{path}"
    async with (
        aiohttp.ClientSession() as http,
        http.post(address, data=data, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def export(served: Served, session_id: str, **body: Any) -> dict[str, Any]:
    status, document = await post(served, f"/{session_id}/export", body)
    assert status == 200, document
    assert isinstance(document, dict)
    return document


async def take(served: Served, document: dict[str, Any]) -> str:
    """Give a document to a runtime, and return the id of the session there."""
    status, answer = await post(served, "", document)
    assert status == 200, answer
    assert answer["ttl_ms"] == 30_000
    session_id = answer["session"]["id"]
    assert isinstance(session_id, str)
    return session_id


@asynccontextmanager
async def two_pods(
    serve: Serve, engine: FakeEngine, **variables: str
) -> AsyncIterator[tuple[Served, Served]]:
    async with (
        serve(engine=engine, AVATAR_POD="pod-a", **variables) as first,
        serve(engine=engine, AVATAR_POD="pod-b", **variables) as second,
    ):
        yield first, second


async def next_event(caller: Caller) -> Event | None:
    """Return the next event; `None` if the connection ends because the session moves."""
    assert caller.socket is not None
    try:
        return caller.event(await caller.socket.recv())
    except ConnectionClosed:
        assert caller.socket.close_code == 1012
        return None


async def until_moved(caller: Caller) -> Event | None:
    """Read until the connection ends because the session moves; return `session.migrate`."""
    events: list[Event] = []
    while (event := await next_event(caller)) is not None:
        if event["type"] == "session.migrate":
            events.append(event)
            continue
        assert event["seq"] == caller.last_seq + 1
        caller.last_seq = event["seq"]
        caller.events.append(event)
    return events[0] if events else None


@pytest.mark.parametrize("transport", ["json", "binary"])
@pytest.mark.parametrize("mode", ["jpeg", "h264"])
async def test_a_session_moves_in_the_middle_of_a_sentence(
    serve: Serve, engine: FakeEngine, mode: str, transport: str
) -> None:
    async with (
        two_pods(serve, engine) as pods,
        calling(pods[0]) as caller,
    ):
        flow = {"window_ms": 200, "overrun": "pause"}
        avatar = {"video": {"mode": mode}, "transport": transport, "flow": flow}
        session = {"type": "realtime", "avatar": avatar}
        caller.script = [json.dumps({"type": "session.update", "session": session})]
        caller.is_binary = transport == "binary"
        pcm = speech(FRAMES, 0)
        caller.script += [caller.append(pcm[at : at + 9600]) for at in range(0, len(pcm), 9600)]
        await caller.write()
        ids = [caller.session_id]
        for moves, index in enumerate((4, 12, 20)):
            old, new = pods[moves % 2], pods[1 - moves % 2]
            while not any(event["frame_index"] >= index for event in caller.of(MEDIA[1])):
                await caller.read(lambda event: event["type"] == MEDIA[1])
            document = await export(old, caller.session_id)
            migrate = await until_moved(caller)
            assert migrate is None or (migrate["reason"], migrate["deadline_ms"]) == ("moved", 0)
            await old.eventually(lambda: not any(p.runtime.connections for p in pods), "freed")
            assert old.runtime.slots.sessions == 0
            new_id = await take(new, document)
            assert session_ids.belongs_to(new_id, f"pod-{'ba'[moves % 2]}")
            caller.address = new.sessions
            await caller.open()  # with the id of the other pod
            await caller.read(lambda event: event["type"] == "session.resumed")
            ids.append(caller.session_id)
            assert caller.session_id == new_id
            assert caller.sent == len(caller.script)
        assert len(set(ids)) == 4
        caller.script.append(COMMIT)
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        check(caller, 1, decode(caller) if mode == "h264" else None)
        if mode == "h264":
            video = caller.of(MEDIA[1])
            assert sum(event["keyframe"] for event in video) >= 4
        # Each pod counts what it has sent, so that the sum of both is what the client has heard.
        used = [each for served in pods for each in served.runtime.usage.documents()]
        assert len(used) == len(ids)
        assert sum(each["frames"] for each in used) == FRAMES
        assert sum(each["speech_ms"] for each in used) == pytest.approx(FRAMES * 40, abs=4)


async def test_a_session_that_waits_for_its_client_moves(serve: Serve, engine: FakeEngine) -> None:
    async with two_pods(serve, engine) as (first, second), calling(first) as caller:
        caller.script = [PAUSE, append(speech(FRAMES, 0)), COMMIT]
        await caller.write()
        await caller.read(lambda event: event.get("frame_index") == 5)
        assert caller.socket is not None
        caller.socket.transport.abort()
        await first.eventually(lambda: first.live().is_held, "held")
        document = await export(first, caller.session_id)
        await take(second, document)
        caller.address = second.sessions
        await caller.open()
        await caller.read(lambda event: event["type"] == "response.done")
        check(caller, 1, None)


async def test_the_token_of_the_client_stays_good_and_others_are_refused(
    serve: Serve, engine: FakeEngine
) -> None:
    async with two_pods(serve, engine) as (first, second), calling(first) as caller:
        old_id, token = caller.session_id, caller.token
        document = await export(first, old_id)
        assert token not in json.dumps(document["resume"])
        new_id = await take(second, document)
        for session_id in (old_id, new_id):
            thief = Caller(second.sessions, session_id=session_id, token="resume_x")
            await thief.open()
            assert thief.socket is not None
            error, close = await test_resume.closed(thief.socket)
            assert (error["code"], close) == ("resume_refused", 4411)
        # The pod that the session has left tells that to its client only, which tries again.
        for used, code, closes in ((token, "session_moved", 1012), ("x", "resume_refused", 4411)):
            late = Caller(first.sessions, session_id=old_id, token=used)
            await late.open()
            assert late.socket is not None
            error, close = await test_resume.closed(late.socket)
            assert (error["code"], close) == (code, closes)
        caller.address = second.sessions
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")
        # The answer may have been lost: both the old and the new id lead to the session.
        caller.session_id, caller.token = old_id, token
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")
        assert caller.session_id == new_id


async def test_what_cannot_move_says_so_and_stays(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "idle_frames", lambda batch: engine.run(batch, lambda: None))
    async with two_pods(serve, engine) as (first, second), calling(first) as caller:
        video = {"type": "realtime", "avatar": {"video": {"mode": "fmp4"}}}
        await caller.say("session.update", session=video)
        await caller.read(lambda event: event["type"] == "session.updated")
        status, answer = await post(first, f"/{caller.session_id}/export", {})
        assert (status, answer["error"]["code"]) == (409, "session_not_movable")
        assert "one file" in answer["error"]["message"]
        await caller.say(
            "session.update", session={"type": "realtime", "avatar": {"video": {"mode": "jpeg"}}}
        )
        await caller.read(lambda event: event["type"] == "session.updated")
        status, answer = await post(first, f"/{caller.session_id}/export", {"only_if_asked": True})
        assert (status, answer["error"]["code"]) == (409, "session_not_asked")
        status, answer = await post(first, "/sess_x/export", {})
        assert (status, answer["error"]["code"]) == (404, "session_not_found")
        caller.script = [PAUSE, append(speech(FRAMES, 0)), COMMIT]
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        document = await export(first, caller.session_id, destination="pod-b")
        status, answer = await post(first, f"/{caller.session_id}/export", {})
        assert (status, answer["error"]["code"], answer["error"]["value"]) == (
            410,
            "session_moved",
            "pod-b",
        )
        await take(second, document)
        status, answer = await post(second, "", document)
        assert (status, answer["error"]["code"]) == (409, "session_exists")


async def test_a_document_that_is_too_large_keeps_its_session(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_pods(serve, engine) as (first, _), calling(first) as caller:
        caller.script = [PAUSE, append(speech(FRAMES, 0)), COMMIT]
        await caller.write()
        await caller.read(lambda event: event.get("frame_index") == 5)
        with monkeypatch.context() as context:
            context.setattr(session_document, "MAX_BYTES", 1000)
            status, answer = await post(first, f"/{caller.session_id}/export", {})
        assert (status, answer["error"]["code"]) == (409, "document_too_large")
        await until_moved(caller)
        await caller.open()
        await caller.read(lambda event: event["type"] == "response.done")
        check(caller, 1, None)


@pytest.mark.parametrize(
    ("field", "value", "status", "code"),
    [
        ("schema", 2, 400, "unsupported_schema"),
        ("service", "acme/other", 400, "model_not_found"),
        ("fps", 50, 400, "invalid_value"),
        ("dialect", "latin", 400, "invalid_value"),
        ("state", None, 400, "invalid_type"),
        ("suffix", "", 400, "invalid_value"),
    ],
)
async def test_a_pod_refuses_what_it_cannot_continue(
    serve: Serve, engine: FakeEngine, field: str, value: object, status: int, code: str
) -> None:
    async with two_pods(serve, engine) as (first, second), calling(first) as caller:
        document = await export(first, caller.session_id)
        got, answer = await post(second, "", {**document, field: value})
        assert (got, answer["error"]["code"]) == (status, code)
        assert answer["error"]["message"]
        assert second.runtime.slots.sessions == 0
        await take(first, document)  # the pod that it came from takes it back
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")


async def test_a_full_pod_refuses_and_a_draining_one_takes_back_its_own_only(
    serve: Serve, engine: FakeEngine
) -> None:
    async with two_pods(serve, engine, AVATAR_CAPACITY="1") as (first, second):
        async with calling(first) as caller, calling(second):
            document = await export(first, caller.session_id)
            status, answer = await post(second, "", document)
            assert (status, answer["error"]["code"]) == (503, "no_capacity")
            first.runtime.set_draining(True)
            second.runtime.set_draining(True)
            status, answer = await post(second, "", document)
            assert (status, answer["error"]["code"]) == (503, "draining")
            await take(first, document)
            await caller.open()
            await caller.read(lambda event: event["type"] == "session.resumed")


async def test_the_right_to_move_is_that_of_the_gateway(serve: Serve, engine: FakeEngine) -> None:
    variables = {
        "AVATAR_ADMIN_TOKEN": "control",
        "AVATAR_STATE_TOKEN": "state",
        "AVATAR_SESSION_TOKEN": "session",
    }
    async with serve(engine=engine, **variables) as served:
        for token, expected in (("", 401), ("state", 401), ("session", 404), ("control", 404)):
            status, _ = await post(served, "/sess_x/export", {}, token)
            assert status == expected
            status, _ = await post(served, "", {}, token)
            assert status == (401 if expected == 401 else 400)


async def test_a_session_that_moved_and_is_not_fetched_frees_its_slot(
    serve: Serve, engine: FakeEngine
) -> None:
    async with two_pods(serve, engine, AVATAR_RESUME_TTL_S="1") as (first, second):
        async with connect(f"ws://{first.sessions}/v1/realtime") as socket:
            created = json.loads(await socket.recv())
            document = await export(first, created["session"]["id"])
            status, _ = await post(second, "", document)
            assert status == 200
            assert second.runtime.slots.sessions == 1
            await second.eventually(lambda: second.runtime.slots.sessions == 0, "freed")


async def test_a_drain_asks_at_its_deadline_those_that_are_left_to_move(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_pods(serve, engine, AVATAR_DRAIN_TIMEOUT_S="1") as (first, second):
        async with calling(first) as caller:
            caller.script = [PAUSE, append(speech(FRAMES, 0))]
            await caller.write()
            await caller.read(lambda event: event.get("frame_index") == 5)
            draining = asyncio.create_task(first.runtime.drain())
            migrate = await until_moved(caller)
            assert migrate is not None
            assert (migrate["reason"], migrate["deadline_ms"]) == ("drain", 1000)
            assert "seq" not in migrate
            await first.eventually(lambda: first.live().is_held, "held")
            # Nobody has moved it yet: its pod takes it back, as long as the pod is there.
            await caller.open()
            await caller.read(lambda event: event["type"] == "session.resumed")
            document = await export(first, caller.session_id, only_if_asked=True)
            await until_moved(caller)
            async with asyncio.timeout(15):
                await draining  # with the last session the drain is over
            await take(second, document)
            caller.address = second.sessions
            await caller.open()
            caller.script.append(COMMIT)
            await caller.read(lambda event: event["type"] == "session.resumed")
            await caller.write()
            await caller.read(lambda event: event["type"] == "response.done")
            check(caller, 1, None)


async def test_the_time_of_a_drain_counts_from_its_start(serve: Serve, engine: FakeEngine) -> None:
    variables = {"AVATAR_DRAIN_TIMEOUT_S": "600"}
    async with serve(engine=engine, **variables) as served, calling(served) as caller:
        now = served.runtime.clock()
        served.runtime.clock = lambda: now
        served.runtime.set_draining(True)
        served.runtime.clock = lambda: now + 601  # the hook of the pod has waited
        draining = asyncio.create_task(served.runtime.drain())
        assert await until_moved(caller) is not None
        await export(served, caller.session_id)
        async with asyncio.timeout(15):
            await draining


async def test_only_one_of_two_requests_gets_a_session(serve: Serve, engine: FakeEngine) -> None:
    async with two_pods(serve, engine) as (first, second), calling(first) as caller:
        caller.script = [PAUSE, append(speech(FRAMES, 0)), COMMIT]
        await caller.write()
        await caller.read(lambda event: event.get("frame_index") == 5)
        path = f"/{caller.session_id}/export"
        answers = await asyncio.gather(
            *(post(first, path, {"destination": f"pod-{name}"}) for name in "bcd")
        )
        given = [document for status, document in answers if status == 200]
        refused = [answer["error"]["code"] for status, answer in answers if status != 200]
        assert (len(given), refused) == (1, ["session_moved"] * 2)
        await take(second, given[0])
        caller.address = second.sessions
        await until_moved(caller)
        await caller.open()
        await caller.read(lambda event: event["type"] == "response.done")
        check(caller, 1, None)


async def test_a_session_that_comes_back_is_not_asked_again(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "MOVE_S", 3.0)
    monkeypatch.setattr(runtime, "ASK_PERIOD_S", 0.05)
    async with (
        serve(engine=engine, AVATAR_DRAIN_TIMEOUT_S="0") as served,
        calling(served) as caller,
    ):
        draining = asyncio.create_task(served.runtime.drain())
        assert await until_moved(caller) is not None
        await take(served, await export(served, caller.session_id, only_if_asked=True))
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")
        caller.script, caller.sent = [PAUSE, append(speech(FRAMES, 0)), COMMIT], 0
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        assert len(caller.resumed) == 1
        await export(served, caller.session_id, only_if_asked=True)
        async with asyncio.timeout(15):
            await draining


def test_a_pod_has_time_to_give_its_sessions_away() -> None:
    assert runtime.MOVE_S + 2 * runtime.CLOSE_GRACE_S < pod.GRACE_MARGIN_S


async def test_no_document_is_a_fault_of_the_runtime(serve: Serve, engine: FakeEngine) -> None:
    rng = Random(5)
    wrong: list[object] = [None, -1, 2**60, 0.5, True, "x" * 70, [], {}]
    async with two_pods(serve, engine) as (first, second), calling(first) as caller:
        caller.script = [PAUSE, append(speech(FRAMES, 0))]
        await caller.write()
        await caller.read(lambda event: event.get("frame_index") == 5)
        document = await export(first, caller.session_id)
        for part in (document, document["replay"], document["resume"], document["config"]):
            for name in list(part):
                value = part[name]
                for part[name] in rng.sample(wrong, 2):
                    status, answer = await post(second, "", document)
                    assert status in (200, 400), (name, part[name], answer)
                    for taken in list(second.runtime.connections):
                        taken.end(1000, "the next document is for the same session")
                    await second.eventually(lambda: second.runtime.slots.sessions == 0, "freed")
                part[name] = value
