"""`avatar_client` in the modes of flow control and transport, on the sockets of a runtime."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from avatar_client import session
from avatar_client.options import Options
from avatar_client.sound import Sound

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime.serving.conftest import FakeEngine, Serve

    from avatar_client.traces import Response

SOUND = Sound(bytes(range(256)) * 150, 24000)  # 0.8 s: 20 frames
FRAMES = 20


def target(address: str) -> session.Target:
    return session.Target(f"ws://{address}", "acme/concierge", "")


def seen(response: Response) -> tuple[object, ...]:
    """Return what a client sees of a response, without the times of arrival."""
    frames = [(f.frame_index, f.pts_ms, f.data, f.codec, f.keyframe) for f in response.frames]
    return frames, bytes(response.pcm), response.status, response.dropped, response.epoch


async def test_both_transports_give_the_same_pictures_and_times(
    serve: Serve, make_engine: Callable[..., FakeEngine]
) -> None:
    async with serve(engine=make_engine(jpeg=bytes(range(250)) * 80)) as served:
        responses = {}
        for transport in ("json", "binary"):
            options = Options(transport=transport)
            async with session.connect(target(served.sessions), options) as live:
                responses[transport] = await live.speak(SOUND, realtime=False)
                assert live.trace.violations == []
                assert live.trace.errors == []
    assert seen(responses["json"]) == seen(responses["binary"])
    assert len(responses["binary"].frames) == FRAMES
    sizes = {name: sum(f.wire_bytes for f in r.frames) for name, r in responses.items()}
    assert sizes["json"] == pytest.approx(sizes["binary"] * 4 / 3, rel=0.001)


async def test_a_session_with_sound_only_breaks_no_guarantee(serve: Serve) -> None:
    options = Options(video="none", flow="ack", transport="binary")
    async with serve() as served, session.connect(target(served.sessions), options) as live:
        response = await live.speak(SOUND, realtime=False)
        assert (response.frames, bytes(response.pcm)) == ([], SOUND.pcm)
        assert live.trace.violations == []
        assert live.received_bytes > len(SOUND.pcm)


async def test_the_client_acknowledges_what_a_player_would_have_played(serve: Serve) -> None:
    options = Options(flow="ack", window_ms=200)
    async with serve() as served, session.connect(target(served.sessions), options) as live:
        started_at = asyncio.get_running_loop().time()
        response = await live.speak(SOUND, realtime=False)
        # Four windows of 200 ms: the last one leaves when 600 ms were played.
        assert asyncio.get_running_loop().time() - started_at >= 0.55
        assert (len(response.frames), response.status) == (FRAMES, "completed")
        stopped = await live.wait_for("output_audio_buffer.stopped")
        assert stopped["response_id"] == response.response_id
        assert live.trace.violations == []
        assert live.trace.errors == []


async def test_a_program_with_a_player_of_its_own_acknowledges_itself(serve: Serve) -> None:
    options = Options(flow="ack", window_ms=400, transport="binary")
    opened = session.connect
    async with serve() as served:
        async with opened(target(served.sessions), options, acknowledges=False) as live:
            speaking = asyncio.create_task(live.speak(SOUND, realtime=False))

            def has(frames: int) -> bool:
                return sum(len(r.frames) for r in live.trace.responses.values()) >= frames

            await served.eventually(lambda: has(10), "sent one window")
            [response] = live.trace.responses.values()
            await live.pause(1.0)
            assert len(response.frames) == 10
            await live.acknowledge(response.response_id, 200)
            await served.eventually(lambda: has(15), "sent what the acknowledgement allows")
            await live.acknowledge(response.response_id, 400)
            assert len((await speaking).frames) == FRAMES
            assert live.trace.errors == []
