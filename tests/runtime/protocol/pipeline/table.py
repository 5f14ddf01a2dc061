"""A session in mode speech whose endpoints a test plays, in virtual time."""

from __future__ import annotations

import array
import base64
import json
from typing import TYPE_CHECKING, Any

from tests.runtime.protocol.conftest import FakeDetector, FakeUtterance

from avatar_client.traces import Trace
from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
from avatar_runtime.protocol.pipeline.legs import (
    ChatRequest,
    LegFailure,
    LegRequest,
    SpeechRequest,
    TranscriptionRequest,
)
from avatar_runtime.protocol.pipeline.mode import Pipeline
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig
from avatar_runtime.protocol.turn_detection import TurnDetection

if TYPE_CHECKING:
    from collections.abc import Mapping

RATE = 24000
FRAME = bytes(2 * 960)
TRANSCRIPT = "response.output_audio_transcript.delta"


class Table:
    """One session; `serve` answers all requests at once, and `requests` only collects them."""

    def __init__(self, options: PipelineOptions | None = None) -> None:
        self.now = 1000.0
        self.events: list[dict[str, Any]] = []
        self.asked: list[LegRequest] = []
        self.trace = Trace(keep_media=True)
        self.answer = "I am fine. And you?"
        """What the chat endpoint answers."""
        self.transcript = "How are you?"
        characters = {"anna": Character("anna", 64, 64)}
        self.mode: Pipeline[Any]
        self.session: Session[Any] = Session(
            SessionConfig(characters["anna"], turn_detection=TurnDetection()),
            characters,
            ReadOnlyFields("sess_0a", "acme/concierge", 1_800_000_000, 25),
            limits=SessionLimits(7200.0, 300.0),
            open_utterance=FakeUtterance,
            open_detector=FakeDetector,
            now=self.now,
            open_mode=lambda parts: self._open(parts, options or PipelineOptions()),
        )
        self.pull()

    def _open(self, parts: Any, options: PipelineOptions) -> Pipeline[Any]:
        self.mode = Pipeline(parts, options)
        return self.mode

    @property
    def dialogue(self) -> Any:
        return self.mode.dialogue

    # The client

    def send(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        self.session.receive(json.dumps({"type": kind, **fields}), self.now)
        while self.session.listen(self.now):
            pass
        return self.pull()

    def write(self, text: str, role: str = "user") -> list[dict[str, Any]]:
        kind = "output_text" if role == "assistant" else "input_text"
        item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
        return self.send("conversation.item.create", item=item)

    def say(self, text: str, **response: Any) -> None:
        self.write(text)
        self.send("response.create", **({"response": response} if response else {}))

    def speak(self, seconds: float = 1.0, level: int = 5000) -> None:
        """Send the sound of a microphone: speech or silence, at its pace."""
        for _ in range(round(seconds * 10)):
            audio = array.array("h", [level, -level] * (RATE // 20)).tobytes()
            self.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())
            self.run(0.1)

    def pull(self) -> list[dict[str, Any]]:
        taken = []
        while (outgoing := self.session.pull(self.now)) is not None:
            event = json.loads(outgoing.message)
            self.trace.receive(event, self.now)
            taken.append(event)
        self.events += taken
        return taken

    # The engine

    def make(self) -> list[dict[str, Any]]:
        for frame in list(self.session.due(self.now)):
            self.session.deliver(
                frame.response_ref, frame.epoch, frame.frame_index, b"jpeg", self.now
            )
        return self.pull()

    def run(self, seconds: float, *, serves: bool = False) -> list[dict[str, Any]]:
        taken = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.02
            self.session.tick(self.now)
            if serves:
                self.serve()
            taken += self.make()
        return taken

    # The endpoints

    def requests(self) -> list[LegRequest]:
        taken = self.dialogue.take_requests(self.now)
        self.asked += taken
        return list(taken)

    def request(self) -> Any:
        """Return the one request that is new."""
        (request,) = self.requests()
        return request

    def sound(self, request: Any, frames: float = 10) -> None:
        self.dialogue.receive_sound(request.id, bytes(int(960 * frames) * 2), self.now)

    def end(self, request: Any) -> None:
        self.dialogue.receive_end(request.id, self.now)

    def fail(self, request: Any, leg: str, status: int | None = None) -> None:
        message = f"the {leg} endpoint answered with status {status}"
        self.dialogue.receive_failure(request.id, LegFailure(leg, message, status), self.now)

    def serve(self) -> None:
        """Answer all requests, and those that follow from them."""
        while requests := self.requests():
            for request in requests:
                match request:
                    case SpeechRequest():
                        self.sound(request)
                    case ChatRequest():
                        for word in self.answer.split(" "):
                            self.dialogue.receive_text(request.id, f"{word} ", self.now)
                    case TranscriptionRequest():
                        self.dialogue.receive_transcript(request.id, self.transcript)
                        continue
                self.end(request)

    # What the client got

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def speechless(self) -> bool:
        """Whether no response waits or is spoken."""
        return self.session.mode.speech.is_quiet

    @property
    def ended(self) -> list[str]:
        return [event["response"]["status"] for event in self.of("response.done")]

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.asked if isinstance(each, SpeechRequest)]

    @property
    def messages(self) -> list[tuple[Mapping[str, str], ...]]:
        return [each.messages for each in self.asked if isinstance(each, ChatRequest)]
