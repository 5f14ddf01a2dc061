"""Makes videos and photos by code: motion, rates, colours, tags and damage of choice.

Pictures are `(height, width, 3) uint8` BGR, or with a fourth channel of straight alpha.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

# 90 kHz holds the usual frame rates exactly, 1001/30000 and 1001/60000 s among them.
CLOCK = 90_000
_MARK_BITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How pictures become a file."""

    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    fps: Fraction = Fraction(25)
    options: Mapping[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "crf": "12"})
    muxing: Mapping[str, str] = field(default_factory=dict)
    matrix: int = 1
    """`AVColorSpace`: 1 is BT.709, 6 is BT.601, 9 is BT.2020."""
    full_range: bool = False
    transfer: int = 2
    """`AVColorTransferCharacteristic`: 2 is unspecified, 16 is that of HDR10."""
    primaries: int = 2
    """`AVColorPrimaries`: 2 is unspecified, 9 is BT.2020."""
    pixel_aspect: Fraction | None = None
    sound: bool = False
    container: str | None = None
    """Name of the format; the ending of the file name decides if it is `None`."""


def write(
    path: Path,
    pictures: Iterable[Picture | av.VideoFrame],
    coding: Coding | None = None,
    times: Sequence[Fraction] | None = None,
) -> Path:
    """Write a video; picture i is shown from `times[i]` seconds on, or from i / fps.

    A picture may also be an `av.VideoFrame`, which is coded as it is.
    """
    coding = coding or Coding()
    with av.open(str(path), "w", format=coding.container, options=dict(coding.muxing)) as container:
        stream: Any = None
        sound: Any = container.add_stream("aac", rate=16_000) if coding.sound else None
        shown = -1
        for shown, picture in enumerate(pictures):
            frame = picture if isinstance(picture, av.VideoFrame) else make_frame(picture, coding)
            if stream is None:
                stream = _stream(container, coding, frame)
            time = Fraction(shown) / coding.fps if times is None else times[shown]
            frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_sound(container, sound, Fraction(shown + 1) / coding.fps)
    return path


def _stream(container: Any, coding: Coding, frame: Any) -> Any:
    stream = container.add_stream(coding.codec, rate=coding.fps)
    stream.width, stream.height = frame.width, frame.height
    stream.pix_fmt = coding.pixel_format
    context = stream.codec_context
    # The MPEG codecs know only the clock of their frame rate.
    context.time_base = 1 / coding.fps if "mpeg" in coding.codec else Fraction(1, CLOCK)
    context.options = dict(coding.options)
    context.thread_count = 1
    if not coding.pixel_format.startswith(("rgb", "bgr", "gbr", "pal")):
        context.colorspace = coding.matrix
        context.color_range = 2 if coding.full_range else 1
    context.color_trc, context.color_primaries = coding.transfer, coding.primaries
    if coding.pixel_aspect is not None:
        context.sample_aspect_ratio = coding.pixel_aspect
    return stream


def make_frame(picture: Picture, coding: Coding) -> Any:
    """Return the `av.VideoFrame` that is coded for a picture."""
    layout = "bgra" if picture.shape[2] == 4 else "bgr24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
    if coding.pixel_format.startswith(("rgb", "bgr", "gbr", "pal")):
        return frame.reformat(format=coding.pixel_format)
    # Accurate rounding (0x40000), so that a wrong colour in a test is the fault of the reader.
    made = frame.reformat(
        format=coding.pixel_format,
        dst_colorspace=coding.matrix,
        src_color_range=2,
        dst_color_range=2 if coding.full_range else 1,
        interpolation=4 | 0x40000,
    )
    made.color_trc, made.color_primaries = coding.transfer, coding.primaries
    return made


def _write_sound(container: Any, sound: Any, seconds: Fraction) -> None:
    total = int(seconds * 16_000)
    wave = (np.sin(np.arange(total) * 0.17) * 8000).astype(np.int16)
    for start in range(0, total, 1024):
        part = wave[None, start : start + 1024]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "s16", "mono")
        frame.sample_rate, frame.pts = 16_000, start
        frame.time_base = Fraction(1, 16_000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def write_sound_only(path: Path, seconds: int = 2) -> Path:
    """Write a file that has sound and no picture."""
    with av.open(str(path), "w") as container:
        _write_sound(container, container.add_stream("aac", rate=16_000), Fraction(seconds))
    return path


LOSSLESS = Coding(codec="ffv1", pixel_format="bgr0", options={})
FORMATS: Mapping[str, Coding] = {
    "h264.mp4": Coding(sound=True),
    "h264.mov": Coding(),
    "fragmented.mp4": Coding(muxing={"movflags": "frag_keyframe+empty_moov"}, options={"g": "12"}),
    "h264.ts": Coding(),
    "h264.mkv": Coding(),
    "10bit.mp4": Coding(pixel_format="yuv420p10le"),
    "hevc.mp4": Coding(
        codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=0"}
    ),
    "vp8.webm": Coding(codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
    "vp9.webm": Coding(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    "av1.mp4": Coding(
        codec="libsvtav1", options={"preset": "8", "crf": "5", "svtav1-params": "lp=1"}
    ),
    "mpeg4.avi": Coding(codec="mpeg4", options={"b": "4M"}),
    "mpeg2.mpg": Coding(codec="mpeg2video", options={"b": "4M"}, container="mpeg"),
    "motion-jpeg.mov": Coding(
        codec="mjpeg", pixel_format="yuvj420p", matrix=6, full_range=True, options={}
    ),
    "prores.mov": Coding(codec="prores_ks", pixel_format="yuv422p10le", options={}),
    "lossless.mkv": LOSSLESS,
    "animation.gif": Coding(codec="gif", pixel_format="rgb8", options={}),
    "animation.apng": Coding(codec="apng", pixel_format="rgb24", options={}, container="apng"),
}  # fmt: skip
"""A coding for each format that a source may have; the key is a file name."""


def numbered(count: int, width: int = 320, height: int = 240, first: int = 0) -> Iterator[Picture]:
    """Yield pictures that hold their own number as bright and dark bars; `read_number` reads it."""
    for number in range(first, first + count):
        picture = np.full((height, width, 3), 60, np.uint8)
        for bit in range(_MARK_BITS):
            left, right = (width * edge // _MARK_BITS for edge in (bit, bit + 1))
            picture[height // 4 :, left:right] = 220 if number >> bit & 1 else 20
        yield picture


def read_number(picture: Picture) -> int:
    """Return the number that a picture of `numbered` holds, whatever its size."""
    height, width = picture.shape[:2]
    middle = picture[height * 5 // 8]
    bars = [middle[width * (2 * bit + 1) // (2 * _MARK_BITS)].mean() for bit in range(_MARK_BITS)]
    return sum((bar > 120) << bit for bit, bar in enumerate(bars))


def noise(height: int, width: int, seed: int = 0) -> Picture:
    """Return smooth coloured noise, which looks the same nowhere."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)


def still(picture: Picture, count: int) -> Iterator[Picture]:
    """Yield the same picture `count` times."""
    return (picture for _ in range(count))


def moving(picture: Picture, count: int, pixels: float = 40.0) -> Iterator[Picture]:
    """Yield the picture on a circle with a radius of `pixels`, once around, edges repeated."""
    return _warped(picture, count, lambda part: _shift(pixels, part))


def zooming(picture: Picture, count: int, most: float = 1.5) -> Iterator[Picture]:
    """Yield the picture enlarged about its centre from 1 to `most`."""
    height, width = picture.shape[:2]
    centre = (width / 2, height / 2)
    return _warped(
        picture, count, lambda part: cv2.getRotationMatrix2D(centre, 0, 1 + (most - 1) * part)
    )


def turning(picture: Picture, count: int, degrees: float = 20.0) -> Iterator[Picture]:
    """Yield the picture turned about its centre by 0 to `degrees`."""
    height, width = picture.shape[:2]
    centre = (width / 2, height / 2)
    return _warped(picture, count, lambda part: cv2.getRotationMatrix2D(centre, degrees * part, 1))


def _shift(pixels: float, part: float) -> NDArray[Any]:
    angle = 2 * np.pi * part
    return np.array([[1, 0, pixels * np.sin(angle)], [0, 1, pixels * (np.cos(angle) - 1)]])


def _warped(picture: Picture, count: int, matrix: Callable[[float], Any]) -> Iterator[Picture]:
    size = (picture.shape[1], picture.shape[0])
    for index in range(count):
        part = index / max(1, count - 1)
        made = cv2.warpAffine(picture, matrix(part), size, borderMode=cv2.BORDER_REPLICATE)
        yield np.asarray(made, np.uint8)


def cut_at_edge(picture: Picture, box: tuple[int, int, int, int], share: float = 0.5) -> Picture:
    """Return the picture without the columns left of `share` of the box `(x1, y1, x2, y2)`."""
    left = round(box[0] + (box[2] - box[0]) * share)
    return np.ascontiguousarray(picture[:, left:])


def side_by_side(left: Picture, right: Picture) -> Picture:
    """Return both pictures in a row; the right one takes the height of the left one."""
    height = left.shape[0]
    width = round(right.shape[1] * height / right.shape[0])
    return np.concatenate([left, cv2.resize(right, (width, height))], axis=1)


def missing_in_middle(pictures: Iterable[Picture], first: int, last: int) -> Iterator[Picture]:
    """Yield the pictures, grey from index `first` to `last - 1`."""
    for index, picture in enumerate(pictures):
        yield np.full_like(picture, 128) if first <= index < last else picture


def mixed_times(rates: Sequence[tuple[int, int]]) -> list[Fraction]:
    """Return the times of frames for parts of `(frames, frames per second)`, one after another."""
    times, now = [], Fraction(0)
    for count, fps in rates:
        times += [now + Fraction(index, fps) for index in range(count)]
        now += Fraction(count, fps)
    return times


def rotate_tag(path: Path, degrees: int, mirror: bool = False) -> Path:
    """Set the display matrix of an MP4 or MOV: turned clockwise by 0, 90, 180 or 270 degrees."""
    turn = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = turn
    if mirror:  # before the turn
        a, b = -a, -b
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    # ISO/IEC 14496-12, 8.3.2: in version 0 the matrix starts 44 bytes after the type of the box.
    at = data.index(b"tkhd") + 44
    data[at : at + len(matrix)] = matrix
    path.write_bytes(data)
    return path


def photo(path: Path, picture: Picture, orientation: int = 1, quality: int = 95) -> Path:
    """Write a photo; `orientation` is the EXIF value 1 to 8 and goes into JPEG files only."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix in {".jpg", ".jpeg"} else []
    done, data = cv2.imencode(path.suffix, picture, flags)
    assert done
    coded = data.tobytes()
    if orientation != 1:
        coded = coded[:2] + _exif(orientation) + coded[2:]
    path.write_bytes(coded)
    return path


def _exif(orientation: int) -> bytes:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def truncate(path: Path, share: float) -> Path:
    """Keep the first `share` of the bytes of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def with_options(coding: Coding, **changes: Any) -> Coding:
    """Return the coding with these fields changed."""
    return replace(coding, **changes)
