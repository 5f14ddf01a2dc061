"""One utterance of the client and the response that speaks it: its states and its media.

Media leaves in the order of its position. The audio of a frame leaves before the frame, frames
leave in order, and a position whose frame was dropped still sends its audio.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol import client_events, document_fields, state_table
from avatar_runtime.protocol.document_fields import (
    MAX_COUNT,
    At,
    Choice,
    Count,
    Data,
    Flag,
    Maybe,
    Number,
    Table,
    Text,
)
from avatar_runtime.protocol.live_source import SourceClock
from avatar_runtime.protocol.media import AudioChunk, DroppedFrames, DropReason, VideoFrame, W

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.media import Image, Media, Utterance
    from avatar_runtime.protocol.strict_fields import StrictFields

_MAX_CHUNK_FRAMES: Final = 25  # one second of audio: 64 kB of base64 at 24 kHz
# Windows are made as frames are requested, since a client may send ten minutes in one burst. A
# second of audio takes about 2 ms of the event loop, in which no session is interrupted.
_MAX_READY_WINDOWS: Final = 10
_FEEDS_PER_S: Final = 5


class Phase(Enum):
    """The state of a turn."""

    OPEN = "open"
    """Accepts audio; its response has not started."""
    WAITING = "waiting"
    """Committed; its response has not started."""
    LIVE = "live"
    """Accepts audio while its response is active."""
    ENDING = "ending"
    """Committed; its response is active."""
    COMPLETED = "completed"
    """The whole response was sent."""
    CANCELLED = "cancelled"
    """The client cancelled the response."""
    FAILED = "failed"
    """The engine could not generate the frames."""
    INTERRUPTED = "interrupted"
    """New speech of the client ended the response."""
    ABORTED = "aborted"
    """The session ended before the response."""
    DISCARDED = "discarded"
    """Cleared before its response started."""


Step = Enum("Step", "APPEND COMMIT START FINISH CANCEL INTERRUPT FAIL ABORT CLEAR")

TRANSITIONS: Final[Mapping[Phase, Mapping[Step, Phase]]] = {
    Phase.OPEN: {
        Step.APPEND: Phase.OPEN,
        Step.COMMIT: Phase.WAITING,
        Step.START: Phase.LIVE,
        Step.CLEAR: Phase.DISCARDED,
    },
    Phase.WAITING: {Step.START: Phase.ENDING, Step.CLEAR: Phase.DISCARDED},
    Phase.LIVE: {
        Step.APPEND: Phase.LIVE,
        Step.COMMIT: Phase.ENDING,
        Step.CANCEL: Phase.CANCELLED,
        Step.INTERRUPT: Phase.INTERRUPTED,
        Step.FAIL: Phase.FAILED,
        Step.ABORT: Phase.ABORTED,
    },
    Phase.ENDING: {
        Step.FINISH: Phase.COMPLETED,
        Step.CANCEL: Phase.CANCELLED,
        Step.INTERRUPT: Phase.INTERRUPTED,
        Step.FAIL: Phase.FAILED,
        Step.ABORT: Phase.ABORTED,
    },
    Phase.COMPLETED: {},
    Phase.CANCELLED: {},
    Phase.INTERRUPTED: {},
    Phase.FAILED: {},
    Phase.ABORTED: {},
    Phase.DISCARDED: {},
}
"""The phase after each allowed step, by phase. A phase without steps is final."""


def advance(phase: Phase, step: Step) -> Phase:
    """Return the phase after `step`.

    Raises:
        IllegalEvent: `TRANSITIONS` does not allow the step in this phase.
    """
    return state_table.advance(TRANSITIONS, phase, step)


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A `response.create` of the client."""

    event_id: str | None
    metadata: Mapping[str, str] | None
    """Returned in the response object; `None` if the request has none."""

    def export(self) -> dict[str, object]:
        """Return the request as plain values."""
        metadata = None if self.metadata is None else dict(self.metadata)
        return {"event_id": self.event_id, "metadata": metadata}


def read_request(fields: StrictFields) -> ResponseRequest:
    """Return a request that was exported.

    Raises:
        ProtocolError: a field is missing or wrong.
    """
    has_metadata = fields.value("metadata") is not None
    return ResponseRequest(
        Maybe(Text()).read(fields, "event_id", 0.0),
        client_events.read_metadata(fields) if has_metadata else None,
    )


_STATE: Final[Table] = {
    "phase": Choice(Phase),
    "first_source_frame": Count(),
    "frames_sent": Count(),
    "frames_dropped": Count(),
    "samples": Count(),
    "samples_sent": Count(),
    "is_after_gap": Flag(),
    "speakable_at": Maybe(At()),
    "lookahead_s": Number(0),
    "_can_be_live": Flag(),
    "_audio": Data(make=bytearray),
    "_fed_samples": Count(),
    "_finished": Flag(),
    "_position": Count(),
    "_sent_until": Count(),
}
_DROPPED: Final[Table] = {"first": Count(), "last": Count(), "reason": Choice(DropReason)}


class Turn(Generic[W]):
    """One utterance and its response.

    A frame passes these stages: its window becomes ready, the frame is requested and in flight,
    it is settled (delivered or dropped, like all frames before it), and it is sent.
    """

    def __init__(
        self,
        utterance: Utterance[W],
        audio: AudioFormat,
        fps: int,
        start_ms: int = 0,
        *,
        can_be_live: bool = True,
    ) -> None:
        """`can_be_live` is whether its audio is live if it arrives at the pace of speech."""
        self.phase = Phase.OPEN
        self.format = audio
        self.start_ms = start_ms
        """Where the audio of the turn starts, milliseconds of audio of the session."""
        self.first_source_frame = 0
        """Position in the avatar's source video at which the response starts, frames."""
        self.request: ResponseRequest | None = None
        """The `response.create` that the response answers, if any."""
        self.frames_sent = 0
        self.frames_dropped = 0
        self.samples = 0
        """Samples received."""
        self.samples_sent = 0
        self.unsent_bytes = 0
        """Size of the settled frames that were not sent."""
        self.unsent_frames = 0
        """Number of the settled frames that were not sent."""
        self.is_after_gap = False
        """Whether frames were dropped right before the frame that was sent last."""
        self.speakable_at: float | None = None
        """When the first frame of the started response could be generated."""
        self.clock = SourceClock()
        """When the audio was captured."""
        self.lookahead_s = 0.0
        """Audio from the start of a frame that must be there before the frame can be generated."""
        self._utterance = utterance
        self._samples_per_frame = audio.samples_per_frame(fps)
        self._can_be_live = can_be_live
        self._audio = bytearray()  # from `samples_sent` on
        self._fed_samples = 0  # samples given to the utterance; never below `samples_sent`
        self._finished = False
        self._ready_windows: deque[W] = deque()
        self._requested_windows: deque[W] = deque()  # of the frames that were not passed
        self._requested_at: dict[int, float] = {}  # by index of the frames in flight
        self._requested_until = 0  # number of frames requested
        self._settled = 0
        self._frames: dict[int, VideoFrame | DropReason] = {}
        self._position = 0
        self._sent_until = 0  # the position after the frame that was sent last
        self._dropped: DroppedFrames | None = None  # not reported yet
        self.known_frames = 0
        """Number of frames that the client has, or knows as dropped, from another pod."""
        self._known_samples = 0  # of the response that the client has from another pod

    @property
    def accepts_audio(self) -> bool:
        """Whether an append belongs to this turn."""
        return self.phase in (Phase.OPEN, Phase.LIVE)

    @property
    def is_started(self) -> bool:
        """Whether the response of this turn is active."""
        return self.phase in (Phase.LIVE, Phase.ENDING)

    @property
    def in_flight(self) -> int:
        """Number of requested frames that are not settled."""
        return self._requested_until - self._settled

    @property
    def is_requested(self) -> bool:
        """Whether a frame was requested."""
        return self._requested_until > 0

    @property
    def settled(self) -> int:
        """Number of leading frames that are delivered or dropped.

        A frame behind one that is still in flight is not settled.
        """
        return self._settled

    @property
    def next_window(self) -> W | None:
        """The window of the next frame to request, or `None` if its audio is not complete."""
        return self._ready_windows[0] if self._ready_windows else None

    @property
    def unsettled(self) -> int | None:
        """The oldest frame that is not settled, or `None` if its audio is not complete."""
        is_ready = self.in_flight > 0 or len(self._ready_windows) > 0
        return self._settled if is_ready else None

    @property
    def is_exhausted(self) -> bool:
        """Whether the turn is committed and all its media was sent."""
        total = -(-self.samples // self._samples_per_frame)
        all_sent = self._position == total and self.samples_sent == self.samples
        return self.phase is Phase.ENDING and all_sent and self._dropped is None

    @property
    def has_given_all_audio(self) -> bool:
        """Whether the turn is committed and all its audio was sent."""
        return self.phase is Phase.ENDING and self.samples_sent == self.samples

    @property
    def positions(self) -> int:
        """Number of frames passed, sent or dropped."""
        return self._position

    @property
    def frames_heard(self) -> int:
        """Number of frames whose audio was sent, at least in part."""
        return -(-max(self.samples_sent, self._known_samples) // self._samples_per_frame)

    @property
    def has_caught_up(self) -> bool:
        """Whether all was passed that the client has from another pod."""
        return self._position >= self.known_frames and self.samples_sent >= self._known_samples

    # State

    def step(self, step: Step) -> None:
        """Advance the phase.

        Raises:
            IllegalEvent: the phase does not allow the step; nothing changes.
        """
        self.phase = advance(self.phase, step)

    def start(self, first_source_frame: int, now: float) -> None:
        """Start the response."""
        self.step(Step.START)
        self.first_source_frame = first_source_frame
        self._mark_speakable(now)

    # Audio in

    def append(self, data: bytes, now: float) -> None:
        """Add audio in the format of the turn."""
        self.step(Step.APPEND)
        self._audio += data
        self.samples += len(data) // self.format.bytes_per_sample
        if self._can_be_live:
            self.clock.add(self.samples / self.format.rate, now)
        self._feed(now)

    def commit(self, now: float) -> None:
        """End the audio."""
        self.step(Step.COMMIT)
        self._feed(now)

    # Frames

    def request_next(self, now: float) -> W:
        """Return the next window; its frame is in flight from now on."""
        window = self._ready_windows.popleft()
        self._requested_windows.append(window)
        self._requested_at[window.frame_index] = now
        self._requested_until = window.frame_index + 1
        self._feed(now)
        return window

    def deliver(self, frame_index: int, image: Image, *, is_drawn: bool = True) -> bool:
        """Accept a generated frame, or return false if it is not in flight."""
        requested_at = self._requested_at.pop(frame_index, None)
        if requested_at is None:
            return False
        self._frames[frame_index] = VideoFrame(frame_index, image, requested_at, is_drawn)
        self._settle()
        return True

    def skip(self, frame_index: int) -> bool:
        """Drop a frame that is in flight, or return false if it is not."""
        if self._requested_at.pop(frame_index, None) is None:
            return False
        self._frames[frame_index] = DropReason.OVERLOAD
        self._settle()
        return True

    def lapse(self, now: float) -> bool:
        """Drop the oldest frame that is not settled, in flight or not yet requested.

        Returns false if its audio is not complete.
        """
        if self.unsettled is None:
            return False
        if self.in_flight == 0:
            self.request_next(now)
        return self.skip(self._settled)

    def ready_at(self, frame_index: int) -> float:
        """Return when the audio was captured that a frame needs; a microphone may be late."""
        start_s = frame_index * self._samples_per_frame / self.format.rate
        return self.clock.captured_at(start_s + self.lookahead_s)

    def drop_oldest(self) -> None:
        """Drop the oldest delivered frame that was not sent. Its audio is still sent."""
        oldest = min(i for i, frame in self._frames.items() if isinstance(frame, VideoFrame))
        self._remove_frame(oldest)
        self._frames[oldest] = DropReason.SLOW_CLIENT

    # Media out

    def pull(self) -> Media | None:
        """Return the media to send next, or `None` until the next frame is delivered."""
        if not self.has_caught_up:
            self.pass_known()
        chunk = self._next_audio()
        if chunk is not None:
            return chunk
        self._skip_dropped()
        frame = self._frames.get(self._position)
        if self._dropped is not None:
            # The report comes after the audio of the dropped frames and before all other media.
            dropped, self._dropped = self._dropped, None
            return dropped
        if not isinstance(frame, VideoFrame):
            return None
        self._remove_frame(self._position)
        self.is_after_gap = self._position != self._sent_until
        self._pass()
        self._sent_until = self._position
        self.frames_sent += 1
        return frame

    # What the client has from another pod

    def catch_up(self, frames: int, dropped: int, samples: int, *, has_video: bool = True) -> None:
        """Send nothing of what the client has: `frames`, after `dropped` others, and `samples`."""
        self.frames_sent, self.frames_dropped = frames, dropped
        self._known_samples = samples
        self.known_frames = frames + dropped
        if not has_video:
            self.known_frames = -(-samples // self._samples_per_frame)

    def end_catching_up(self) -> None:
        """Count what the client has as sent: the turn ends."""
        self.samples_sent = max(self.samples_sent, min(self._known_samples, self.samples))

    def pass_known(self) -> None:
        """Pass the settled media that the client has."""
        for index in [each for each in self._requested_at if each < self.known_frames]:
            self.skip(index)
        known = self._settled_samples(MAX_COUNT)
        self._take_audio(min(known, self._known_samples))
        while self._position < min(self.known_frames, self._settled):
            frame = self._frames.get(self._position)
            if isinstance(frame, VideoFrame):
                self._remove_frame(self._position)
            else:
                self._frames.pop(self._position, None)
            self._dropped = None  # of frames before this one
            self._pass()
            self._sent_until = self._position

    # Moving

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values.

        Frames that were not sent are not in it: they are requested again.
        """
        dropped = self._dropped
        windows = [*self._requested_windows, *self._ready_windows]
        return {
            **document_fields.export(self, _STATE, now),
            "request": None if self.request is None else self.request.export(),
            "clock": self.clock.export(now),
            "dropped": None if dropped is None else document_fields.export(dropped, _DROPPED),
            "utterance": self._utterance.export(windows),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue another turn of the same format from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE, now)
        self.clock.restore(fields.nested("clock"), now)
        request = document_fields.optional(fields, "request")
        self.request = None if request is None else read_request(request)
        dropped = document_fields.optional(fields, "dropped")
        if dropped is not None:
            self._dropped = DroppedFrames(**document_fields.read(dropped, _DROPPED))
        self._settled = self._requested_until = self._position
        self._ready_windows.extend(self._utterance.restore(fields.nested("utterance")))
        self._check(fields)

    def _check(self, fields: StrictFields) -> None:
        """Check that the counters of a document fit together."""
        check, width, per_frame = (
            document_fields.check,
            self.format.bytes_per_sample,
            self._samples_per_frame,
        )
        unsent = (self.samples - self.samples_sent) * width
        check(len(self._audio) == unsent, fields, "audio", f"must have {unsent} bytes")
        is_fed = self.samples_sent <= self._fed_samples <= self.samples
        check(is_fed, fields, "fed_samples", f"must be {self.samples_sent} to {self.samples}")
        heard = min(self._position * per_frame, self.samples)
        is_heard = self.samples_sent >= heard and self._position <= -(-self.samples // per_frame)
        check(is_heard, fields, "position", "must not be ahead of the sound")
        check(self._sent_until <= self._position, fields, "sent_until", "must not be ahead")
        windows = [window.frame_index for window in self._ready_windows]
        expected = list(range(self._position, self._position + len(windows)))
        check(windows == expected, fields, "utterance", f"windows must start at {self._position}")
        if self._dropped is not None:
            is_past = self._dropped.first <= self._dropped.last < self._position
            check(is_past, fields, "dropped", f"must lie before {self._position}")

    def _feed(self, now: float) -> None:
        """Give audio to the utterance, 200 ms at a time, until enough windows are ready."""
        width, step = self.format.bytes_per_sample, self.format.rate // _FEEDS_PER_S
        while len(self._ready_windows) < _MAX_READY_WINDOWS and not self._finished:
            start = (self._fed_samples - self.samples_sent) * width
            chunk = bytes(self._audio[start : start + step * width])
            if chunk:
                self._utterance.append(chunk)
                self._fed_samples += len(chunk) // width
            elif self.phase in (Phase.WAITING, Phase.ENDING):
                self._utterance.finish()
                self._finished = True
            else:
                break
            self._ready_windows.extend(self._utterance.take())
            self._measure_lookahead()
        self._mark_speakable(now)

    def _measure_lookahead(self) -> None:
        """Take the smallest distance between the audio and the last frame that it completes."""
        if self._ready_windows and not self._finished:
            start = self._ready_windows[-1].frame_index * self._samples_per_frame
            lookahead_s = (self._fed_samples - start) / self.format.rate
            self.lookahead_s = min(self.lookahead_s or lookahead_s, lookahead_s)

    def _mark_speakable(self, now: float) -> None:
        if self.speakable_at is None and self.is_started and self._ready_windows:
            self.speakable_at = now

    def _settle(self) -> None:
        """Settle the leading frames: frames in silence are delivered before drawn ones."""
        while (found := self._frames.get(self._settled)) is not None:
            self._settled += 1
            if isinstance(found, VideoFrame):
                self.unsent_frames += 1
                self.unsent_bytes += found.nbytes
        self.clock.forget((self._settled - 1) * self._samples_per_frame / self.format.rate)

    def _remove_frame(self, frame_index: int) -> None:
        frame = self._frames.pop(frame_index)
        assert isinstance(frame, VideoFrame)
        self.unsent_frames -= 1
        self.unsent_bytes -= frame.nbytes

    def _skip_dropped(self) -> None:
        while isinstance(reason := self._frames.get(self._position), DropReason):
            if self._dropped is not None and self._dropped.reason is not reason:
                return  # one report has one reason
            first = self._position if self._dropped is None else self._dropped.first
            self._dropped = DroppedFrames(first, self._position, reason)
            del self._frames[self._position]
            self._pass()
            self.frames_dropped += 1

    def _pass(self) -> None:
        """Go to the next position: the frame here is sent or dropped."""
        self._position += 1
        self._requested_windows.popleft()

    def _next_audio(self) -> AudioChunk | None:
        """Return the unsent audio of the settled positions, or `None` if there is none."""
        offset = self.samples_sent
        data = self._take_audio(self._settled_samples(_MAX_CHUNK_FRAMES))
        return AudioChunk(offset, data) if data else None

    def _settled_samples(self, frames: int) -> int:
        """Return the end of the audio of the settled positions, at most `frames` from here."""
        end = self._position
        while end in self._frames and end - self._position < frames:
            end += 1
        return min(end * self._samples_per_frame, self.samples)

    def _take_audio(self, until: int) -> bytes:
        """Return the unsent audio up to a sample, which counts as sent; it may be none."""
        size = (until - self.samples_sent) * self.format.bytes_per_sample
        if size <= 0:
            return b""
        data = bytes(self._audio[:size])
        del self._audio[:size]
        self.samples_sent = until
        return data
