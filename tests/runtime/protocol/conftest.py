"""A session with fake utterances and a fake engine, driven by a test in virtual time."""

from __future__ import annotations

import array
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Image
    from avatar_runtime.protocol.strict_fields import StrictFields

    Event = dict[str, Any]
    Connect = Callable[..., "SessionDriver"]

FPS = 25
CHARACTERS = {"anna": Character("anna", 384, 384), "ben": Character("ben", 256, 320)}


@dataclass(frozen=True)
class FakeWindow:
    frame_index: int


class FakeUtterance:
    """One window per frame, complete with the audio up to 120 ms after the start of the frame.

    The 120 ms are those of docs/wire-protocol.md, "Drive mode".
    """

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._samples = 0
        self._finished = False
        self._taken = 0

    def append(self, data: bytes) -> None:
        assert len(data) % self._audio.bytes_per_sample == 0
        self._samples += len(data) // self._audio.bytes_per_sample

    def finish(self) -> None:
        self._finished = True

    def take(self) -> Sequence[FakeWindow]:
        per_frame = self._audio.samples_per_frame(FPS)
        ready = self._samples // per_frame - 2
        if self._finished:
            ready = -(-self._samples // per_frame)
        windows = [FakeWindow(index) for index in range(self._taken, ready)]
        self._taken = max(self._taken, ready)
        return windows

    def export(self, windows: Sequence[FakeWindow]) -> dict[str, object]:
        return {
            "samples": self._samples,
            "finished": self._finished,
            "taken": self._taken,
            "windows": [window.frame_index for window in windows],
        }

    def restore(self, fields: StrictFields) -> Sequence[FakeWindow]:
        self._samples = fields.integer("samples", 0, 10**9)
        self._finished = fields.boolean("finished")
        self._taken = fields.integer("taken", 0, 10**9)
        count = len(fields.document["windows"])  # type: ignore[arg-type]
        return [FakeWindow(index) for index in fields.integers("windows", count)]


class FakeDetector:
    """Hears speech in each window whose samples have an average above 1000."""

    def __init__(self, audio: AudioFormat) -> None:
        assert audio.bytes_per_sample == 2
        self._window = audio.rate * 32 // 1000 * 2
        self._data = b""

    def append(self, data: bytes) -> Sequence[float]:
        self._data += data
        rates = []
        while len(self._data) >= self._window:
            window, self._data = self._data[: self._window], self._data[self._window :]
            level = sum(map(abs, array.array("h", window))) / (self._window // 2)
            rates.append(0.9 if level > 1000 else 0.1)
        return rates

    def export(self) -> dict[str, object]:
        return {"data": base64.b64encode(self._data).decode()}

    def restore(self, fields: StrictFields) -> None:
        self._data = base64.b64decode(fields.text("data"))


class SessionDriver:
    """Drives one session as its client, its caller and its engine; a test sets the time."""

    def __init__(self, limits: SessionLimits, anna: Character | None = None) -> None:
        self.now = 1000.0
        characters = CHARACTERS if anna is None else {**CHARACTERS, "anna": anna}
        read_only = ReadOnlyFields("sess_0a", "acme/concierge", 1_800_000_000, FPS)
        self.session: Session[FakeWindow] = Session(
            SessionConfig(characters["anna"]),
            characters,
            read_only,
            limits=limits,
            open_utterance=FakeUtterance,
            open_detector=FakeDetector,
            now=self.now,
        )
        self.events: list[Event] = []

    def send(self, kind: str, **fields: Any) -> list[Event]:
        """Send an event and return the answers."""
        return self.send_raw(json.dumps({"type": kind, **fields}))

    def send_raw(self, message: str | bytes) -> list[Event]:
        self.session.receive(message, self.now)
        while self.session.listen(self.now):
            pass
        return self.pull()

    def append(self, audio: bytes) -> list[Event]:
        return self.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())

    def update(self, **session: Any) -> list[Event]:
        return self.send("session.update", session={"type": "realtime", **session})

    def pull(self) -> list[Event]:
        """Return all messages that the session has."""
        taken = []
        while (outgoing := self.session.pull(self.now)) is not None:
            taken.append(json.loads(outgoing.message))
        self.events += taken
        return taken

    def due(self) -> list[FrameDue[FakeWindow]]:
        return list(self.session.due(self.now))

    def make(self, frames: Sequence[FrameDue[FakeWindow]] | None = None) -> list[Event]:
        """Deliver frames (by default all that are due) and return the messages that follow."""
        for frame in self.due() if frames is None else frames:
            self.deliver(frame)
        return self.pull()

    def deliver(self, frame: FrameDue[FakeWindow], image: Image | None = None) -> bool:
        picture = b"jpeg %d" % frame.frame_index if image is None else image
        return self.session.deliver(
            frame.response_ref, frame.epoch, frame.frame_index, picture, self.now
        )

    def run(self, seconds: float, step: float = 0.02) -> list[Event]:
        """Advance the time with an engine that is always in time."""
        taken = []
        until = self.now + seconds
        while self.now < until:
            self.now += step
            self.session.tick(self.now)
            taken += self.make()
        return taken


@pytest.fixture(scope="session")
def connect() -> Connect:
    """Return a function that opens a session and takes its first two events."""

    def opened(anna: Character | None = None, **limits: float) -> SessionDriver:
        driver = SessionDriver(
            SessionLimits(
                max_duration_s=limits.get("max_duration_s", 7200.0),
                idle_timeout_s=limits.get("idle_timeout_s", 300.0),
            ),
            anna,
        )
        kinds = [event["type"] for event in driver.pull()]
        assert kinds == ["session.created", "conversation.created"]
        return driver

    return opened
