"""semantic-kernel: three turns of a microphone with its WebSocket client.

Usage: python semantic_kernel_realtime.py ws://127.0.0.1:8080 SPEECH.wav
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import wave

from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIRealtimeExecutionSettings,
    OpenAIRealtimeWebsocket,
)
from semantic_kernel.contents import AudioContent, RealtimeAudioEvent

TURNS = 3


async def main(server: str, path: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = OpenAIRealtimeWebsocket(
        ai_model_id=os.environ.get("AVATAR_MODEL", "default/concierge"),
        client=AsyncOpenAI(api_key=key, websocket_base_url=f"{server}/v1"),
    )
    result = {"turns": 0, "sound_bytes": 0, "errors": []}
    settings = OpenAIRealtimeExecutionSettings(instructions="Repeat what you hear.", voice="alloy")
    async with client(settings=settings, create_response=False):
        speaking = asyncio.create_task(speak(client, path))
        async for event in client.receive():
            if isinstance(event, RealtimeAudioEvent):
                result["sound_bytes"] += len(base64.b64decode(event.service_event.delta))
            elif event.service_type == "error":
                result["errors"].append(event.service_event.error.message)
            elif event.service_type == "response.done":
                result["turns"] += event.service_event.response.status == "completed"
                if result["turns"] == TURNS:
                    break
        speaking.cancel()
    print(json.dumps(result))


async def speak(client, path: str) -> None:
    """Send a file as a microphone does: in pieces of 100 ms, and then silence."""
    with wave.open(path) as file:
        while True:
            audio = base64.b64encode(file.readframes(2400) or bytes(4800)).decode()
            content = AudioContent(data=audio, data_format="base64", mime_type="audio/pcm")
            await client.send(RealtimeAudioEvent(audio=content))
            await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
