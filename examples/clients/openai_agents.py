"""openai-agents for Python: three turns of a microphone with an agent of default settings.

Usage: python openai_agents.py ws://127.0.0.1:8080 SPEECH.wav
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import wave

from agents.realtime import RealtimeAgent, RealtimeRunner

TURNS = 3


async def main(server: str, path: str) -> None:
    """Speak a file of 24 kHz, and print how many turns were answered."""
    agent = RealtimeAgent(name="Concierge", instructions="Repeat what you hear.")
    model = os.environ.get("AVATAR_MODEL", "default/concierge")
    config = {
        "api_key": os.environ.get("OPENAI_API_KEY", "none"),
        "url": f"{server}/v1/realtime?model={model}",
    }
    result = {"turns": 0, "sound_bytes": 0, "errors": []}
    async with await RealtimeRunner(agent).run(model_config=config) as session:
        speaking = asyncio.create_task(speak(session, path))
        async for event in session:
            if event.type == "audio":
                result["sound_bytes"] += len(event.audio.data)
            elif event.type == "error":
                result["errors"].append(str(event.error))
            elif event.type == "agent_end":
                result["turns"] += 1
                if result["turns"] == TURNS:
                    break
        speaking.cancel()
    print(json.dumps(result))


async def speak(session, path: str) -> None:
    """Send a file as a microphone does: in pieces of 100 ms, and then silence."""
    with wave.open(path) as file:
        while True:
            await session.send_audio(file.readframes(2400) or bytes(4800))
            await asyncio.sleep(0.1)


asyncio.run(main(*sys.argv[1:]))
