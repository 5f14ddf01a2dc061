"""The official OpenAI client, unmodified, speaks to a runtime."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
from openai import AsyncOpenAI

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

pytestmark = pytest.mark.slow

SOUND = bytes(range(256)) * 75  # 400 ms at 24 kHz


async def test_append_commit_and_response_create_give_sound_and_pictures(serve: Serve) -> None:
    async with serve() as served:
        client = AsyncOpenAI(api_key="unused", websocket_base_url=f"ws://{served.sessions}/v1")
        async with client.realtime.connect(model="acme/concierge") as connection:
            await connection.session.update(
                session={
                    "type": "realtime",
                    "instructions": "Repeat what you hear.",
                    "audio": {
                        "input": {"format": {"type": "audio/pcm", "rate": 24000}},
                        "output": {"voice": "marin"},
                    },
                }
            )
            await connection.input_audio_buffer.append(audio=base64.b64encode(SOUND).decode())
            await connection.input_audio_buffer.commit()
            await connection.response.create()
            kinds, received = [], b""
            async with asyncio.timeout(20.0):
                async for event in connection:
                    kinds.append(str(event.type))
                    if event.type == "response.output_audio.delta":
                        received += base64.b64decode(event.delta)
                    if event.type == "response.done":
                        assert event.response.status == "completed"
                        break
        assert received == SOUND
        assert kinds[:3] == ["session.created", "conversation.created", "session.updated"]
        assert kinds.count("response.video.delta") == 10
        assert "error" not in kinds
