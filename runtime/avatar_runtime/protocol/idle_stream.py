"""The frames that a client sees between responses: docs/wire-protocol.md, "Idle frames".

Each shows the avatar in silence at the next position of its source video. The engine makes it
without the device. A session has at most one such frame on its way, so that a client or an engine
that is too slow loses idle frames and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol.document_fields import At, Table
from avatar_runtime.protocol.frame_flow import FrameDue
from avatar_runtime.protocol.media import VideoFrame, W

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.media import Image, Utterance
    from avatar_runtime.protocol.session_config import SessionConfig

REF: Final = -1
"""`response_ref` of the frames: those of responses start at 1."""
RETRY_S: Final = 1.0
"""Time from a frame that the engine could not generate to the next request."""


class IdleStream(Generic[W]):
    """At most one idle frame at a time, at the frame rate of the session."""

    STATE: Final[Table] = {"_next_at": At(), "_retry_at": At()}
    """What a session takes along to another pod."""

    def __init__(self, open_utterance: Callable[[AudioFormat], Utterance[W]], fps: int) -> None:
        self._open_utterance = open_utterance
        self._fps = fps
        self._silence: tuple[AudioFormat, W] | None = None
        self._next_at = 0.0
        self._retry_at = 0.0
        self._requested_at: float | None = None  # in flight
        self._epoch = 0  # of the frame in flight
        self._frame: VideoFrame | None = None  # to send

    def next_due(self, epoch: int, begin: float, *, has_lead: bool) -> float | None:
        """Return when the next frame is due, or `None` while the last one was not sent.

        One that is in flight in an older epoch may never arrive.
        `begin` is from when on the client needs the frame. Each frame with a lead moves it; without
        a lead, the frames follow the frame rate.
        """
        is_in_flight = self._requested_at is not None and self._epoch == epoch
        if is_in_flight or self._frame is not None:
            return None
        at = begin if has_lead else max(self._next_at, begin)
        return max(at, self._retry_at)

    def due(
        self, config: SessionConfig, epoch: int, position: int, now: float
    ) -> Iterator[FrameDue[W]]:
        """Yield the next frame; `position` is that of the session's timeline."""
        frame_s = 1 / self._fps
        # A late frame moves the later ones only if it is late by a whole frame.
        self._next_at = (self._next_at if now - self._next_at < frame_s else now) + frame_s
        self._requested_at, self._epoch = now, epoch
        yield FrameDue.of(
            config,
            self._window(config.format),
            response_ref=REF,
            epoch=epoch,
            deadline=now + frame_s,
            position=position,
            fps=self._fps,
        )

    def deliver(self, epoch: int, image: Image) -> bool:
        """Accept the generated frame, or return false if it is no longer awaited."""
        if self._requested_at is None or epoch != self._epoch:
            return False
        self._frame = VideoFrame(0, image, self._requested_at, is_drawn=False, is_idle=True)
        self._requested_at = None
        return True

    def take(self) -> VideoFrame | None:
        """Return the frame to send, once."""
        frame, self._frame = self._frame, None
        return frame

    def drop(self) -> bool:
        """Forget the frame, and return whether there was one: a response shows its own."""
        had_frame = self._requested_at is not None or self._frame is not None
        self._requested_at = self._frame = None
        return had_frame

    def lose(self, now: float) -> bool:
        """Forget a frame that will not come, and return whether it was awaited.

        The next one waits a little, so that an engine that fails is not asked all the time.
        """
        if self._requested_at is None:
            return False
        self._retry_at = now + RETRY_S
        return self.drop()

    def _window(self, audio: AudioFormat) -> W:
        if self._silence is None or self._silence[0] != audio:
            utterance = self._open_utterance(audio)
            utterance.append(audio.silence * audio.samples_per_frame(self._fps))
            utterance.finish()
            self._silence = audio, utterance.take()[0]
        return self._silence[1]
