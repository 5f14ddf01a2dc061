"""Decodes the frames of a response, in their order."""

from __future__ import annotations

import io
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np

from avatar_client import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from avatar_client.traces import Patch, VideoFrame

SOUND_RATE: Final = 24_000
"""Of the sound in a file, Hz."""

WHITE: Final = (255, 255, 255)


class FileDecoder:
    """The decoder of the file of a session, whose frames are asked for in their order."""

    def __init__(self, file: bytes) -> None:
        """`file` is all that the session has sent.

        Raises:
            RecordingError: it is not a file.
        """
        self._file = file
        try:
            self._frames = av.open(io.BytesIO(file)).decode(video=0)
        except (av.FFmpegError, IndexError) as error:
            raise errors.RecordingError("the file of the session", str(error)) from error

    def decode(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return a frame as `(height, width, 3) uint8` BGR.

        Raises:
            RecordingError: the file does not have it, or cannot be decoded.
        """
        try:
            for found in self._frames:
                if frame.file_ms is not None and round(found.time * 1000) == round(frame.file_ms):
                    return np.asarray(found.to_ndarray(format="bgr24"), np.uint8)
        except av.FFmpegError as error:
            raise errors.RecordingError(f"frame {frame.frame_index}", str(error)) from error
        raise errors.RecordingError(f"frame {frame.frame_index}", "the file does not have it")

    def sound(self) -> NDArray[np.int16]:
        """Return the sound of the file from its time 0 on, mono at `SOUND_RATE`.

        Raises:
            RecordingError: it cannot be decoded.
        """
        try:
            with av.open(io.BytesIO(self._file)) as container:
                parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        except (av.FFmpegError, IndexError) as error:
            raise errors.RecordingError("the sound of the session", str(error)) from error
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return np.asarray(np.clip(np.round(samples * 32_768), -32_768, 32_767), np.int16)


class Decoder:
    """The decoder of one session: H.264 needs each frame since the last keyframe."""

    def __init__(self, pictures: Mapping[str, bytes] = MappingProxyType({})) -> None:
        """`pictures` are the JPEG files below patches, by `Patch.picture`."""
        self._pictures = pictures
        self._h264: Any = None

    def decode(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return a frame as `(height, width, 3) uint8` BGR.

        Raises:
            RecordingError: the frame cannot be decoded.
        """
        if frame.patch is not None:
            return self._compose(frame, frame.patch)
        image = self._decode_h264(frame) if frame.codec == "h264" else _decode_jpeg(frame.data)
        if image is None:
            name = "one image of H.264" if frame.codec == "h264" else "a JPEG image"
            raise errors.RecordingError(f"frame {frame.frame_index}", f"it is not {name}")
        return image

    def _compose(self, frame: VideoFrame, patch: Patch) -> NDArray[np.uint8]:
        """Return the picture in silence with the patch over it."""
        name = f"frame {frame.frame_index}"
        image = _decode_jpeg(self._pictures.get(patch.picture, b""))
        if image is None:
            raise errors.RecordingError(name, f"{patch.picture} is not a JPEG image")
        left, top, width, height = patch.rect
        if not width or not height:
            return image
        drawn = _decode_jpeg(frame.data)
        below = image[top : top + height, left : left + width]
        if drawn is None or drawn.shape != below.shape:
            problem = f"it is not a JPEG image of {width} x {height} inside the picture"
            raise errors.RecordingError(name, problem)
        below[:] = drawn
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


def cut_out(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with premultiplied alpha, `(height, width, 4) uint8` BGRA.

    `image`, `(2 * height, width, 3) uint8` BGR, is one of `VideoFrame.has_alpha`.
    """
    height = image.shape[0] // 2
    alpha = image[height : 2 * height].mean(axis=2).round()
    return np.dstack([image[:height], np.asarray(alpha, np.uint8)])


def over(image: NDArray[np.uint8], page: tuple[int, int, int] = WHITE) -> NDArray[np.uint8]:
    """Return a picture with alpha, as `cut_out` takes it, over a colour: blue, green and red."""
    picture = cut_out(image).astype(np.float32)
    seen = 1 - picture[..., 3:] / 255
    mixed = picture[..., :3] + seen * np.asarray(page, np.float32)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    if not data:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(image, np.uint8)
