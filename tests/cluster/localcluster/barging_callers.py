"""Callers who speak into the answer of the avatar: the server finds the speech and interrupts.

The microphone never stops. It delivers a sentence, then silence until the avatar has answered for a
while, then the next sentence, which interrupts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import connect

from localcluster import live_speaker

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_CHUNK_MS: Final = 20
_CHUNK_BYTES: Final = live_speaker.RATE * _CHUNK_MS // 1000 * 2
_SENTENCES_S: Final = ((1.8, 4.2), (5.0, 7.2))
"""Parts of the example speech without a pause."""
_WAIT_S: Final = 20.0
_MEDIA: Final = ("response.video.delta", "response.output_audio.delta")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the epoch, which the speech of a caller has caused."""

    session: str
    epoch: int
    last_media_at: float
    """When the last media of an older epoch came before it, monotonic seconds."""


@dataclass(slots=True)
class Caller:
    """What one caller saw, in seconds after `input_audio_buffer.speech_started` came."""

    stale_after_s: list[float] = field(default_factory=list)
    """When media of the epoch before came."""
    acknowledged_s: list[float] = field(default_factory=list)
    closed_s: list[float] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    stale_after_answer: int = 0
    created: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why each response ended that was interrupted."""
    errors: list[str] = field(default_factory=list)


async def barge_in(url: str, interruptions: int, seed: int) -> Caller:
    """Interrupt the avatar of a new session by speech, some times.

    Raises:
        TimeoutError: an answer has not come after 20 s.
    """
    session = _Session(random.Random(seed))
    async with connect(f"{url}/v1/realtime", max_size=None, ping_interval=None) as socket:
        # The answer comes on request, after the sentence, as it does from a voice model.
        detection = {"type": "server_vad", "create_response": False}
        update = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        await socket.send(json.dumps({"type": "session.update", "session": update}))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(session.read(socket)),
                group.create_task(session.listen(socket)),
            ]
            for _ in range(interruptions):
                async with asyncio.timeout(_WAIT_S):
                    await session.interrupt(socket)
            for task in tasks:
                task.cancel()
    return session.caller


class _Session:
    def __init__(self, chance: random.Random) -> None:
        self.caller = Caller()
        self._chance = chance
        self._speech = live_speaker.speech()
        self._sentence = bytearray()  # what the microphone has not delivered
        self._changed = asyncio.Event()
        self._epoch = 1
        self._session_id = ""
        self._media_at = 0.0  # when the last media came
        self._events: set[str] = set()  # kinds that came since `_forget`
        self._started_at: float | None = None
        self._is_acknowledged = False

    async def listen(self, socket: ClientConnection) -> None:
        """Send what the microphone delivers, at its pace."""
        at = time.monotonic()
        while True:
            piece = bytes(self._sentence[:_CHUNK_BYTES]).ljust(_CHUNK_BYTES, b"\0")
            del self._sentence[:_CHUNK_BYTES]
            audio = base64.b64encode(piece).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            at += _CHUNK_MS / 1000
            await asyncio.sleep(at - time.monotonic())

    async def read(self, socket: ClientConnection) -> None:
        """Note every event and when it came."""
        async for message in socket:
            self._note(json.loads(message), time.monotonic())
            self._changed.set()

    async def interrupt(self, socket: ClientConnection) -> None:
        """Speak, let the avatar answer, and speak into its answer."""
        if "input_audio_buffer.speech_started" not in self._events:
            self._speak()
        await self._until("input_audio_buffer.committed")
        self._events.clear()
        self._started_at, self._is_acknowledged = None, False
        await socket.send('{"type":"response.create"}')
        await self._until("response.video.delta")
        await asyncio.sleep(self._chance.uniform(0.0, 0.8))
        self._events.clear()
        self._speak()
        await self._until("output_audio_buffer.cleared")
        if self.caller.reasons[-1] != "completed":  # its last frame has a closed mouth
            await self._until("closed mouth")

    def _speak(self) -> None:
        bounds = self._chance.choice(_SENTENCES_S)
        begin, end = (int(bound_s * live_speaker.RATE) * 2 for bound_s in bounds)
        self._sentence += self._speech[begin:end]

    async def _until(self, kind: str) -> None:
        while kind not in self._events:
            self._changed.clear()
            await self._changed.wait()

    def _note(self, event: dict[str, Any], now: float) -> None:
        kind: str = event["type"]
        epoch: int = event.get("epoch", 0)
        caller = self.caller
        self._events.add("closed mouth" if event.get("idle") else kind)
        since_s = 0.0 if self._started_at is None else now - self._started_at
        if kind in _MEDIA:
            caller.stale_after_answer += epoch < self._epoch
            if not event.get("idle"):
                self._media_at = now
            if event.get("idle"):
                caller.closed_s.append(since_s)
            elif self._started_at is not None and not self._is_acknowledged:
                caller.stale_after_s.append(since_s)
        elif epoch > self._epoch:
            self._epoch, self._is_acknowledged = epoch, True
            caller.acknowledged_s.append(since_s)
            caller.changes.append(Change(self._session_id, epoch, self._media_at))
        match kind:
            case "session.created":
                self._session_id = event["session"]["id"]
            case "input_audio_buffer.speech_started":
                self._started_at = now
            case "output_audio_buffer.cleared":
                self._started_at = self._started_at or now
            case "response.created":
                caller.created.append(event["response"]["id"])
            case "response.done":
                caller.done.append(event["response"]["id"])
                details = event["response"]["status_details"] or {}
                caller.reasons.append(details.get("reason") or event["response"]["status"])
            case "error":
                caller.errors.append(event["error"]["code"])
