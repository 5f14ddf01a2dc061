"""One utterance of the client and the response that speaks it: its states and its media.

Media leaves by position. The sound of a frame leaves before the frame, frames leave in
order, and a position whose picture was dropped still sends its sound.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from avatar_runtime.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_runtime.protocol.audio_formats import AudioFormat

_DELTA_FRAMES: Final = 25  # one second of sound: 64 kB of base64 at 24 kHz
# Features are computed as frames are asked for: a client may send ten minutes in one go.
_READY_WINDOWS: Final = 50


class Phase(Enum):
    """Where a turn stands."""

    OPEN = "open"  # takes audio, its response has not started
    WAITING = "waiting"  # committed, its response has not started
    LIVE = "live"  # takes audio while it is spoken
    ENDING = "ending"  # committed and being spoken
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"  # the engine could not make its frames
    ABORTED = "aborted"  # the session ended first
    DISCARDED = "discarded"  # cleared before its response started


Step = Enum("Step", "APPEND COMMIT START FINISH CANCEL FAIL ABORT CLEAR")

_NEXT: Final[Mapping[Phase, Mapping[Step, Phase]]] = {
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
        Step.FAIL: Phase.FAILED,
        Step.ABORT: Phase.ABORTED,
    },
    Phase.ENDING: {
        Step.FINISH: Phase.COMPLETED,
        Step.CANCEL: Phase.CANCELLED,
        Step.FAIL: Phase.FAILED,
        Step.ABORT: Phase.ABORTED,
    },
    Phase.COMPLETED: {},
    Phase.CANCELLED: {},
    Phase.FAILED: {},
    Phase.ABORTED: {},
    Phase.DISCARDED: {},
}


def advance(phase: Phase, step: Step) -> Phase:
    """Return the phase after `step`, or raise `IllegalEvent` and change nothing."""
    if step not in _NEXT[phase]:
        raise IllegalEvent(phase.value, step.name.lower())
    return _NEXT[phase][step]


class Window(Protocol):
    """The sound around one frame; only the engine looks inside."""

    @property
    def frame_index(self) -> int:
        """Index of the frame in its response."""


W = TypeVar("W", bound=Window)
W_co = TypeVar("W_co", bound=Window, covariant=True)


class Utterance(Protocol[W_co]):
    """Turns sound into windows, one for each frame, independent of how the sound was split."""

    def append(self, data: bytes) -> None:
        """Add whole samples in the format that it was opened for."""

    def finish(self) -> None:
        """Say that no more sound comes: the missing future is silence."""

    def take(self) -> Sequence[W_co]:
        """Return the windows that became computable, in order."""


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """Sound to send."""

    offset_samples: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame to send."""

    frame_index: int
    jpeg: bytes
    asked_at: float
    is_drawn: bool = True
    """Whether the model drew it; else it is the avatar's own, as nothing is said."""


class Drop(Enum):
    """Why a frame was dropped."""

    SLOW_CLIENT = "slow_client"  # the socket did not take it in time
    OVERLOAD = "overload"  # the engine could not make it in time


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that were dropped, both ends included."""

    first: int
    last: int
    reason: Drop


Media = AudioPiece | Picture | Gap


class Turn(Generic[W]):
    """One utterance and its response. The session is its owner."""

    def __init__(self, utterance: Utterance[W], audio: AudioFormat, fps: int) -> None:
        self.phase = Phase.OPEN
        self.format = audio
        self.first_source_frame = 0
        """Where the avatar's timeline stands when the response starts."""
        self.requested = False
        """Whether a `response.create` asked for it; matters for `drive.start` alone."""
        self.frames_sent = 0
        self.frames_dropped = 0
        self.samples = 0
        self.samples_sent = 0
        self.unsent_bytes = 0
        self.unsent_frames = 0
        self.speakable_at: float | None = None
        """Since when the first frame of the started response can be made."""
        self._utterance = utterance
        self._samples_per_frame = audio.samples_per_frame(fps)
        self._sound = bytearray()  # from `samples_sent` on
        self._heard = 0  # samples that the utterance was given; never below `samples_sent`
        self._finished = False
        self._windows: deque[W] = deque()
        self._asked: dict[int, float] = {}
        self._asked_until = 0  # frames asked for so far
        self._settled = 0  # leading frames that are finished or given up
        self._pictures: dict[int, Picture | Drop] = {}
        self._position = 0
        self._gap: Gap | None = None

    @property
    def takes_audio(self) -> bool:
        """Whether an append belongs to this turn."""
        return self.phase in (Phase.OPEN, Phase.LIVE)

    @property
    def is_started(self) -> bool:
        """Whether its response is active."""
        return self.phase in (Phase.LIVE, Phase.ENDING)

    @property
    def in_flight(self) -> int:
        """Frames asked for that are not settled."""
        return self._asked_until - self._settled

    @property
    def settled(self) -> int:
        """Leading frames that are finished or given up; one behind a missing frame is not."""
        return self._settled

    @property
    def next_window(self) -> W | None:
        """The next frame to ask for, if its sound is complete."""
        return self._windows[0] if self._windows else None

    @property
    def is_exhausted(self) -> bool:
        """Whether all that a committed turn has was sent."""
        total = -(-self.samples // self._samples_per_frame)
        settled = self._position == total and self.samples_sent == self.samples
        return self.phase is Phase.ENDING and settled and self._gap is None

    @property
    def positions(self) -> int:
        """Frames passed, sent or dropped."""
        return self._position

    def step(self, step: Step) -> None:
        """Advance the phase, or raise `IllegalEvent`."""
        self.phase = advance(self.phase, step)

    def start(self, first_source_frame: int, now: float) -> None:
        """Begin the response."""
        self.step(Step.START)
        self.first_source_frame = first_source_frame
        self._note_speakable(now)

    def append(self, data: bytes, now: float) -> None:
        """Take sound in the format of the session."""
        self.step(Step.APPEND)
        self._sound += data
        self.samples += len(data) // self.format.bytes_per_sample
        self._hear(now)

    def commit(self, now: float) -> None:
        """End the sound."""
        self.step(Step.COMMIT)
        self._hear(now)

    def ask(self, now: float) -> W:
        """Return the next window; its picture is in flight from now on."""
        window = self._windows.popleft()
        self._asked[window.frame_index] = now
        self._asked_until = window.frame_index + 1
        self._hear(now)
        return window

    def deliver(self, frame_index: int, jpeg: bytes, *, is_drawn: bool = True) -> bool:
        """Take a picture, or return that nobody waits for it."""
        asked_at = self._asked.pop(frame_index, None)
        if asked_at is None:
            return False
        self._pictures[frame_index] = Picture(frame_index, jpeg, asked_at, is_drawn)
        self._settle()
        return True

    def drop_oldest(self) -> None:
        """Give up the oldest picture that has not left; its sound stays."""
        oldest = min(i for i, picture in self._pictures.items() if isinstance(picture, Picture))
        self._forget(oldest)
        self._pictures[oldest] = Drop.SLOW_CLIENT

    def skip(self, frame_index: int) -> bool:
        """Give up a frame that is in flight, or return that nobody waits for it."""
        if self._asked.pop(frame_index, None) is None:
            return False
        self._pictures[frame_index] = Drop.OVERLOAD
        self._settle()
        return True

    def pull(self) -> Media | None:
        """Return what leaves next, or `None` while the next picture is not there."""
        piece = self._next_sound()
        if piece is not None:
            return piece
        self._pass_dropped()
        picture = self._pictures.get(self._position)
        if self._gap is not None:
            # Sound of the next position follows the report, the report follows the gap's sound.
            gap, self._gap = self._gap, None
            return gap
        if not isinstance(picture, Picture):
            return None
        self._forget(self._position)
        self._position += 1
        self.frames_sent += 1
        return picture

    def _hear(self, now: float) -> None:
        """Give the utterance sound, a second at a time, until enough windows are ready."""
        width, second = self.format.bytes_per_sample, self.format.rate
        while len(self._windows) < _READY_WINDOWS and not self._finished:
            begin = (self._heard - self.samples_sent) * width
            piece = bytes(self._sound[begin : begin + second * width])
            if piece:
                self._utterance.append(piece)
                self._heard += len(piece) // width
            elif self.phase in (Phase.WAITING, Phase.ENDING):
                self._utterance.finish()
                self._finished = True
            else:
                break
            self._windows.extend(self._utterance.take())
        self._note_speakable(now)

    def _note_speakable(self, now: float) -> None:
        if self.speakable_at is None and self.is_started and self._windows:
            self.speakable_at = now

    def _settle(self) -> None:
        """Count what is now without a missing frame before it: silent frames are there sooner."""
        while (found := self._pictures.get(self._settled)) is not None:
            self._settled += 1
            if isinstance(found, Picture):
                self.unsent_frames += 1
                self.unsent_bytes += len(found.jpeg)

    def _forget(self, frame_index: int) -> None:
        picture = self._pictures.pop(frame_index)
        assert isinstance(picture, Picture)
        self.unsent_frames -= 1
        self.unsent_bytes -= len(picture.jpeg)

    def _pass_dropped(self) -> None:
        while isinstance(reason := self._pictures.get(self._position), Drop):
            if self._gap is not None and self._gap.reason is not reason:
                return  # one report has one reason
            first = self._position if self._gap is None else self._gap.first
            self._gap = Gap(first, self._position, reason)
            del self._pictures[self._position]
            self._position += 1
            self.frames_dropped += 1

    def _next_sound(self) -> AudioPiece | None:
        """Return the sound of the positions that are settled, if it has not left yet."""
        end = self._position
        while end in self._pictures and end - self._position < _DELTA_FRAMES:
            end += 1
        until = min(end * self._samples_per_frame, self.samples)
        if until <= self.samples_sent:
            return None
        size = (until - self.samples_sent) * self.format.bytes_per_sample
        piece = AudioPiece(self.samples_sent, bytes(self._sound[:size]))
        del self._sound[:size]
        self.samples_sent = until
        return piece
