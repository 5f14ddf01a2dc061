"""A Realtime endpoint that answers every `response.create` with the example speech.

It speaks the GA interface, as the upstream of a service in mode bridge. An answer comes as fast as
the connection takes it, like that of a voice model. Loud audio of the user is speech: it ends the
answer and is committed after a pause.
"""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.turn_detection import (
    WINDOW_MS,
    Boundary,
    SpeechSegmenter,
    TurnDetection,
)
from localcluster import live_speaker
from localcluster.fuzz.fakes import LevelDetector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection

    Event = dict[str, Any]

ANSWER_S: Final = 6.0
_DELTA_S: Final = 0.2
_BYTES_PER_S: Final = live_speaker.RATE * 2
_DETECTION: Final = TurnDetection()


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Serve on a free port of the loopback address; yields the URL."""
    sound = live_speaker.speech()[: int(ANSWER_S * _BYTES_PER_S)]

    async def answer(socket: ServerConnection) -> None:
        try:
            await _Session(socket, sound).run()
        except ConnectionClosed:
            pass

    async with serve(answer, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/realtime"


class _Session:
    """One session of the endpoint."""

    def __init__(self, socket: ServerConnection, sound: bytes) -> None:
        self._socket = socket
        self._sound = sound
        self._numbers = count(1)
        self._session: Event = {
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_upstream",
            "model": "answering",
            "output_modalities": ["audio"],
            "audio": {
                "input": {"turn_detection": {"type": "server_vad", "interrupt_response": True}},
                "output": {"voice": "alloy"},
            },
        }
        self._detector, self._segmenter = LevelDetector(PCM_24K), SpeechSegmenter()
        self._spoken_item = ""
        self._answer: asyncio.Task[None] | None = None
        self._response_id = ""

    async def run(self) -> None:
        """Answer until the connection closes."""
        await self._say("session.created", session=self._session)
        try:
            async for message in self._socket:
                await self._handle(json.loads(message))
        finally:
            if self._answer is not None:
                self._answer.cancel()

    async def _handle(self, event: Event) -> None:
        match event["type"]:
            case "session.update":
                self._session |= {k: v for k, v in event["session"].items() if k != "audio"}
                for part, fields in event["session"].get("audio", {}).items():
                    self._session["audio"][part] |= fields
                await self._say("session.updated", session=self._session)
            case "input_audio_buffer.append":
                await self._listen(base64.b64decode(event["audio"]))
            case "conversation.item.create":
                await self._add_item({"id": f"item_t{next(self._numbers)}", **event["item"]})
            case "conversation.item.truncate":
                fields = {k: event[k] for k in ("item_id", "content_index", "audio_end_ms")}
                await self._say("conversation.item.truncated", **fields)
            case "response.create":
                await self._end_answer("cancelled")
                self._answer = asyncio.create_task(self._speak(next(self._numbers)))
            case "response.cancel":
                await self._end_answer("cancelled")

    async def _listen(self, audio: bytes) -> None:
        for probability in self._detector.append(audio):
            boundary = self._segmenter.push(probability, _DETECTION)
            at_ms = self._segmenter.windows * WINDOW_MS
            if boundary is Boundary.START:
                self._spoken_item = f"item_u{next(self._numbers)}"
                fields = {"audio_start_ms": at_ms, "item_id": self._spoken_item}
                await self._say("input_audio_buffer.speech_started", **fields)
                await self._end_answer("cancelled")
            elif boundary is Boundary.STOP:
                ids = {"item_id": self._spoken_item}
                await self._say("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, **ids)
                await self._say("input_audio_buffer.committed", previous_item_id=None, **ids)
                item = {"id": self._spoken_item, "type": "message", "role": "user", "content": []}
                await self._add_item(item)

    async def _add_item(self, item: Event) -> None:
        item = {"object": "realtime.item", "status": "completed", **item}
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._say(kind, previous_item_id=None, item=item)

    async def _speak(self, number: int) -> None:
        response_id, item_id = f"resp_{number}", f"item_a{number}"
        self._response_id = response_id
        await self._say("response.created", response=_response(response_id, "in_progress", []))
        item: Event = {"id": item_id, "object": "realtime.item", "type": "message"}
        item |= {"role": "assistant", "status": "in_progress", "content": []}
        ids: Event = {"response_id": response_id, "output_index": 0}
        await self._say("response.output_item.added", **ids, item=item)
        await self._say("conversation.item.added", previous_item_id=None, item=item)
        part: Event = {**ids, "item_id": item_id, "content_index": 0}
        await self._say("response.content_part.added", **part, part={"type": "audio"})
        size = int(_DELTA_S * _BYTES_PER_S)
        for start in range(0, len(self._sound), size):
            delta = base64.b64encode(self._sound[start : start + size]).decode()
            await self._say("response.output_audio.delta", **part, delta=delta)
        await self._say("response.output_audio.done", **part)
        await self._say("response.content_part.done", **part, part={"type": "audio"})
        item |= {"status": "completed", "content": [{"type": "output_audio", "transcript": ""}]}
        await self._say("conversation.item.done", previous_item_id=None, item=item)
        await self._say("response.output_item.done", **ids, item=item)
        await self._say("response.done", response=_response(response_id, "completed", [item]))

    async def _end_answer(self, status: str) -> None:
        task, self._answer = self._answer, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
            await self._say("response.done", response=_response(self._response_id, status, []))

    async def _say(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self._numbers)}", **fields}
        await self._socket.send(json.dumps(event))


def _response(response_id: str, status: str, output: list[Event]) -> Event:
    document: Event = {"id": response_id, "object": "realtime.response", "status": status}
    return {**document, "output": output, "usage": None}
