"""H.264 for one session: each raw image becomes one access unit at once."""

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

SOFTWARE: Final = "libx264"
HARDWARE: Final = "h264_nvenc"
_QUALITY_80_CRF: Final = 21
"""The constant rate factor for the default quality of a session: about as close to the source as
JPEG of that quality, for a sixth of the bytes (docs/benchmarks/video.json)."""
_CRF_PER_QUALITY: Final = 0.35
"""A smaller factor is better: quality 100 has 14, quality 1 has 48.65."""
_MAX_CRF: Final = 51
_X264_SEARCH: Final = "aq-mode=0:subme=2"
"""What differs from the preset (decision 0049). A finer motion search takes fewer bytes for a head
that moves; without adaptive quantization, the bits go where the picture differs from the source."""
_BT601_MATRIX: Final = 6
"""ITU-T H.273: matrix, primaries and transfer function have one numbering in FFmpeg as well."""
_BT709: Final = 1
_LIMITED_RANGE: Final = 1
"""FFmpeg's AVCOL_RANGE_MPEG."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What an encoder cannot change while it runs."""

    width: int
    height: int
    quality: int
    bitrate: int

    @classmethod
    def of(cls, image: RawImage, encoding: Encoding) -> StreamSettings:
        """Return the settings for an image."""
        return cls(image.width, image.height, encoding.quality, encoding.bitrate)


class H264Encoder:
    """The encoder of one session. Only one thread at a time may use it.

    A stream has no B-frames and no look-ahead, so that no frame waits for the next one, and one
    thread, since many sessions share the cores. SPS and PPS precede each keyframe. Colours are
    those of `RawImage`: the matrix of ITU-R BT.601 in limited range, and the primaries and the
    transfer function of BT.709; the stream says so.
    """

    def __init__(self, fps: int, codec: str = SOFTWARE) -> None:
        """`codec` is `SOFTWARE` or `HARDWARE`."""
        self._fps = fps
        self._codec = codec
        self._settings: StreamSettings | None = None
        self._context: Any = None
        self._frames = 0

    def encode(self, image: RawImage, encoding: Encoding) -> bytes:
        """Return the access unit of an image, in Annex-B form.

        A change of the size, the quality or the bitrate starts a new stream, with a keyframe.

        Raises:
            EncoderError: the encoder failed, or did not return one access unit.
        """
        settings = StreamSettings.of(image, encoding)
        try:
            frame = picture(image, keyframe=encoding.keyframe)
            if settings != self._settings:
                self._context, self._frames = self._open(settings), 0
                self._settings = settings
            frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
            packets = self._context.encode(frame)
        except (av.FFmpegError, ValueError) as error:
            self._settings = None
            raise EncoderError(f"{image.width} x {image.height}: {error}") from error
        self._frames += 1
        if len(packets) != 1:
            self._settings = None
            raise EncoderError(f"{len(packets)} access units for one frame")
        return bytes(packets[0])

    def _open(self, settings: StreamSettings) -> Any:
        context: Any = av.CodecContext.create(self._codec, "w")
        context.time_base = Fraction(1, self._fps)
        configure(context, self._fps, settings)
        context.open()
        return context


def picture(image: RawImage, *, keyframe: bool) -> Any:
    """Return the frame to encode, without its time.

    Raises:
        ValueError: the planes do not have the size of the image.
    """
    shape = image.height * 3 // 2, image.width
    planes = np.frombuffer(image.planes, np.uint8).reshape(shape)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.pict_type = PictureType.I if keyframe else PictureType.NONE
    return frame


def configure(
    context: Any, fps: int, settings: StreamSettings, *, headers_in_file: bool = False
) -> None:
    """Set up an encoder that is not open yet.

    `headers_in_file` is for a file: SPS and PPS are in its header alone, so that they must be the
    same for any quality and bitrate.
    """
    context.width, context.height = settings.width, settings.height
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(fps)
    context.thread_count, context.max_b_frames = 1, 0
    context.colorspace, context.color_range = _BT601_MATRIX, _LIMITED_RANGE
    context.color_primaries, context.color_trc = _BT709, _BT709
    crf = min(_QUALITY_80_CRF + (80 - settings.quality) * _CRF_PER_QUALITY, _MAX_CRF)
    kbits = settings.bitrate // 1000
    if context.codec.name == HARDWARE:
        context.options = {
            "preset": "p1",
            "tune": "ull",
            "zerolatency": "1",
            "delay": "0",
            "rc": "vbr",
            "cq": f"{crf:.2f}",
            "maxrate": str(settings.bitrate),
            "bufsize": str(settings.bitrate),
            "g": "-1",
            "forced-idr": "1",
        }
        return
    headers = "repeat-headers=1"
    if headers_in_file:
        # 5.1 is the lowest level that holds the largest resolution.
        level = "4.0" if settings.width * settings.height <= _LEVEL_4_PIXELS else "5.1"
        headers = f"stitchable=1:level={level}"
    context.options = {
        "preset": "superfast",
        "tune": "zerolatency",
        "crf": f"{crf:.2f}",
        "forced-idr": "1",
        # The buffer of the client holds one second.
        "x264-params": f"{_X264_SEARCH}:keyint=infinite:scenecut=0:{headers}"
        f":vbv-maxrate={kbits}:vbv-bufsize={kbits}",
    }


_LEVEL_4_PIXELS: Final = 8192 * 256
"""Level 4.0 holds 8192 macroblocks of 16 x 16 pixels."""
