"""The official OpenAI client talks with its default settings: it leaves the turns to the server."""

from __future__ import annotations

import asyncio
import base64
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from avatar_contracts import labels

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

RATE = 24_000
CHUNK = RATE * 2 * 40 // 1000
OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
OURS = {
    "warning",
    "response.video.delta",
    "response.video.done",
    "response.video.dropped",
    "session.avatar.switch_to_speaking",
    "session.avatar.switch_to_idle",
}
"""Events that the official client does not know; docs/wire-protocol.md lists them."""


EXAMPLES = Path(__file__).parents[3] / "examples"


def speech(seconds: float) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return the start of the example recording, 24 kHz."""
    with wave.open(str(EXAMPLES / "speech.wav")) as file:
        assert file.getframerate() == RATE
        return np.frombuffer(file.readframes(int(seconds * RATE)), "<i2")


def conversation(pause_s: float) -> bytes:
    """Return three utterances in the noise of a room, with silence after each of them."""
    voice = speech(1.2)
    quiet = np.zeros(int(pause_s * RATE), np.int16)
    clean = np.concatenate([quiet, *([voice, quiet] * 3)]).astype(np.float64)
    noise = np.random.default_rng(3).standard_normal(len(clean)) * 60  # -55 dBFS
    return (clean + noise).clip(-32768, 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("session", "pause_s"),
    # An answer after the turn takes 2.0 s; the next turn would interrupt it before.
    [(None, 3.5), ({"type": "realtime", "avatar": {"drive": {"start": "append"}}}, 0.9)],
    ids=["default settings", "an answer with the user"],
)
async def test_three_turns_of_a_microphone_are_answered(
    serve: Serve, session: Any, pause_s: float
) -> None:
    audio = conversation(pause_s)
    async with serve(AVATAR_TURN_DETECTION=labels.SERVER_VAD) as served:
        client = AsyncOpenAI(api_key="unused", websocket_base_url=f"ws://{served.sessions}/v1")
        async with client.realtime.connect(model="acme/concierge") as connection:
            events: list[Any] = []
            if session is not None:
                await connection.session.update(session=session)

            async def listen() -> None:
                async for event in connection:
                    events.append(event)
                    if sum(e.type == "response.done" for e in events) == 3:
                        return

            async def speak() -> None:
                loop = asyncio.get_running_loop()
                started_at = loop.time()
                for number, start in enumerate(range(0, len(audio), CHUNK)):
                    await asyncio.sleep(started_at + number * 0.04 - loop.time())
                    chunk = base64.b64encode(audio[start : start + CHUNK]).decode()
                    await connection.input_audio_buffer.append(audio=chunk)

            async with asyncio.timeout(30.0), asyncio.TaskGroup() as group:
                group.create_task(listen())
                group.create_task(speak())
    kinds = [event.type for event in events]
    for kind in ("speech_started", "speech_stopped", "committed"):
        assert kinds.count(f"input_audio_buffer.{kind}") == 3, kinds
    done = [event.response.status for event in events if event.type == "response.done"]
    assert done == ["completed"] * 3
    assert "error" not in kinds
    assert kinds.count("response.video.delta") > 90
    validate(events)


def validate(events: list[Any]) -> None:
    """Check each event against the types of the official client, strictly."""
    for event in events:
        document = event.to_dict()
        if document["type"] not in OURS:
            OFFICIAL.validate_json(event.to_json(), strict=True)
