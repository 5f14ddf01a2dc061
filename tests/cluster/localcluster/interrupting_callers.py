"""Callers who interrupt the avatar at random times, and what still reaches them afterwards.

Every time is measured at the caller, from the moment at which it sends the trigger. So a figure
includes the way to the server and back, and is an upper bound of what the server adds.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.client import connect

from localcluster import live_speaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.asyncio.client import ClientConnection

MEDIA: Final = ("response.video.delta", "response.output_audio.delta")
TRIGGERS: Final = {
    "response.cancel": "response.done",
    "output_audio_buffer.clear": "output_audio_buffer.cleared",
    "conversation.item.truncate": "conversation.item.truncated",
}
"""What a caller sends, and the event that ends the answer."""


class Ask(Enum):
    """How a caller makes the avatar speak."""

    MICROPHONE = "microphone"
    """Its own audio, at the pace of a microphone."""
    BURST = "burst"
    """Its own audio, at once."""
    REQUEST = "request"
    """A text and a `response.create`: the upstream of the service has the sound."""


_CHUNK_MS: Final = 20
_ANSWER_S: Final = 4.0
"""An answer to a request is interrupted within this time; it is longer."""
_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Interruption:
    """One interruption, in seconds after the trigger was sent."""

    trigger: str
    session: str
    epoch: int
    """The epoch that it has begun."""
    sent_at: float
    """When the trigger was sent, monotonic seconds."""
    acknowledged_s: float
    """When the first event with the new epoch came."""
    last_stale_s: float | None
    """When the last media of an older epoch came; `None` if none came after the trigger."""
    closed_s: float | None
    """When the frame with the closed mouth came; `None` if the avatar had not opened it."""


@dataclass(slots=True)
class Caller:
    """What one caller saw."""

    interruptions: list[Interruption] = field(default_factory=list)
    stale_after_answer: int = 0
    """Media of an epoch that the server had reported as ended."""
    created: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    statuses: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


async def interrupt(url: str, turns: int, seed: int, *, ask: Ask) -> Caller:
    """Make the avatar of a new session speak some times, and interrupt it each time.

    Raises:
        TimeoutError: an answer has not come after 10 s.
    """
    session = _Session(random.Random(seed), live_speaker.speech())
    async with connect(f"{url}/v1/realtime", max_size=None, ping_interval=None) as socket:
        update = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        await socket.send(json.dumps({"type": "session.update", "session": update}))
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(session.read(socket))
            for _ in range(turns):
                async with asyncio.timeout(_WAIT_S):
                    await session.turn(socket, ask)
            reader.cancel()
    return session.caller


class _Session:
    """One session of a caller: the reader notes what comes, `turn` waits for it."""

    def __init__(self, chance: random.Random, speech: bytes) -> None:
        self.caller = Caller()
        self._chance = chance
        self._speech = speech
        self._changed = asyncio.Event()
        self._epoch = 1  # the highest that an event without media has named
        self._session_id = ""
        self._frames = 0  # received of the current response
        self._item_id = ""
        self._ended = ""  # the last event that ends an answer
        self._acknowledged_at: float | None = None
        self._stale_at: float | None = None
        self._closed_at: float | None = None

    async def read(self, socket: ClientConnection) -> None:
        """Note every event and when it came."""
        async for message in socket:
            self._note(json.loads(message), time.monotonic())
            self._changed.set()

    async def turn(self, socket: ClientConnection, ask: Ask) -> None:
        """Make the avatar speak, interrupt at a random time, and wait for the end of the answer."""
        self._frames = 0
        if ask is Ask.REQUEST:
            await _request(socket)
            await self._until(lambda: self._frames > 0)
            await asyncio.sleep(self._chance.uniform(0.0, _ANSWER_S))
        else:
            await self._speak(socket, is_paced=ask is Ask.MICROPHONE)
        trigger, answer = self._chance.choice(list(TRIGGERS.items()))
        was_open, self._ended = self._frames > 0, ""
        self._acknowledged_at = self._stale_at = self._closed_at = None
        sent_at, epoch = time.monotonic(), self._epoch
        await socket.send(json.dumps({"type": trigger, **self._fields(trigger)}))
        await self._until(lambda: self._ended == answer)
        if was_open:
            await self._until(lambda: self._closed_at is not None)
        assert self._acknowledged_at is not None
        assert self._epoch > epoch
        self.caller.interruptions.append(
            Interruption(
                trigger,
                self._session_id,
                self._epoch,
                sent_at,
                self._acknowledged_at - sent_at,
                None if self._stale_at is None else self._stale_at - sent_at,
                None if self._closed_at is None else self._closed_at - sent_at,
            )
        )

    async def _speak(self, socket: ClientConnection, *, is_paced: bool) -> None:
        seconds = self._chance.uniform(1.0, 4.0)
        async with asyncio.TaskGroup() as group:
            audio = self._audio(seconds)
            talk = group.create_task(_talk(socket, audio, is_paced=is_paced))
            await self._until(lambda: self._frames > 0)
            await asyncio.sleep(self._chance.uniform(0.0, seconds - 0.6))
            talk.cancel()

    def _fields(self, trigger: str) -> dict[str, Any]:
        if trigger != "conversation.item.truncate":
            return {}
        return {"item_id": self._item_id, "content_index": 0, "audio_end_ms": 0}

    def _audio(self, seconds: float) -> bytes:
        size = int(seconds * live_speaker.RATE) * 2
        start = self._chance.randrange(0, (len(self._speech) - size) // 2) * 2
        return self._speech[start : start + size]

    async def _until(self, claim: Callable[[], bool]) -> None:
        while not claim():
            self._changed.clear()
            await self._changed.wait()

    def _note(self, event: dict[str, Any], now: float) -> None:
        kind: str = event["type"]
        epoch: int = event.get("epoch", 0)  # only some events have one
        caller = self.caller
        if kind in MEDIA:
            if event.get("idle"):
                self._closed_at = now
            elif kind == "response.video.delta":
                self._frames += 1
            if not event.get("idle"):
                self._stale_at = now
            caller.stale_after_answer += epoch < self._epoch
            return
        if epoch > self._epoch:
            self._epoch, self._acknowledged_at = epoch, now
        match kind:
            case "session.created":
                self._session_id = event["session"]["id"]
            case "response.created":
                caller.created.append(event["response"]["id"])
            case "response.output_item.added":
                self._item_id = event["item"]["id"]
            case "response.done":
                caller.done.append(event["response"]["id"])
                caller.statuses.add(event["response"]["status"])
            case "error":
                caller.errors.append(event["error"]["code"])
        if kind in TRIGGERS.values():
            self._ended = kind


async def _request(socket: ClientConnection) -> None:
    content = [{"type": "input_text", "text": "Say something long."}]
    item = {"type": "message", "role": "user", "content": content}
    await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
    await socket.send('{"type":"response.create"}')


async def _talk(socket: ClientConnection, audio: bytes, *, is_paced: bool) -> None:
    size = live_speaker.RATE * _CHUNK_MS // 1000 * 2 if is_paced else len(audio)
    started_at = time.monotonic()
    for begin in range(0, len(audio), size):
        piece = audio[begin : begin + size]
        if is_paced:
            at = started_at + (begin + len(piece)) / 2 / live_speaker.RATE
            await asyncio.sleep(at - time.monotonic())
        event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()}
        await socket.send(json.dumps(event))
