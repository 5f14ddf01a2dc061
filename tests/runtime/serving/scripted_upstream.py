"""A Realtime endpoint that a test writes the script of, on a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    Event = dict[str, Any]

FRAME: Final = bytes(range(256)) * 7 + bytes(128)  # 40 ms at 24 kHz
DEADLINE_S: Final = 20.0
SESSION: Final[Event] = {
    "type": "realtime",
    "object": "realtime.session",
    "id": "sess_upstream",
    "model": "gpt-realtime",
    "output_modalities": ["audio"],
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000},
            "turn_detection": {"type": "server_vad", "interrupt_response": True},
        },
        "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
    },
}


@dataclass
class Upstream:
    """The endpoint: what it got, and what it says."""

    url: str = ""
    is_beta: bool = False
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers that the next handshakes get."""
    requests: list[Request] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sockets: list[ServerConnection] = field(default_factory=list)
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while the endpoint does not read its socket."""
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def socket(self) -> ServerConnection:
        return self.sockets[-1]

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, "event_id": "event_up", **fields}))

    async def until(self, kind: str, count: int = 1) -> Event:
        """Wait until `count` events of a kind have come, and return the last of them."""
        async with asyncio.timeout(DEADLINE_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[-1]

    async def connected(self, count: int) -> None:
        """Wait until the runtime has connected `count` times."""
        async with asyncio.timeout(DEADLINE_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.sockets) >= count)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    def part(self, response_id: str, item_id: str) -> Event:
        ids = {"response_id": response_id, "item_id": item_id}
        return {**ids, "output_index": 0, "content_index": 0}

    async def begin(self, response_id: str, item_id: str) -> None:
        """Start a response with one part of audio."""
        body = {"id": response_id, "object": "realtime.response", "status": "in_progress"}
        await self.say("response.created", response={**body, "output": []})
        item: Event = {"id": item_id, "object": "realtime.item", "type": "message"}
        item |= {"role": "assistant", "status": "in_progress", "content": []}
        ids = {"response_id": response_id, "output_index": 0}
        await self.say("response.output_item.added", **ids, item=item)
        added = "conversation.item.created" if self.is_beta else "conversation.item.added"
        await self.say(added, previous_item_id=None, item=item)
        part = self.part(response_id, item_id)
        await self.say("response.content_part.added", **part, part={"type": "audio"})

    async def speak(self, frames: int, response_id: str, item_id: str, text: str = "") -> None:
        """Send audio in deltas of 200 ms, after its transcript."""
        prefix = "response." if self.is_beta else "response.output_"
        part = self.part(response_id, item_id)
        if text:
            await self.say(f"{prefix}audio_transcript.delta", **part, delta=text)
        for start in range(0, frames, 5):
            delta = base64.b64encode(FRAME * min(5, frames - start)).decode()
            await self.say(f"{prefix}audio.delta", **part, delta=delta)

    async def end(self, response_id: str, item_id: str, text: str = "") -> None:
        """Complete a response."""
        prefix = "response." if self.is_beta else "response.output_"
        part = self.part(response_id, item_id)
        await self.say(f"{prefix}audio.done", **part)
        await self.say(f"{prefix}audio_transcript.done", **part, transcript=text)
        described = {"type": "audio", "transcript": text}
        await self.say("response.content_part.done", **part, part=described)
        kind = "audio" if self.is_beta else "output_audio"
        item: Event = {"id": item_id, "object": "realtime.item", "type": "message"}
        item |= {"role": "assistant", "status": "completed"}
        item["content"] = [{"type": kind, "transcript": text}]
        if not self.is_beta:
            await self.say("conversation.item.done", previous_item_id=None, item=item)
        ids = {"response_id": response_id, "output_index": 0}
        await self.say("response.output_item.done", **ids, item=item)
        body = {"id": response_id, "object": "realtime.response", "status": "completed"}
        await self.say("response.done", response={**body, "output": [item], "usage": None})

    async def answer(self, number: int, frames: int, text: str = "Hello") -> None:
        """Say a whole response."""
        ids = (f"resp_up_{number}", f"item_up_{number}")
        await self.begin(*ids)
        await self.speak(frames, *ids, text)
        await self.end(*ids, text)

    async def _serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        await self.say("session.created", session=self._session())
        async with self.arrived:
            self.arrived.notify_all()
        try:
            while True:
                await self.reads.wait()
                event = json.loads(await socket.recv())
                self.events.append(event)
                if event["type"] == "session.update":
                    session = {**self._session(), **(event["session"] if self.is_beta else {})}
                    await self.say("session.updated", session=session)
                async with self.arrived:
                    self.arrived.notify_all()
        except ConnectionClosed:
            pass

    def _session(self) -> Event:
        if not self.is_beta:
            return SESSION
        return {
            "object": "realtime.session",
            "id": "sess_upstream",
            "modalities": ["text", "audio"],
            "voice": "alloy",
            "input_audio_format": "pcm16",
            "output_audio_format": "pcm16",
            "turn_detection": {"type": "server_vad"},
        }

    def _handshake(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self.refusals:
            return None
        status, headers = self.refusals.pop(0)
        response = socket.respond(HTTPStatus(status), "no")
        for name, value in headers.items():
            response.headers[name] = value
        return response


@asynccontextmanager
async def upstream(*, is_beta: bool = False) -> AsyncIterator[Upstream]:
    """Serve a scripted upstream on a port of the loopback address."""
    made = Upstream(is_beta=is_beta)
    made.reads.set()
    async with serve(made._serve, "127.0.0.1", 0, process_request=made._handshake) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        made.url = f"ws://127.0.0.1:{port}/v1/realtime"
        yield made
