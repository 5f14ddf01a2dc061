"""Which encoder a runtime uses for the mode h264: the one of the GPU if a trial succeeds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np

from avatar_runtime.errors import EncoderError
from avatar_runtime.protocol.media import Encoding, RawImage
from avatar_runtime.video import h264

if TYPE_CHECKING:
    from collections.abc import Callable

_SIDE: Final = 256
_KEYFRAMES: Final = (True, False, False, True, False)
_MAX_ERROR: Final = 3.0
"""Mean difference of the luma after decoding, levels of 255."""

_log = logging.getLogger(__name__)


def choose(open_encoder: Callable[[int, str], h264.H264Encoder] = h264.H264Encoder) -> str:
    """Return the codec for sessions in mode h264: that of the GPU, or libx264.

    The trial encodes a few frames and decodes each of them: the driver may lack the encoder, hold
    frames back, or ignore the request for a keyframe.
    """
    try:
        _try(open_encoder(25, h264.HARDWARE))
    except (EncoderError, av.FFmpegError, ValueError) as error:
        _log.info("h264 is encoded on the CPU encoder=%s error=%s", h264.HARDWARE, error)
        return h264.SOFTWARE
    _log.info("h264 is encoded on the GPU encoder=%s", h264.HARDWARE)
    return h264.HARDWARE


def _try(encoder: h264.H264Encoder) -> None:
    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    ramp = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)) // 4
    for number, keyframe in enumerate(_KEYFRAMES):
        luma = (ramp + 40 + 4 * number).astype(np.uint8)
        image = RawImage(luma.tobytes() + bytes([128]) * (_SIDE * _SIDE // 2), _SIDE, _SIDE)
        unit = encoder.encode(image, Encoding(keyframe, 80, 2_000_000))
        shown = decoder.decode(av.Packet(unit))
        if len(shown) != 1 or shown[0].key_frame != keyframe:
            raise EncoderError(f"frame {number} is not one frame that can be decoded at once")
        planes = np.asarray(shown[0].to_ndarray(format="yuv420p"))[:_SIDE]
        error = float(np.abs(planes.astype(int) - luma).mean())
        if error > _MAX_ERROR:
            raise EncoderError(f"frame {number} differs by {error:.1f} levels")
