"""H.264 for one session: each raw image becomes one Annex-B access unit at once."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from av.video.frame import PictureType

from avatar_runtime.errors import EncoderError

if TYPE_CHECKING:
    from avatar_runtime.protocol.media import Encoding, RawImage

_QUALITY_80_CRF: Final = 21
"""The constant rate factor for the default quality of a session: as close to the source as JPEG of
that quality, for a sixth of the bytes (docs/benchmarks/video.json)."""
_CRF_PER_QUALITY: Final = 0.35
"""A smaller factor is better: quality 100 has 14, quality 1 has 48.65."""
_MAX_CRF: Final = 51
_BT601_MATRIX: Final = 6
"""ITU-T H.273: matrix, primaries and transfer function have one numbering in FFmpeg as well."""
_BT709: Final = 1
_LIMITED_RANGE: Final = 1
"""FFmpeg's AVCOL_RANGE_MPEG."""


@dataclass(frozen=True, slots=True)
class _Settings:
    width: int
    height: int
    quality: int
    bitrate: int


class H264Encoder:
    """The encoder of one session. Only one thread at a time may use it.

    A stream has no B-frames and no look-ahead, so that no frame waits for the next one, and one
    thread, since many sessions share the cores. SPS and PPS precede each keyframe. Colours are
    those of `RawImage`: the matrix of ITU-R BT.601 in limited range, and the primaries and the
    transfer function of BT.709; the stream says so.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._settings: _Settings | None = None
        self._context: Any = None
        self._frames = 0

    def encode(self, image: RawImage, encoding: Encoding) -> bytes:
        """Return the access unit of an image.

        A change of the size, the quality or the bitrate starts a new stream, with a keyframe.

        Raises:
            EncoderError: the encoder failed, or did not return one access unit.
        """
        settings = _Settings(image.width, image.height, encoding.quality, encoding.bitrate)
        try:
            shape = image.height * 3 // 2, image.width
            planes = np.frombuffer(image.planes, np.uint8).reshape(shape)
            if settings != self._settings:
                self._context, self._frames = self._open(settings), 0
                self._settings = settings
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
            frame.pict_type = PictureType.I if encoding.keyframe else PictureType.NONE
            packets = self._context.encode(frame)
        except (av.FFmpegError, ValueError) as error:
            self._settings = None
            raise EncoderError(f"{image.width} x {image.height}: {error}") from error
        self._frames += 1
        if len(packets) != 1:
            self._settings = None
            raise EncoderError(f"{len(packets)} access units for one frame")
        return bytes(packets[0])

    def _open(self, settings: _Settings) -> Any:
        context: Any = av.CodecContext.create("libx264", "w")
        context.width, context.height = settings.width, settings.height
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = Fraction(1, self._fps), Fraction(self._fps)
        context.thread_count, context.max_b_frames = 1, 0
        context.colorspace, context.color_range = _BT601_MATRIX, _LIMITED_RANGE
        context.color_primaries, context.color_trc = _BT709, _BT709
        crf = _QUALITY_80_CRF + (80 - settings.quality) * _CRF_PER_QUALITY
        kbits = settings.bitrate // 1000
        context.options = {
            "preset": "superfast",
            "tune": "zerolatency",
            "crf": f"{min(crf, _MAX_CRF):.2f}",
            "forced-idr": "1",
            # The buffer of the client holds one second.
            "x264-params": f"keyint=infinite:scenecut=0:repeat-headers=1:vbv-maxrate={kbits}"
            f":vbv-bufsize={kbits}",
        }
        context.open()
        return context
