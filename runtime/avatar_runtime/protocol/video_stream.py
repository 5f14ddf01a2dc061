"""How frames are encoded that depend on others: docs/wire-protocol.md, "Video frames".

Which frames are keyframes, and where they are in the file of a session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol.file_timeline import FileTimeline
from avatar_runtime.protocol.media import Encoding, RawImage
from avatar_runtime.protocol.session_config import VideoMode

if TYPE_CHECKING:
    from avatar_runtime.protocol.media import VideoFrame
    from avatar_runtime.protocol.session_config import SessionConfig

KEYFRAME_PERIOD_S: Final = 2
"""A client that joins, or loses a frame, sees a picture again after this time."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What must stay the same for the next frame to depend on the last one."""

    response_ref: int | None
    epoch: int
    size: tuple[int, int]
    quality: int
    bitrate: int


class VideoStream:
    """The frames of a session in the order in which they are sent."""

    def __init__(self, fps: int) -> None:
        self.file = FileTimeline(fps)
        self._period = KEYFRAME_PERIOD_S * fps
        self._sent: _Sent | None = None
        self._next_index = 0
        self._since_keyframe = 0

    def restart(self) -> None:
        """Start a new stream, and a new file: the client has changed the mode."""
        self._sent = None
        self.file.restart()

    def request_keyframe(self) -> None:
        """Make the next frame a keyframe: the client could not decode one."""
        self._sent = None

    def add(
        self, frame: VideoFrame, response_ref: int | None, epoch: int, config: SessionConfig
    ) -> VideoFrame:
        """Return the frame that is sent next, with its encoding; a JPEG image needs none.

        `response_ref` is `None` for a frame of no response, which follows the one before it.
        """
        image = frame.image
        if not isinstance(image, RawImage):
            self._sent = None  # the decoder of the client starts anew after an image
            return frame
        size = image.width, image.height
        sent = _Sent(response_ref, epoch, size, config.quality, config.bitrate)
        is_next = response_ref is None or frame.frame_index == self._next_index
        follows = sent == self._sent and is_next
        keyframe = not follows or self._since_keyframe >= self._period
        self._sent, self._next_index = sent, frame.frame_index + 1
        self._since_keyframe = 1 if keyframe else self._since_keyframe + 1
        part = None
        if config.video is VideoMode.FMP4:
            part = self.file.place(response_ref, frame.frame_index, config.format)
        return replace(frame, encoding=Encoding(keyframe, config.quality, config.bitrate, part))
