"""One fuzzed session: a random client, a random engine and a clock, under the eye of the oracle."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.protocol.media import PatchImage, RawImage
from avatar_runtime.protocol.session import (
    MAX_UNREAD_CHARACTERS,
    Session,
    SessionLimits,
)
from avatar_runtime.protocol.session_config import (
    Character,
    ReadOnlyFields,
    SessionConfig,
    VideoMode,
)
from avatar_runtime.protocol.turn_detection import TurnDetection
from localcluster.fuzz import edge, messages
from localcluster.fuzz.binary import EventTexts
from localcluster.fuzz.fakes import FPS, CountingUtterance, FrameWindow, LevelDetector
from localcluster.fuzz.requests import ENDS_OUTPUT
from localcluster.fuzz.stages import DriveStage
from localcluster.fuzz.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Image
    from localcluster.fuzz.stages import Stage

CHARACTERS: Final = {
    "anna": Character("anna", 384, 384, has_alpha=True),
    "ben": Character("ben", 256, 320, fps=30, key="ben@2", disclosure="Made by a machine."),
}
_LIMITS: Final = (
    *((7200.0, 300.0), (7200.0, 300.0), (7200.0, 300.0)),
    *((60.0, 300.0), (7200.0, 5.0)),
)
_MAX_BACKLOG: Final = MAX_UNREAD_CHARACTERS + 1024 * 1024
"""Characters that may wait for the socket: the limit, and the answers to one message."""
_MAX_ROUNDS: Final = 4000
_PATIENCE_ROUNDS: Final = 150


@dataclass(slots=True)
class Played:
    """What happened in one session."""

    messages: int = 0
    events: int = 0
    frames: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """Events by type."""
    errors: dict[str, int] = field(default_factory=dict)
    """Errors by code."""
    closes: dict[int, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    """CPU time of the slowest call of the session."""
    backlog: int = 0
    """Most characters that waited for the socket."""

    def count(self, event: Mapping[str, Any]) -> None:
        """Count an event of the session."""
        self.events += 1
        kind = event["type"]
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == "error":
            code = event["error"]["code"] or "none"  # an upstream's error may have none
            self.errors[code] = self.errors.get(code, 0) + 1


class Play:
    """Drives one session as docs and the docstring of `Session` demand of its caller."""

    def __init__(
        self, seed: int, index: int, open_stage: Callable[[Random], Stage] = DriveStage
    ) -> None:
        """The same seed and index are the same session, call by call."""
        self._random = random = Random(f"{seed} {index}")
        self._stage = stage = open_stage(random)
        style = random.choice(messages.STYLES)
        self.style = replace(style, weights={**stage.weights, **style.weights})
        is_right = not (self.style.wrongness or self.style.mutations or self.style.corruptions)
        self.oracle = stage.oracle(is_client_right=is_right)
        self.played = Played()
        self._texts = EventTexts()
        self.log: list[str] = []
        """The latest messages and events, for a report."""
        dialect = random.choice(edge.DIALECTS)
        self._edge = edge.Edge(dialect, is_client_right=is_right)
        self._client = messages.Client(random, self.style, self.oracle.view, self._edge.in_form)
        self._now = 1000.0
        self._pace_s = random.choice((0.0, 0.001, 0.03, 0.2, 0.2, 1.0))
        self._reads = random.choice(
            (1.0, 1.0, 0.6, 0.1, 0.0)
        )  # how often the socket takes messages
        self._serves = random.choice((1.0, 1.0, 0.7, 0.2))  # how often the engine works
        self._faults = random.choice((0.0, 0.0, 0.02, 0.2))  # of frames
        self._jpeg = random.choice((b"jpeg", b"jpeg", bytes(300_000)))
        self._is_prompt = False  # nothing fails or waits any more
        self._frames: list[FrameDue[FrameWindow]] = []
        self._characters = dict(CHARACTERS)
        self._backlog = 0
        duration_s, idle_s = random.choice(_LIMITS)
        detection = random.choice((None, TurnDetection()))
        self._may_detect = detection is not None
        self.session: Session[FrameWindow] = Session(
            SessionConfig(
                CHARACTERS["anna"],
                turn_detection=detection,
                video=random.choice((VideoMode.JPEG, VideoMode.H264, VideoMode.NONE)),
                names_avatar=random.random() < 0.3,
            ),
            self._characters,
            ReadOnlyFields("sess_0f", "acme/concierge", 1_800_000_000, FPS),
            limits=SessionLimits(duration_s, idle_s),
            open_utterance=CountingUtterance,
            open_detector=LevelDetector,
            now=self._now,
            open_mode=stage.open_mode,
        )

    def run(self, count: int) -> Played:
        """Send at most `count` messages, then let everything end, and return what happened.

        Raises:
            Violation: the session did what it must not.
        """
        self._drain()
        while self.played.messages < count and self.session.closing is None:
            self._pass_time()
            self.send(self._client.draw())
            self._serve()
            if self._random.random() < self._reads:
                self._drain()
        self._settle()
        return self.played

    def send(self, content: str | bytes) -> None:
        """Send one message; its answers can be told apart from all others."""
        content = self._edge.to_session(content)
        is_unique = self.oracle.requests.has_unique_id(content)
        if isinstance(content, str):
            self._may_detect |= "turn_detection" in content
            # The answer to a clear looks like the one to an interruption by speech before it.
            is_unique &= not (self._may_detect and "output_audio_buffer.clear" in content)
            is_unique &= not (
                self._stage.has_waiting and any(map(content.__contains__, ENDS_OUTPUT))
            )
        if not is_unique or not self.session.can_receive:
            self._drain()
        if self.session.closing is not None:
            return
        shown = content if len(content) < 2000 else f"{content[:200]!r}, {len(content)} long"
        self._note(f"{self._now:.3f} > {shown!r}")
        self.oracle.send(content)
        self.played.messages += 1
        self._timed(self.session.receive, content, self._now)
        if self._random.random() < 0.8:
            while self.session.listen(self._now):
                pass
        if not is_unique:
            self._drain()

    def _pass_time(self) -> None:
        random = self._random
        seconds = random.expovariate(1 / self._pace_s) if self._pace_s else 0.0
        if random.random() < 0.001:
            seconds += random.choice((5.0, 40.0, 301.0))
        until = self._now + seconds
        while (at := self.session.wakeup()) <= until and self.session.closing is None:
            self._now = max(self._now, at)
            self._tick()
        self._now = until
        if random.random() < 0.01:
            self._characters.pop("ben", None)
        elif random.random() < 0.01:
            self._characters["ben"] = CHARACTERS["ben"]

    def _tick(self) -> None:
        self._timed(self.session.tick, self._now)
        at = self.session.wakeup()
        require(math.isfinite(at), f"wakeup is {at}")
        if self.session.closing is None:
            require(at > self._now, f"wakeup stays {at} after tick at {self._now}")
        self._collect()

    def _collect(self) -> None:
        for frame in self.session.due(self._now):
            self._frames.append(frame)
            require(frame.epoch == self.session.epoch, f"{frame} is due in an old epoch")
            require(len(self._frames) < 10_000, "frames without end are due")

    def _serve(self) -> None:
        """Deliver, drop or fail some of the frames, in any order."""
        random = self._random
        self._stage.work(self._now, is_prompt=self._is_prompt)
        self._collect()
        if random.random() >= self._serves:
            return
        if random.random() < 0.2:
            random.shuffle(self._frames)
        count = len(self._frames) if random.random() < 0.7 else random.randint(0, len(self._frames))
        frames, self._frames = self._frames[:count], self._frames[count:]
        for frame in frames:
            self._finish(frame)
        if random.random() < 0.05:
            self._deliver_nonsense()
        self._collect()

    def _finish(self, frame: FrameDue[FrameWindow]) -> None:
        random, session, now = self._random, self.session, self._now
        ref, epoch, index = frame.response_ref, frame.epoch, frame.frame_index
        is_old = epoch < session.epoch
        if random.random() < self._faults:
            if random.random() < 0.1:
                session.fail(ref, epoch, now)
                return
            taken = session.skip(ref, epoch, index, now)
        else:
            image: Image = self._jpeg
            if frame.video.is_encoded_when_sent:
                image = RawImage(self._jpeg, frame.width, frame.height << frame.has_alpha)
            elif frame.is_patch:
                width, height = (
                    random.randrange(0, n + 1, 16) for n in (frame.width, frame.height)
                )
                image = PatchImage(self._jpeg, (0, 0, width, height), random.randrange(2**20))
            taken = session.deliver(ref, epoch, index, image, now, is_drawn=random.random() < 0.8)
        self.played.frames += taken
        require(not (is_old and taken), f"{frame} of an old epoch was accepted")
        if ref and random.random() < 0.02:
            again = session.deliver(ref, epoch, index, self._jpeg, now)
            require(not again, f"{frame} was accepted twice")

    def _deliver_nonsense(self) -> None:
        session, now = self.session, self._now
        require(not session.deliver(10_000, session.epoch, 0, b"", now), "an unknown response")
        require(not session.deliver(1, session.epoch + 1, 0, b"", now), "a future epoch")
        require(not session.skip(1, -1, 0, now), "a negative epoch")

    def _drain(self) -> None:
        """Read all that the session has to send."""
        while self.session.listen(self._now):
            pass
        characters = 0
        while (outgoing := self.session.pull(self._now)) is not None:
            if outgoing.frame is None:
                characters += len(outgoing.message)
            self._read(outgoing.message)
        self.played.backlog = max(self.played.backlog, characters)
        require(characters <= _MAX_BACKLOG, f"{characters} characters wait")
        self.oracle.check_quiet()
        self._collect()

    def _read(self, message: str | bytes) -> None:
        text = self._texts.read(message)
        self._note(f"{self._now:.3f} < {text[:1500]}")
        event: dict[str, Any] = self.oracle.read(text)
        if isinstance(message, str):
            self._edge.read(text, official_only=self.session.official_only)
        self.played.count(event)

    def _settle(self) -> None:
        """Let the session say all that waits, with a prompt engine, and end it."""
        session, self._serves, self._faults, self._is_prompt = self.session, 1.0, 0.0, True
        # What a client does not acknowledge is never over.
        self._ask("session.update", session=messages.BY_CLOCK)
        for rounds in range(_MAX_ROUNDS):
            while session.listen(self._now):
                pass
            self._serve()
            self._drain()
            if session.closing is not None or self._is_settled(rounds):
                break
            self._now += 0.5
            self._tick()
        else:
            raise Violation("the session never comes to rest")
        self._close()

    def _is_settled(self, rounds: int) -> bool:
        oracle, speaks = self.oracle, self.session.is_speaking
        waits = oracle.requests.waits_for_response
        if rounds in (1, 6) or (rounds % 5 == 1 and (speaks or waits)):
            # One of the two gets an error, unless audio waits.
            self._ask("input_audio_buffer.commit")
            self._ask("response.create", response={"metadata": {"settle": str(rounds)}})
            if rounds > _PATIENCE_ROUNDS:
                self._ask("response.cancel")
        return rounds > 10 and not speaks and not waits and not oracle.playback.is_playing

    def _ask(self, kind: str, **fields: Any) -> None:
        if self.session.closing is None:
            self.send(messages.event(kind, **fields))
            self._drain()

    def _close(self) -> None:
        session = self.session
        if session.closing is None:
            self.oracle.check_end()
            self._stage.check_end()
            session.end(self._random.choice((1000, 1012)), "over", self._now)
        self.oracle.is_closed = True
        self._drain()
        self.oracle.check_end()
        assert session.closing is not None
        code = session.closing.code
        self.played.closes[code] = self.played.closes.get(code, 0) + 1
        session.receive('{"type": "input_audio_buffer.commit"}', self._now)
        require(session.pull(self._now) is None, "an answer after the end")

    def _timed(self, call: Any, *arguments: Any) -> None:
        started = time.thread_time()
        call(*arguments)
        self.played.slowest_s = max(self.played.slowest_s, time.thread_time() - started)

    def _note(self, line: str) -> None:
        self.log.append(line)
        if len(self.log) > 400:
            del self.log[:200]
