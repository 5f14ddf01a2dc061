"""Let an avatar speak a sound file, and save the frames.

    export AVATAR_API_KEY=...
    python examples/talk.py ws://127.0.0.1:8080 acme/concierge examples/speech.wav

The library controls the timing. Your own program calls `Session.append` with audio from a
microphone or a voice model, and shows each frame when it arrives.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from avatar_client import record, session, sound


async def talk(url: str, model: str, audio: Path) -> None:
    """Run one session: send the audio, and write the received frames."""
    target = session.Target(url, model, key=os.environ.get("AVATAR_API_KEY", ""))
    async with session.connect(target) as avatar:
        print(f"session {avatar.trace.session_id} is open")
        await avatar.update({"avatar": {"video": {"mode": "jpeg", "quality": 90}}})
        response = await avatar.speak(sound.read(audio))

    print(f"{len(response.frames)} frames for {response.audio_ms:.0f} ms of sound")
    video = Path(audio.stem).with_suffix(".mp4")
    recording = record.write_mp4([response], video)
    print(f"wrote {video}: {recording.fps:g} frames a second")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    asyncio.run(talk(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
