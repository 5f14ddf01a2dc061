"""livekit-plugins-openai: three turns that the program ends itself, each with generate_reply.

Usage: python livekit_push_to_talk.py ws://127.0.0.1:8080 SPEECH.wav
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
    """Speak a file of 24 kHz in three parts, and print how many replies were found."""
    result = {"turns": 0, "sound_bytes": 0, "errors": []}
    answers: asyncio.Queue = asyncio.Queue()
    async with aiohttp.ClientSession() as http:
        model = openai.realtime.RealtimeModel(
            model=os.environ.get("AVATAR_MODEL", "default/concierge"),
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            base_url=f"{server}/v1",
            turn_detection=None,
            http_session=http,
        )
        session = model.session()
        session.on("generation_created", answers.put_nowait)
        session.on("error", lambda error: result["errors"].append(str(error)))
        with wave.open(path) as file:
            for _ in range(TURNS):
                await speak(session, file.readframes(file.getnframes() // TURNS))
                session.commit_audio()
                # The answer to the audio has started already: the reply follows it, and is empty.
                reply = await session.generate_reply()
                result["turns"] += reply.user_initiated
                while not answers.empty():
                    async for message in answers.get_nowait().message_stream:
                        async for frame in message.audio_stream:
                            result["sound_bytes"] += len(frame.data.tobytes())
        await session.aclose()
    print(json.dumps(result))


async def speak(session, sound: bytes) -> None:
    """Send sound as a microphone does, in pieces of 100 ms."""
    for begin in range(0, len(sound), 4800):
        audio = sound[begin : begin + 4800]
        session.push_audio(rtc.AudioFrame(audio, 24000, 1, len(audio) // 2))
        await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
