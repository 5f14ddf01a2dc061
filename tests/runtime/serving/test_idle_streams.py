"""Idle frames of many sessions beside one that speaks, over real sockets with a fake engine."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from avatar_runtime.protocol import idle_stream

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Client, Serve

pytestmark = pytest.mark.slow

IDLE_SESSIONS = 10
STREAM = {"type": "realtime", "avatar": {"idle": "stream"}}


async def _streaming(client: Client) -> None:
    await client.send("session.update", session=STREAM)
    await client.until("session.updated")


async def test_idle_frames_take_no_batch_and_no_turn_of_a_response(serve: Serve) -> None:
    variables = {"AVATAR_CAPACITY": str(IDLE_SESSIONS + 1), "AVATAR_SILENCE_DBFS": "-50"}
    async with serve(**variables) as served, AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(served.client(max_queue=None))
            for _ in range(IDLE_SESSIONS)
        ]
        for client in others:
            await _streaming(client)
        async with served.client() as client:
            await _streaming(client)
            for _ in range(3):
                await client.until("response.video.delta")
            await client.speak(50)  # in silence: the engine makes idle pictures for it as well
            done = await client.until("response.video.done")
            assert (done["frames"], done["dropped"]) == (50, 0)
        for other in others:
            await other.until("response.video.delta")

        assert served.engine.batches == []
        spoken = 0
        for batch in served.engine.rested:
            refs = [request.response_ref for request in batch]
            if idle_stream.REF in refs:
                assert set(refs) == {idle_stream.REF}
                assert len(refs) <= 4
            else:
                spoken += len(refs)
        assert spoken == 50
        state = served.runtime.state()
        assert state["deadline_miss_ratio"] == 0
        assert b'avatar_runtime_frames_total{kind="silent"} 50.0' in served.runtime.metrics.render()


async def test_a_failure_of_idle_frames_is_not_the_end_of_the_stream(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        await _streaming(client)
        await client.until("response.video.delta")
        served.engine.failing = True
        before = len(served.engine.rested)
        await served.eventually(lambda: len(served.engine.rested) > before + 2, "tried again")
        served.engine.failing = False
        for _ in range(3):
            event = await client.until("response.video.delta")
        assert event["idle"]
        assert "error" not in {event["type"] for event in client.events}
        assert json.dumps(served.runtime.state())
