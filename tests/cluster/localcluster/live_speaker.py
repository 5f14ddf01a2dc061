"""Callers with microphones, and how far the avatar is behind them.

The microphone is exact: sample n is captured n / rate seconds after the start, and each chunk is
sent when its last sample is captured. If the socket takes nothing for a while, the chunks that are
overdue follow at once, as from a browser.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time
import wave
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from websockets.asyncio.client import connect

from localcluster import paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.asyncio.client import ClientConnection

RATE: Final = 24_000
FRAME_S: Final = 0.04
_SPEECH: Final = paths.REPOSITORY / "examples" / "speech.wav"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One piece of media at the caller."""

    at_s: float
    """Seconds since the microphone started."""
    behind_s: float
    """Seconds since the first sample of the media was captured."""


@dataclass(slots=True)
class Caller:
    """What one caller saw."""

    frames: list[Arrival] = field(default_factory=list)
    sound: list[Arrival] = field(default_factory=list)
    dropped: int = 0
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    audio_is_intact: bool = True
    """Whether the sound that came back is the sound that was sent, byte for byte."""
    done: dict[str, Any] | None = None
    """The `response.video.done` event."""
    received_bytes: int = 0

    def behind_s(self, since_s: float, until_s: float = float("inf")) -> Sequence[float]:
        """Return how far the frames that arrived in a period were behind the microphone."""
        return [frame.behind_s for frame in self.frames if since_s <= frame.at_s < until_s]


async def stop_process(pid: int, after_s: float, for_s: float) -> None:
    """Stop a process for a while, as a node that does not schedule it."""
    await asyncio.sleep(after_s)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(for_s)
    finally:
        os.kill(pid, signal.SIGCONT)


async def speak(
    url: str, seconds: float, *, chunk_ms: int = 20, finish_s: float = 60.0, sound: bytes = b""
) -> Caller:
    """Speak one utterance of some seconds into a new session, and return what came back.

    Raises:
        TimeoutError: the response has not ended `finish_s` after the utterance.
    """
    caller = Caller()
    pcm = sound or speech()
    async with connect(f"{url}/v1/realtime", max_size=None, ping_interval=None) as socket:
        async with asyncio.TaskGroup() as group:
            started_at = time.monotonic()
            reader = group.create_task(_read(socket, caller, pcm, started_at))
            await _talk(socket, pcm, seconds, chunk_ms, started_at)
            async with asyncio.timeout(finish_s):
                await reader
    return caller


def speech() -> bytes:
    """Return the example speech as PCM16 mono at `RATE`."""
    with wave.open(str(_SPEECH)) as file:
        rate, pcm = file.getframerate(), bytes(file.readframes(file.getnframes()))
    if rate == RATE:
        return pcm
    samples = np.frombuffer(pcm, "<i2")
    at = np.arange(0, len(samples), rate / RATE)
    return bytes(np.interp(at, np.arange(len(samples)), samples).astype("<i2").tobytes())


async def _talk(
    socket: ClientConnection, pcm: bytes, seconds: float, chunk_ms: int, started_at: float
) -> None:
    size = RATE * chunk_ms // 1000 * 2
    total = int(seconds * RATE) * 2
    # All of the audio is one utterance, whatever silence is in it.
    session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    await socket.send(json.dumps({"type": "session.update", "session": session}))
    for begin in range(0, total, size):
        end = min(begin + size, total)
        await asyncio.sleep(started_at + end / 2 / RATE - time.monotonic())
        audio = base64.b64encode(_looped(pcm, begin, end)).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    await socket.send('{"type":"input_audio_buffer.commit"}')


async def _read(socket: ClientConnection, caller: Caller, pcm: bytes, started_at: float) -> None:
    async for message in socket:
        at_s = time.monotonic() - started_at
        event = json.loads(message)
        match event["type"]:
            case "response.video.delta":
                caller.frames.append(Arrival(at_s, at_s - event["pts_ms"] / 1000))
            case "response.output_audio.delta":
                caller.sound.append(Arrival(at_s, at_s - event["pts_ms"] / 1000))
                data = base64.b64decode(event["delta"])
                end = caller.received_bytes + len(data)
                caller.audio_is_intact &= data == _looped(pcm, caller.received_bytes, end)
                caller.received_bytes = end
            case "response.video.dropped":
                caller.dropped += event["last_frame_index"] - event["first_frame_index"] + 1
            case "warning":
                caller.warnings.append(event["warning"]["code"])
            case "error":
                caller.errors.append(event["error"]["code"])
            case "response.video.done":
                caller.done = event
            case "response.done":
                return


def _looped(pcm: bytes, begin: int, end: int) -> bytes:
    """Return a part of the endless repetition of `pcm`."""
    first = begin % len(pcm)
    repeated = pcm[first:] + pcm * ((end - begin) // len(pcm) + 1)
    return repeated[: end - begin]
