"""A session in mode bridge, driven by a test as its client, its upstream and its engine."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter, ValidationError

from avatar_client.traces import Trace
from avatar_runtime.audio.rate_conversion import PcmRateConverter
from avatar_runtime.protocol.bridge.link_state import UpstreamFault
from avatar_runtime.protocol.bridge.mode import Bridge
from avatar_runtime.protocol.bridge.upstream_side import BridgeOptions
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig
from avatar_runtime.protocol.turn_detection import TurnDetection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.strict_fields import StrictFields

    Event = dict[str, Any]
    Connect = Callable[..., "BridgeDriver"]

OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
FRAME = bytes(2 * 960)
LOST = UpstreamFault("upstream_unavailable", "the upstream closed the connection with code 1011")
SESSION: Event = {
    "type": "realtime",
    "object": "realtime.session",
    "id": "sess_upstream",
    "model": "gpt-realtime",
    "instructions": "Be kind.",
    "output_modalities": ["audio"],
    "tools": [],
    "client_secret": {"value": "ek_secret"},
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000},
            "turn_detection": {"type": "server_vad", "interrupt_response": True},
        },
        "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
    },
}


class FakeWindow:
    def __init__(self, frame_index: int) -> None:
        self.frame_index = frame_index


class FakeUtterance:
    """One window per frame, complete with the audio up to 120 ms after the start of the frame."""

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._samples = self._taken = 0
        self._finished = False

    def append(self, data: bytes) -> None:
        self._samples += len(data) // self._audio.bytes_per_sample

    def finish(self) -> None:
        self._finished = True

    def take(self) -> Sequence[FakeWindow]:
        per_frame = self._audio.samples_per_frame(25)
        ready = -(-self._samples // per_frame) if self._finished else self._samples // per_frame - 2
        first, self._taken = self._taken, max(self._taken, ready)
        return [FakeWindow(index) for index in range(first, self._taken)]

    def export(self, windows: Sequence[Any]) -> dict[str, object]:
        raise AssertionError("these sessions stay where they are")

    def restore(self, fields: StrictFields) -> Sequence[Any]:
        raise AssertionError("these sessions stay where they are")


def no_detector(audio: AudioFormat) -> Any:
    raise AssertionError("the upstream finds the speech")


class BridgeDriver:
    """Virtual time; the engine is always in time."""

    def __init__(self, *, is_beta: bool = False, rates: tuple[int, int] = (24000, 24000)) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.sent: list[Event] = []
        self.trace = Trace(keep_media=True)
        self.bridge: Bridge[Any]
        self._options = BridgeOptions(PcmRateConverter, is_beta, *rates)
        characters = {name: Character(name, 64, 64) for name in ("anna", "ben")}
        self.session: Session[Any] = Session(
            SessionConfig(characters["anna"], turn_detection=TurnDetection()),
            characters,
            ReadOnlyFields("sess_0a", "acme/concierge", 1_800_000_000, 25),
            limits=SessionLimits(7200.0, 300.0),
            open_utterance=FakeUtterance,
            open_detector=no_detector,
            now=self.now,
            open_mode=self._open,
        )

    def _open(self, parts: Any) -> Bridge[Any]:
        self.bridge = Bridge(parts, self._options, self.now)
        return self.bridge

    # The upstream

    def connect(self) -> None:
        at = self.bridge.upstream.link.connects_at
        assert at is not None
        self.now = max(self.now, at)
        self.bridge.upstream.link.connect()
        self.bridge.upstream.link.opened()

    def greet(self, session: Event | None = None) -> list[Event]:
        """Connect, greet and answer the first update; return what the client gets."""
        self.connect()
        got = self.upstream("session.created", session=session or SESSION)
        (update,) = self.requests()[:1]
        assert update["type"] == "session.update"
        return got + self.upstream("session.updated", session=session or SESSION)

    def upstream(self, kind: str, **fields: Any) -> list[Event]:
        """Receive an event of the upstream and return what the client gets."""
        event = {"type": kind, "event_id": "event_of_upstream", **fields}
        fault = self.bridge.upstream.receive(json.dumps(event), self.now)
        assert fault is None
        return self.pull()

    def lose(self, fault: UpstreamFault = LOST) -> list[Event]:
        self.bridge.upstream.lose(fault, self.now, 0.5)
        return self.pull()

    def requests(self) -> list[Event]:
        """Return what the upstream gets."""
        taken = []
        while (text := self.bridge.upstream.pull()) is not None:
            taken.append(json.loads(text))
        self.sent += taken
        return taken

    def respond(self, response_id: str = "resp_u1", item_id: str = "item_u1") -> None:
        """Start a response with one part of audio."""
        body: Event = {"id": response_id, "object": "realtime.response", "status": "in_progress"}
        self.upstream("response.created", response={**body, "output": []})
        item: Event = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
        }
        item |= {"role": "assistant", "status": "in_progress", "content": []}
        self.upstream(
            "response.output_item.added", response_id=response_id, output_index=0, item=item
        )
        self.upstream("conversation.item.added", previous_item_id=None, item=item)
        ids = self.part(response_id, item_id)
        self.upstream("response.content_part.added", **ids, part={"type": "audio"})

    def part(self, response_id: str = "resp_u1", item_id: str = "item_u1") -> Event:
        ids = {"response_id": response_id, "item_id": item_id}
        return {**ids, "output_index": 0, "content_index": 0}

    def speak(self, frames: int, response_id: str = "resp_u1", item_id: str = "item_u1") -> None:
        delta = base64.b64encode(FRAME * frames).decode()
        ids = self.part(response_id, item_id)
        self.upstream("response.output_audio.delta", **ids, delta=delta)

    def say(self, text: str, response_id: str = "resp_u1", item_id: str = "item_u1") -> list[Event]:
        kind = "response.output_audio_transcript.delta"
        return self.upstream(kind, **self.part(response_id, item_id), delta=text)

    def complete(self, response_id: str = "resp_u1", item_id: str = "item_u1") -> None:
        """End a response as OpenAI does."""
        ids = self.part(response_id, item_id)
        part = {"type": "audio", "transcript": "Hello"}
        self.upstream("response.output_audio.done", **ids)
        self.upstream("response.output_audio_transcript.done", **ids, transcript="Hello")
        self.upstream("response.content_part.done", **ids, part=part)
        content = [{"type": "output_audio", "transcript": "Hello"}]
        item: Event = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
        }
        item |= {"role": "assistant", "status": "completed", "content": content}
        self.upstream("conversation.item.done", previous_item_id=None, item=item)
        self.upstream(
            "response.output_item.done", response_id=response_id, output_index=0, item=item
        )
        body: Event = {"id": response_id, "object": "realtime.response", "status": "completed"}
        usage = {"total_tokens": 7, "input_tokens": 3, "output_tokens": 4}
        self.upstream("response.done", response={**body, "output": [item], "usage": usage})

    # The client

    def send(self, kind: str, **fields: Any) -> list[Event]:
        self.session.receive(json.dumps({"type": kind, **fields}), self.now)
        return self.pull()

    def update(self, **session: Any) -> list[Event]:
        return self.send("session.update", session={"type": "realtime", **session})

    def append(self, audio: bytes) -> list[Event]:
        return self.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())

    def pull(self) -> list[Event]:
        taken = []
        while (outgoing := self.session.pull(self.now)) is not None:
            event = json.loads(outgoing.message)
            self.trace.receive(event, self.now)
            taken.append(event)
        self.events += taken
        return taken

    def run(self, seconds: float) -> list[Event]:
        taken: list[Event] = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.02
            self.session.tick(self.now)
            for frame in list(self.session.due(self.now)):
                self.session.deliver(
                    frame.response_ref, frame.epoch, frame.frame_index, b"jpeg", self.now
                )
            taken += self.pull()
        return taken

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    def check(self) -> None:
        """Check all events: the guarantees of the protocol, and the official types."""
        assert self.trace.violations == []
        for event in self.events:
            if not event["type"].startswith(("response.video", "session.avatar", "warning")):
                try:
                    OFFICIAL.validate_json(json.dumps(event), strict=True)
                except ValidationError as error:
                    pytest.fail(f"no official type has this form: {event} {error}")


@pytest.fixture(scope="session")
def bridge() -> Connect:
    """Give the maker of a driver."""
    return BridgeDriver
