"""The messages of a response that carry sound and pictures, the same for responses of all modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_runtime.protocol import media_headers, server_events

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from avatar_runtime.protocol.media import AudioChunk, VideoFrame
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.turn import Turn


@dataclass(frozen=True, slots=True)
class VideoMessage:
    """A frame and the message that carries it."""

    message: str | bytes
    frame: VideoFrame
    speakable_at: float | None
    """When the first frame of a response could be generated; `None` for the other frames."""
    heard_at: float | None = None
    """When the first audio of an answer arrived; with its first frame only."""
    is_numbered: bool = True
    """Whether the message has a number; the client does not miss one without, if it is lost."""


@dataclass(frozen=True, slots=True)
class MediaMessages:
    """Makes the messages of one response."""

    outbox: Outbox
    turn: Turn[Any]
    response_id: str
    fps: int

    def offset_samples(self, frame: VideoFrame) -> int:
        """Return the first sample of the response that belongs to a frame."""
        return frame.frame_index * self.turn.format.samples_per_frame(self.fps)

    def send_audio(
        self, chunk: AudioChunk, ids: Mapping[str, object], ref: int, epoch: int
    ) -> None:
        """Put sound into the outbox; `ids` name its content part."""
        audio = self.turn.format
        self.outbox.add_media(
            "response.output_audio.delta",
            lambda: server_events.audio_delta(ids, epoch, audio, chunk),
            media_headers.audio(chunk, self.turn, ref, epoch),
            chunk.data,
        )

    def video(
        self,
        frame: VideoFrame,
        item_id: str,
        ref: int,
        epoch: int,
        heard_at: float | None = None,
    ) -> VideoMessage:
        """Return the message of a frame; `heard_at` is kept for the first frame only."""
        offset, rate = self.offset_samples(frame), self.turn.format.rate
        message = self.outbox.number_media(
            "response.video.delta",
            lambda: server_events.video_delta(
                self.response_id,
                item_id,
                epoch,
                frame,
                offset_samples=offset,
                rate=rate,
                fps=self.fps,
            ),
            media_headers.frame(frame, self.turn, ref, epoch, offset_samples=offset),
            frame.payload,
        )
        is_first = frame.frame_index == 0
        return VideoMessage(
            message,
            frame,
            self.turn.speakable_at if is_first else None,
            heard_at if is_first else None,
        )
