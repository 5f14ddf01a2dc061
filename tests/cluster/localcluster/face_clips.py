"""Clips and pictures of a photographed face, as the preparation gets them.

The face moves in a circle before a smooth background, under sensor noise, so that the files cost as
much to decode as those of a camera.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np
from skimage import data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

_NOISE_LEVELS: Final = 2.0
"""Standard deviation of the sensor noise, of 255 levels."""
_NOISES: Final = 5
_RADIUS_RATIO: Final = 0.01
"""Radius of the circle, in heights of the picture."""
_FRAMES_A_TURN: Final = 50
_X264: Final = {"preset": "veryfast"}
_X265: Final = {"preset": "ultrafast", "x265-params": "log-level=0"}
BITS_A_PIXEL: Final = 0.3
"""Bits of a coded pixel: 15 Mbit/s for 1920x1080 at 25 frames a second, as a phone records."""
_SDR: Final = {"matrix": 1, "transfer": 1, "primaries": 1}
_PQ: Final = {"matrix": 9, "transfer": 16, "primaries": 9}
_HLG: Final = {"matrix": 9, "transfer": 18, "primaries": 9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One kind of source."""

    name: str
    """File or folder; the ending of a folder's name is that of its pictures."""
    width: int
    height: int
    codec: str = ""
    """Codec of a video; empty for pictures."""
    pixel_format: str = "yuv420p"
    colours: Mapping[str, int] = field(default_factory=lambda: _SDR)
    """`AVColorSpace`, `AVColorTransferCharacteristic` and `AVColorPrimaries` of a video."""
    options: Mapping[str, str] = field(default_factory=dict)
    alpha: bool = False
    photo: bool = False
    """Whether the source is a single picture."""


CLIPS: Final = (
    Clip(name="h264-480.mp4", width=480, height=432, codec="libx264", options=_X264),
    Clip(name="h264-1080.mp4", width=1920, height=1080, codec="libx264", options=_X264),
    Clip(name="h264-2160.mp4", width=3840, height=2160, codec="libx264", options=_X264),
    Clip(
        name="p3-1080.mp4", width=1920, height=1080, codec="libx264", options=_X264,
        colours={"matrix": 1, "transfer": 1, "primaries": 12},
    ),
    Clip(
        name="pq-1080.mp4", width=1920, height=1080, codec="libx265", options=_X265,
        pixel_format="yuv420p10le", colours=_PQ,
    ),
    Clip(
        name="hlg-1080.mp4", width=1920, height=1080, codec="libx265", options=_X265,
        pixel_format="yuv420p10le", colours=_HLG,
    ),
    Clip(
        name="hlg-2160.mp4", width=3840, height=2160, codec="libx265", options=_X265,
        pixel_format="yuv420p10le", colours=_HLG,
    ),
    Clip(
        name="prores-alpha-1080.mov", width=1920, height=1080, codec="prores_ks", alpha=True,
        pixel_format="yuva444p10le", options={"profile": "4444"},
    ),
    Clip(name="folder-1080.png", width=1920, height=1080),
    Clip(name="folder-alpha-1080.png", width=1920, height=1080, alpha=True),
    Clip(name="folder-1080.jpg", width=1920, height=1080),
    Clip(name="photo-12mp.jpg", width=4032, height=3024, photo=True),
    Clip(name="photo-12mp.png", width=4032, height=3024, photo=True),
)  # fmt: skip
"""The kinds of sources that the preparation takes most often."""


def write(
    folder: Path, clip: Clip, frames: int, seed: int, bits_a_pixel: float = BITS_A_PIXEL
) -> Path:
    """Write a source of `frames` frames, 1 for a photo, and return its path."""
    path = folder / clip.name
    pictures = _pictures(clip, 1 if clip.photo else frames, seed)
    if clip.codec:
        _write_video(path, clip, pictures, bits_a_pixel)
    elif clip.photo:
        cv2.imwrite(str(path), next(pictures))
    else:
        path.mkdir()
        for index, picture in enumerate(pictures):
            cv2.imwrite(str(path / f"{index:04d}{path.suffix}"), picture)
    return path


def repeat(path: Path, times: int) -> Path:
    """Join a video to itself and return the path of the long one; no frame is coded again."""
    target = path.with_name(f"{path.stem}-{times}{path.suffix}")
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        coded = source.streams.video[0]
        packets = [packet for packet in source.demux(coded) if packet.dts is not None]
        stream = container.add_stream_from_template(coded)
        for number in range(times):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts = packet.pts + number * coded.duration
                copy.dts = packet.dts + number * coded.duration
                copy.time_base, copy.duration = coded.time_base, packet.duration
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                container.mux(copy)
    return target


def _pictures(clip: Clip, frames: int, seed: int) -> Iterator[Picture]:
    """Yield `(h, w, 3)` BGR, or with straight alpha."""
    rng = np.random.default_rng(seed)
    width, height = clip.width, clip.height
    small = rng.integers(40, 200, (height // 60 + 1, width // 60 + 1, 3), dtype=np.uint8)
    scene = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    side = height * 5 // 6
    head = data.astronaut()[:300, 75:375, ::-1]
    face = cv2.resize(head, (side, side), interpolation=cv2.INTER_CUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    scene[top : top + side, left : left + side] = face
    noises = [
        rng.normal(0, _NOISE_LEVELS, scene.shape).astype(np.float32).round().astype(np.int8)
        for _ in range(min(frames, _NOISES))
    ]
    radius = height * _RADIUS_RATIO
    for index in range(frames):
        angle = 2 * np.pi * index / _FRAMES_A_TURN
        shift = np.array([[1, 0, radius * np.sin(angle)], [0, 1, radius * np.cos(angle)]])
        moved = cv2.warpAffine(scene, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        noisy = cv2.add(moved, noises[index % _NOISES], dtype=cv2.CV_8U)
        yield np.dstack([noisy, _alpha(width, height)]) if clip.alpha else np.asarray(noisy)


def _alpha(width: int, height: int) -> Picture:
    """Return an opaque middle with a soft edge."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 4 : width * 3 // 4] = 255
    return np.asarray(cv2.blur(mask, (31, 31)), np.uint8)


def _write_video(path: Path, clip: Clip, pictures: Iterator[Picture], bits_a_pixel: float) -> None:
    colours = clip.colours
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(clip.codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pixel_format
        context = stream.codec_context
        context.options = dict(clip.options)
        context.bit_rate = int(bits_a_pixel * clip.width * clip.height * 25)
        context.colorspace, context.color_range = colours["matrix"], 1
        context.color_trc, context.color_primaries = colours["transfer"], colours["primaries"]
        for index, picture in enumerate(pictures):
            layout = "bgra" if clip.alpha else "bgr24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
            frame = frame.reformat(
                format=clip.pixel_format,
                dst_colorspace=colours["matrix"],
                src_color_range=2,
                dst_color_range=1,
            )
            frame.color_trc, frame.color_primaries = colours["transfer"], colours["primaries"]
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
