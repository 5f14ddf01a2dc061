"""Sessions in the mode h264, over a real socket, with a fake engine."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from avatar_runtime.batching.frames import Frame
from avatar_runtime.errors import EncoderError
from avatar_runtime.video.h264 import H264Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.runtime.serving.conftest import Client, FakeEngine, Serve

    from avatar_runtime.batching.frames import FrameRequest

pytestmark = pytest.mark.slow


@dataclass
class Greys:
    """What the engine draws: frame `n` of a response is grey with luma `LUMA + n`."""

    LUMA = 40

    def planes(self, request: FrameRequest) -> bytes:
        pixels = request.width * request.height
        return bytes([self.LUMA + request.frame_index]) * pixels + bytes([128]) * (pixels // 2)


@pytest.fixture
def engine(make_engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Return an engine that draws what a request asks for."""
    made = make_engine()

    async def run(batch: Sequence[FrameRequest], on_free: Callable[[], None]) -> Sequence[Frame]:
        await asyncio.sleep(0)
        return [Frame(r, Greys().planes(r) if r.raw else made.jpeg) for r in batch]

    monkeypatch.setattr(made, "run", run)
    return made


def _shown(deltas: Sequence[dict[str, Any]]) -> list[int]:
    """Return the mean luma of each frame."""
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    shown = []
    for event in deltas:
        (frame,) = context.decode(av.Packet(base64.b64decode(event["delta"])))
        plane = np.asarray(frame.to_ndarray(format="yuv420p"))[: frame.height]
        shown.append(round(float(plane.mean())))
    return shown


async def _set_mode(client: Client, mode: str) -> None:
    session = {"type": "realtime", "avatar": {"video": {"mode": mode}}}
    await client.send("session.update", session=session)
    updated = await client.until("session.updated")
    assert updated["session"]["avatar"]["video"]["mode"] == mode


async def test_the_frames_of_several_responses_are_one_stream(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(engine=engine) as served, served.client() as client:
        await _set_mode(client, "h264")
        for _ in range(2):
            await client.speak(60)
            done = await client.until("response.video.done")
            assert (done["frames"], done["dropped"]) == (60, 0)
        deltas = client.of("response.video.delta")
        assert [event["frame_index"] for event in deltas] == 2 * list(range(60))
        # The first of each response, and one 2 s later.
        keyframes = [n for n, event in enumerate(deltas) if event["keyframe"]]
        assert keyframes == [0, 50, 60, 110]
        for shown, expected in zip(_shown(deltas), 2 * list(range(60)), strict=True):
            assert abs(shown - Greys.LUMA - expected) <= 2
        assert [event["seq"] for event in client.events] == list(range(1, len(client.events) + 1))
        assert b'stage="h264"' in served.runtime.metrics.render()


async def test_the_query_names_the_mode(serve: Serve, engine: FakeEngine) -> None:
    async with serve(engine=engine) as served, served.client("?video=h264") as client:
        await client.speak(5)
        await client.until("response.done")
        assert [event["codec"] for event in client.of("response.video.delta")] == ["h264"] * 5


async def test_a_session_can_change_between_the_modes(serve: Serve, engine: FakeEngine) -> None:
    async with serve(engine=engine) as served, served.client() as client:
        for mode in ("h264", "jpeg", "h264"):
            await _set_mode(client, mode)
            client.events.clear()
            await client.speak(5)
            await client.until("response.done")
            deltas = client.of("response.video.delta")
            assert [event["mode"] for event in deltas] == [mode] * 5
            if mode == "h264":
                assert deltas[0]["keyframe"]
                assert len(_shown(deltas)) == 5
            else:
                assert {base64.b64decode(event["delta"]) for event in deltas} == {engine.jpeg}


async def test_an_encoder_that_fails_ends_its_session_and_no_other(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(engine=engine) as served, served.client() as other:
        async with served.client("?video=h264") as client:

            def fail(*_: object) -> bytes:
                raise EncoderError("no memory")

            monkeypatch.setattr(H264Encoder, "encode", fail)
            await client.speak(5)
            with pytest.raises(ConnectionClosed):
                await client.until("never")
            assert client.socket.close_code == 1011
        await other.speak(5)
        done = await other.until("response.done")
        assert done["response"]["status"] == "completed"
