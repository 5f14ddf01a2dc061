"""livekit-plugins-openai: three turns of a microphone with a RealtimeModel of default settings.

Usage: python livekit_openai.py ws://127.0.0.1:8080 SPEECH.wav
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import wave

import aiohttp
from livekit import rtc
from livekit.plugins import openai

TURNS = 3


async def main(server: str, path: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    result = {"turns": 0, "sound_bytes": 0, "errors": []}
    turns: asyncio.Queue = asyncio.Queue()
    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(
            model=os.environ.get("AVATAR_MODEL", "default/concierge"),
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            base_url=f"{server}/v1",
            http_session=http,
        )
        session = model.session()
        session.on("generation_created", turns.put_nowait)
        session.on("error", lambda error: result["errors"].append(str(error)))
        speaking = asyncio.create_task(speak(session, path))
        while result["turns"] < TURNS:
            turn = await turns.get()
            async for message in turn.message_stream:
                async for frame in message.audio_stream:
                    result["sound_bytes"] += len(frame.data.tobytes())
            result["turns"] += 1
        speaking.cancel()
        await session.aclose()
    print(json.dumps(result))


async def speak(session, path: str) -> None:
    """Send a file as a microphone does: in pieces of 100 ms, and then silence."""
    with wave.open(path) as file:
        while True:
            audio = file.readframes(2400) or bytes(4800)
            session.push_audio(rtc.AudioFrame(audio, 24000, 1, len(audio) // 2))
            await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
