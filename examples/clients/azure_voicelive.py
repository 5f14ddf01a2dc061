"""azure-ai-voicelive: three turns of a microphone on the path of Azure Voice Live.

Usage: python azure_voicelive.py ws://127.0.0.1:8080 SPEECH.wav [video]
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import wave

from azure.ai.voicelive.aio import connect
from azure.ai.voicelive.models import AzureSemanticVad, RequestSession
from azure.core.credentials import AzureKeyCredential

TURNS = 3


async def main(server: str, path: str, *options: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    credential = AzureKeyCredential(os.environ.get("AZURE_API_KEY", "none"))
    model = os.environ.get("AVATAR_MODEL", "default/concierge")
    result = {"turns": 0, "sound_bytes": 0, "frames": 0, "errors": []}
    session = RequestSession(
        modalities=["text", "audio", *(["avatar"] if options else [])],
        input_audio_format="pcm16",
        output_audio_format="pcm16",
        turn_detection=AzureSemanticVad(),
    )
    async with connect(endpoint=server, credential=credential, model=model) as connection:
        await connection.session.update(session=session)
        speaking = asyncio.create_task(speak(connection, path))
        async for event in connection:
            if event.type == "response.audio.delta":
                result["sound_bytes"] += len(event.delta)
            elif event.type == "response.video.delta":
                result["frames"] += 1
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
