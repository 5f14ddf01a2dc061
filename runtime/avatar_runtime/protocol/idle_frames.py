"""The frames that belong to no response: the one that closes the mouth, and those of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol import closing_frame, document_fields, idle_stream
from avatar_runtime.protocol.media import RawImage, W
from avatar_runtime.protocol.session_config import VideoMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.frame_flow import FrameDue, FrameFlow
    from avatar_runtime.protocol.media import Image, Utterance, VideoFrame
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.strict_fields import StrictFields

REFS: Final = (closing_frame.REF, idle_stream.REF)
"""Their `response_ref`."""
_FILE_LEAD_S: Final = 0.2
"""How far a file is ahead of what the client plays while nobody speaks, so that it does not run
out: more than its sound is behind its pictures, which is up to 0.16 s."""


class IdleFrames(Generic[W]):
    """The frames of one session that belong to no response."""

    def __init__(self, open_utterance: Callable[[AudioFormat], Utterance[W]], fps: int) -> None:
        self.may_stream = False
        """Whether the client knows the session, so that it can get a stream."""
        self._closing = closing_frame.ClosingFrame(open_utterance, fps)
        self._stream = idle_stream.IdleStream(open_utterance, fps)

    def close_mouth(self, audio: AudioFormat) -> None:
        """Ask for the frame that closes the mouth."""
        self._closing.open(audio)

    def drop(self) -> None:
        """Forget all frames: a response shows its own."""
        self._closing.drop()
        self._stream.drop()

    def next_due(self, config: SessionConfig, epoch: int, flow: FrameFlow[W]) -> float | None:
        """Return when the next frame of the stream is due, or `None` if there is none now."""
        if not self.may_stream or not config.streams_idle_frames:
            return None
        has_lead = config.video is VideoMode.FMP4
        begin = flow.idle_from(_FILE_LEAD_S if has_lead else 0.0)
        return None if begin is None else self._stream.next_due(epoch, begin, has_lead=has_lead)

    def closing_due(
        self, config: SessionConfig, epoch: int, position: int, now: float
    ) -> Iterator[FrameDue[W]]:
        """Yield the frame that closes the mouth, once; `position` is that of the timeline."""
        return self._closing.due(config, epoch, position, now)

    def stream_due(
        self, config: SessionConfig, epoch: int, position: int, now: float
    ) -> Iterator[FrameDue[W]]:
        """Yield the next frame of the stream, which is due."""
        return self._stream.due(config, epoch, position, now)

    def deliver(self, response_ref: int, epoch: int, image: Image, *, is_drawn: bool) -> bool:
        """Accept a generated frame, or return false if it is no longer awaited."""
        if response_ref == closing_frame.REF:
            return self._closing.deliver(image, is_drawn=is_drawn)
        return self._stream.deliver(epoch, image)

    def lose(self, response_ref: int, now: float) -> bool:
        """Forget a frame of the stream that will not come, and return whether it was awaited."""
        return response_ref == idle_stream.REF and self._stream.lose(now)

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values. Frames on their way are asked for again."""
        stream = document_fields.export(self._stream, idle_stream.IdleStream.STATE, now)
        return {"closes_mouth": self._closing.is_awaited, **stream}

    def restore(self, fields: StrictFields, audio: AudioFormat, now: float) -> None:
        """Continue from what another session has exported; `audio` is the format of the session.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        self.may_stream = True
        document_fields.restore(self._stream, fields, idle_stream.IdleStream.STATE, now)
        if fields.boolean("closes_mouth"):
            self._closing.open(audio)

    def take(self, config: SessionConfig) -> VideoFrame | None:
        """Return the frame to send in the mode of the session, once."""
        frame = self._closing.take()
        if frame is not None or not config.streams_idle_frames:
            self._stream.drop()
        frame = frame or self._stream.take()
        if frame is not None and config.video is VideoMode.FMP4:
            image = frame.image
            if not isinstance(image, RawImage) or (image.width, image.height) != config.image_size:
                return None  # it was requested before the client changed the mode
        return frame
