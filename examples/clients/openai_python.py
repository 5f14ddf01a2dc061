"""openai for Python: three turns of a microphone, with the session that the server gives.

Usage: python openai_python.py ws://127.0.0.1:8080 SPEECH.wav [server_vad]
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


async def main(server: str, path: str, *options: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = AsyncOpenAI(api_key=key, websocket_base_url=f"{server}/v1")
    result = {"turns": 0, "sound_bytes": 0, "errors": []}
    model = os.environ.get("AVATAR_MODEL", "default/concierge")
    async with client.realtime.connect(model=model) as connection:
        if options:
            turn_detection = {"type": options[0]}
            await connection.session.update(
                session={"type": "realtime", "audio": {"input": {"turn_detection": turn_detection}}}
            )
        speaking = asyncio.create_task(speak(connection, path))
        async for event in connection:
            if event.type == "response.output_audio.delta":
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
