"""Speak a sound file through an avatar and save the talking face.

    export AVATAR_API_KEY=...
    python examples/talk.py ws://127.0.0.1:8080 acme/concierge examples/speech.wav

The library does the timing; a user's own program would feed `Session.append` from a
microphone or a voice model, and show each picture as it comes in.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from avatar_client import record, session, sound


async def talk(url: str, model: str, audio: Path) -> None:
    """Hold one session: say the sound, and write what came back beside it."""
    target = session.Target(url, model, key=os.environ.get("AVATAR_API_KEY", ""))
    async with session.connect(target) as avatar:
        print(f"session {avatar.trace.session_id} is open")
        await avatar.update({"avatar": {"video": {"mode": "jpeg", "quality": 90}}})
        response = await avatar.speak(sound.read(audio))

    print(f"{len(response.pictures)} pictures for {response.audio_ms:.0f} ms of sound")
    video = Path(audio.stem).with_suffix(".mp4")
    recording = record.write_mp4([response], video)
    print(f"wrote {video}: {recording.fps:g} pictures a second")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(talk(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
