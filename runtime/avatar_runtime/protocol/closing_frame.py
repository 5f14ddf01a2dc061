"""The frame that closes the mouth after a response has ended early.

The last frame that the client shows of what was interrupted may have an open mouth. One more frame,
generated from silence, takes its place. It does not wait for the device while the voice gate finds
silence without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol.frame_flow import FrameDue
from avatar_runtime.protocol.media import VideoFrame, W

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.media import Image, Utterance
    from avatar_runtime.protocol.session_config import SessionConfig

REF: Final = 0
"""`response_ref` of the frame: the first response of a session has 1."""
_DEADLINE_S: Final = 0.080  # the mouth closes within two frames at 25 fps


class ClosingFrame(Generic[W]):
    """At most one frame, on its way from an early end to the client."""

    def __init__(self, open_utterance: Callable[[AudioFormat], Utterance[W]], fps: int) -> None:
        self._open_utterance = open_utterance
        self._fps = fps
        self._window: W | None = None  # to request
        self._requested_at: float | None = None  # in flight
        self._frame: VideoFrame | None = None  # to send

    @property
    def is_awaited(self) -> bool:
        """Whether the client has yet to get the frame."""
        stages = self._window, self._requested_at, self._frame
        return any(stage is not None for stage in stages)

    def open(self, audio: AudioFormat) -> None:
        """Ask for the frame; an older one is obsolete."""
        self.drop()
        utterance = self._open_utterance(audio)
        samples = audio.samples_per_frame(self._fps)
        utterance.append(audio.silence * samples)
        utterance.finish()
        self._window = utterance.take()[0]

    def drop(self) -> None:
        """Forget the frame: a response shows its own."""
        self._window = self._requested_at = self._frame = None

    def due(
        self, config: SessionConfig, epoch: int, position: int, now: float
    ) -> Iterator[FrameDue[W]]:
        """Yield the frame if it was not requested; `position` is that of the session's timeline."""
        window, self._window = self._window, None
        if window is None:
            return
        self._requested_at = now
        yield FrameDue.of(
            config,
            window,
            response_ref=REF,
            epoch=epoch,
            deadline=now + _DEADLINE_S,
            position=position,
            fps=self._fps,
        )

    def deliver(self, image: Image, *, is_drawn: bool) -> bool:
        """Accept the generated frame, or return false if it is no longer awaited."""
        if self._requested_at is None:
            return False
        self._frame = VideoFrame(0, image, self._requested_at, is_drawn)
        self._requested_at = None
        return True

    def take(self) -> VideoFrame | None:
        """Return the frame to send, once."""
        frame, self._frame = self._frame, None
        return frame
