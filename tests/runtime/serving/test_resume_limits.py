"""Clients that are silent, guess or come too often keep nobody from resuming a session."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatar_client import session
from avatar_contracts import labels
from avatar_runtime.protocol import resume_limits
from avatar_runtime.serving import pending_resumes

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Client, Serve, Served
    from websockets.asyncio.client import ClientConnection

TOKEN = "the-token-of-the-service"
DEADLINE_S = 30.0


def opening(served: Served, session_id: str, caller: str = "") -> Any:
    headers = {labels.SESSION_TOKEN_HEADER: TOKEN, labels.CALLER_HEADER: caller}
    address = f"ws://{served.sessions}/v1/realtime?resume={session_id}"
    return connect(address, additional_headers=headers, open_timeout=DEADLINE_S)


async def resume(socket: ClientConnection, token: str, last_seq: int = 2) -> dict[str, Any]:
    """Send the first message, and return the answer."""
    await socket.send(json.dumps({"type": "session.resume", "token": token, "last_seq": last_seq}))
    async with asyncio.timeout(DEADLINE_S):
        answer: dict[str, Any] = json.loads(await socket.recv())
    return answer


async def close_code(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(DEADLINE_S):
        await socket.wait_closed()
    return socket.close_code


def opened(client: Client) -> tuple[str, str]:
    """Return the id and the token of a session."""
    (created,) = client.of("session.created")
    return created["session"]["id"], created["resume"]["token"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let few connections wait, and each of them long."""
    monkeypatch.setattr(resume_limits, "MAX_PENDING", 8)
    monkeypatch.setattr(pending_resumes, "RESUME_S", 300.0)
    return 8


def joining() -> dict[str, Any]:
    return {"additional_headers": {labels.SESSION_TOKEN_HEADER: TOKEN}}


async def test_silent_connections_keep_nobody_from_resuming(serve: Serve, few: int) -> None:
    async with (
        serve(AVATAR_SESSION_TOKEN=TOKEN) as served,
        served.client(**joining()) as client,
        AsyncExitStack() as stack,
    ):
        session_id, token = opened(client)
        silent = [
            await stack.enter_async_context(opening(served, "sess_x", f"flat {number % 2}"))
            for number in range(few)
        ]
        async with opening(served, session_id, "another") as own:
            assert (await resume(own, token))["type"] == "session.resumed"
        error = json.loads(await silent[0].recv())["error"]
        assert (error["code"], error["value"], error["limit"]) == ("no_capacity", few + 1, few)
        assert await close_code(silent[0]) == 1013
        assert all(each.state.name == "OPEN" for each in silent[1:])


async def test_a_caller_with_many_connections_makes_room_before_one_with_few(
    serve: Serve, few: int
) -> None:
    async with (
        serve(AVATAR_SESSION_TOKEN=TOKEN) as served,
        served.client(**joining()) as client,
        AsyncExitStack() as stack,
    ):
        session_id, token = opened(client)
        # The connection that is oldest belongs to a client that is slow to speak.
        slow = await stack.enter_async_context(opening(served, session_id, "slow"))
        silent = [
            await stack.enter_async_context(opening(served, "sess_x", "stranger"))
            for _ in range(3 * few)
        ]
        assert (await resume(slow, token))["type"] == "session.resumed"
        gone = len(silent) - (few - 1)
        assert {await close_code(each) for each in silent[:gone]} == {1013}
        assert all(each.state.name == "OPEN" for each in silent[gone:])


async def test_a_stranger_cannot_name_its_caller(serve: Serve, few: int) -> None:
    async with serve() as served, AsyncExitStack() as stack:
        # No session token is required, so no request proves that it comes from the gateway.
        silent = [
            await stack.enter_async_context(opening(served, "sess_x", caller))
            for caller in ["a", *"b" * few]
        ]
        assert await close_code(silent[0]) == 1013


async def test_a_session_that_is_resumed_too_often_says_so_and_waits(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_limits, "BURST", 3)
    monkeypatch.setattr(resume_limits, "INTERVAL_S", 50.0)
    async with serve() as served, served.client() as client:
        session_id, token = opened(client)
        for _ in range(3):
            async with opening(served, session_id) as again:
                resumed = await resume(again, token)
                assert resumed["type"] == "session.resumed"
                token = resumed["resume"]["token"]
                again.transport.abort()
        async with opening(served, session_id) as again:
            error = (await resume(again, token))["error"]
            assert await close_code(again) == 1013
        assert (error["code"], error["param"], error["limit"]) == (
            "rate_limit_exceeded",
            "resume",
            resume_limits.PER_MINUTE,
        )
        assert "3 times at once, then once every 50 s" in error["message"]
        # A stranger does not learn that: it gets the answer of always.
        async with opening(served, session_id) as stranger:
            error = (await resume(stranger, "resume_x"))["error"]
            assert (error["code"], await close_code(stranger)) == ("resume_refused", 4411)
        assert served.live().is_held


async def test_the_python_client_tries_again_after_a_limit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_limits, "BURST", 1)
    monkeypatch.setattr(resume_limits, "INTERVAL_S", 0.5)
    async with serve() as served:
        target = session.Target(f"ws://{served.sessions}", "acme/concierge", "")
        async with session.connect(target) as live:
            for resumed in (1, 2, 3):
                live._socket._socket.transport.abort()
                while live.resumed < resumed:
                    await live.pause(0.05)
        limited = served.runtime.metrics.render().decode()
    assert 'avatar_runtime_session_resumes_total{result="limited"} 0.0' not in limited
    assert 'avatar_runtime_session_resumes_total{result="limited"}' in limited


@pytest.mark.parametrize("named", ["the session", "no session"])
async def test_guesses_are_answered_late_and_lock_nobody_out(
    serve: Serve, few: int, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setattr(resume_limits, "BURST", 2)
    monkeypatch.setattr(resume_limits, "INTERVAL_S", 1000.0)
    async with serve() as served, served.client() as client, AsyncExitStack() as stack:
        session_id, token = opened(client)
        guessed = session_id if named == "the session" else "sess_x"
        for _ in range(2):
            async with opening(served, guessed) as guess:
                assert (await resume(guess, "resume_x"))["error"]["code"] == "resume_refused"
        late = await stack.enter_async_context(opening(served, guessed))
        await late.send(json.dumps({"type": "session.resume", "token": "x", "last_seq": 0}))
        # The right token is accepted while the guess waits.
        async with opening(served, session_id) as own:
            assert (await resume(own, token))["type"] == "session.resumed"
        assert late.state.name == "OPEN"
        # Those who wait make room for others.
        for _ in range(few):
            await stack.enter_async_context(opening(served, "sess_y"))
        assert await close_code(late) == 1013


async def test_a_late_answer_looks_like_that_to_silence(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume_limits, "BURST", 0)
    monkeypatch.setattr(resume_limits, "INTERVAL_S", 1000.0)
    monkeypatch.setattr(pending_resumes, "RESUME_S", 0.2)
    async with serve() as served:
        answers = []
        for says_something in (True, False):
            async with opening(served, "sess_x") as socket:
                if says_something:
                    answers.append(await resume(socket, "resume_x"))
                else:
                    answers.append(json.loads(await socket.recv()))
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == 4411
        assert answers[0] == answers[1]
        assert answers[0]["error"]["code"] == "resume_refused"
