"""Decodes the frames of a response, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from avatar_client import errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_client.traces import VideoFrame


class Decoder:
    """The decoder of one session: H.264 needs each frame since the last keyframe."""

    def __init__(self) -> None:
        self._h264: Any = None

    def decode(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return a frame as `(height, width, 3) uint8` BGR.

        Raises:
            RecordingError: the frame cannot be decoded.
        """
        image = self._decode_h264(frame) if frame.codec == "h264" else _decode_jpeg(frame)
        if image is None:
            name = "one image of H.264" if frame.codec == "h264" else "a JPEG image"
            raise errors.RecordingError(f"frame {frame.frame_index}", f"it is not {name}")
        return image

    def _decode_h264(self, frame: VideoFrame) -> NDArray[np.uint8] | None:
        if self._h264 is None:
            self._h264 = av.CodecContext.create("h264", "r")
            self._h264.thread_count = 1  # more threads would delay each frame
        try:
            decoded = self._h264.decode(av.Packet(frame.data))
        except av.FFmpegError:
            return None
        # The stream says which matrix and range its colours have.
        return decoded[0].to_ndarray(format="bgr24") if len(decoded) == 1 else None


def _decode_jpeg(frame: VideoFrame) -> NDArray[np.uint8] | None:
    if not frame.data:
        return None
    return cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_COLOR)
