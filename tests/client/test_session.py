from __future__ import annotations

import asyncio
from typing import Any

import pytest

from avatar_client import errors, session
from avatar_client.sound import Sound

SOUND = Sound(bytes(range(256)) * 60, 24000)  # 320 ms


def _target(server: Any, avatar: str | None = None) -> session.Target:
    return session.Target(server.url, "acme/concierge", "k1", avatar)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h:1", "ws://h:1/v1/realtime?model=acme/c"),
        ("wss://h/", "wss://h/v1/realtime?model=acme/c"),
        ("h:1", "ws://h:1/v1/realtime?model=acme/c"),
        ("https://h/v1/realtime", "wss://h/v1/realtime?model=acme/c"),
    ],
)
def test_each_form_of_url_gives_the_websocket_address(url: str, address: str) -> None:
    assert session.Target(url, "acme/c", "secret").address() == address


def test_the_key_is_not_shown() -> None:
    hidden = session.Target("h:1", "acme/c", "secret", session_token="secret")
    assert "secret" not in repr(hidden)


async def test_speaking_returns_the_whole_response(avatar: Any) -> None:
    async with session.connect(_target(avatar, "anna")) as live:
        await live.update({"avatar": {"video": {"mode": "jpeg"}}})
        first = await live.speak(SOUND, chunk_ms=40)
        second = await live.speak(SOUND, realtime=False)
        assert live.trace.violations == []
    assert (len(first.frames), bytes(second.pcm)) == (8, SOUND.pcm)
    assert avatar.requests[0].headers["Authorization"] == "Bearer k1"
    assert avatar.requests[0].path == "/v1/realtime?model=acme/concierge&avatar=anna&resumes=1"
    assert sum(event["type"] == "input_audio_buffer.append" for event in avatar.received) == 16


async def test_realtime_audio_is_sent_at_the_rate_of_its_samples(avatar: Any) -> None:
    async with session.connect(_target(avatar)) as live:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await live.speak(SOUND, chunk_ms=160)
        # Two chunks of 160 ms: the second may not leave before 160 ms.
        assert loop.time() - begun >= 0.159
        (said,) = live.utterances
        assert said.samples == SOUND.samples
        assert said.enough_at is not None


async def test_a_refusal_carries_status_code_and_retry_after(avatar: Any) -> None:
    avatar.refuse = (503, "no_capacity")
    with pytest.raises(errors.Refused) as refused:
        async with session.connect(_target(avatar)):
            pass
    assert (refused.value.status, refused.value.code) == (503, "no_capacity")
    assert refused.value.retry_after_s == 3


async def test_a_closed_port_is_a_refusal() -> None:
    with pytest.raises(errors.Refused, match="connect_failed"):
        async with session.connect(session.Target("ws://127.0.0.1:1", "a/b", "")):
            pass


async def test_a_closed_session_fails_every_waiting_call(avatar: Any) -> None:
    avatar.close_after = 6
    async with session.connect(_target(avatar)) as live:
        with pytest.raises(errors.SessionEnded) as ended:
            await live.speak(SOUND, realtime=False)
        assert (ended.value.code, ended.value.reason) == (1012, "moved")
        with pytest.raises(errors.SessionEnded):
            await live.pause(60)
        with pytest.raises(errors.SessionEnded):
            await live.wait_for("response.done")


async def test_an_error_event_fails_the_call_it_answers(avatar: Any) -> None:
    async with session.connect(_target(avatar)) as live:
        with pytest.raises(errors.ServerError, match="unknown_event"):
            await live.cancel()
        assert live.trace.errors[0]["code"] == "unknown_event"


async def test_a_missing_answer_is_a_timeout(avatar: Any) -> None:
    avatar.tamper = lambda message: [] if message["type"] == "response.done" else [message]
    async with session.connect(_target(avatar)) as live:
        with pytest.raises(errors.AnswerTimeout, match=r"no response\.done"):
            await live.speak(SOUND.cut(0.04), timeout_s=0.05)


@pytest.mark.parametrize("body", ["[1]", "nonsense", '{"type":"response.created"}'])
async def test_an_unreadable_message_ends_the_session(avatar: Any, body: str) -> None:
    avatar.garbage = body
    with pytest.raises(errors.SessionEnded, match="1002"):
        async with session.connect(_target(avatar)):
            pass
