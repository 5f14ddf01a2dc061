"""openai for Python before 2.0, through its beta interface: three turns of a microphone.

Usage: python openai_python_beta.py ws://127.0.0.1:8080 SPEECH.wav
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import wave

from openai import AsyncOpenAI

TURNS = 3


async def main(server: str, path: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = AsyncOpenAI(api_key=key, websocket_base_url=f"{server}/v1")
    result = {"turns": 0, "sound_bytes": 0, "errors": []}
    model = os.environ.get("AVATAR_MODEL", "default/concierge")
    async with client.beta.realtime.connect(model=model) as connection:
        session = {"turn_detection": {"type": "server_vad"}, "modalities": ["text", "audio"]}
        await connection.session.update(session=session)
        speaking = asyncio.create_task(speak(connection, path))
        async for event in connection:
            if event.type == "response.audio.delta":
                result["sound_bytes"] += len(base64.b64decode(event.delta))
            elif event.type == "error":
                result["errors"].append(event.error.message)
            elif event.type == "response.done":
                result["turns"] += event.response.status == "completed"
                if result["turns"] == TURNS:
                    break
        speaking.cancel()
    print(json.dumps(result))


async def speak(connection, path: str) -> None:
    """Send a file as a microphone does: in pieces of 100 ms, and then silence."""
    with wave.open(path) as file:
        while True:
            audio = file.readframes(2400) or bytes(4800)
            await connection.input_audio_buffer.append(audio=base64.b64encode(audio).decode())
            await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
