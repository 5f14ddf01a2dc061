"""First look at a file: its first frame, its length, and the part of it that is prepared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import SourceError
from avatar_runtime.preparation.source import MEGAPIXEL
from avatar_runtime.preparation.sources.container import check_photo_bytes, translated
from avatar_runtime.preparation.sources.reading import Reading, frame_time
from avatar_runtime.preparation.sources.scan import Scan, scan
from avatar_runtime.preparation.sources.shaping import Shape, shape_of
from avatar_runtime.preparation.sources.timeline import count_frames

if TYPE_CHECKING:
    from pathlib import Path

    from avatar_runtime.preparation.source import SourceLimits, SourceOptions

# Formats whose index finds a key frame exactly.
_INDEXED: Final = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
# Headers round their length; less than this is no sign of a file that was cut off.
_CUT_SECONDS: Final = Fraction(1, 2)
_SAME_RATE: Final = 0.05  # frames a second: rounded time stamps give 24.99 for 25
_MICROSECONDS: Final = 1_000_000  # AV_TIME_BASE: unit of the length in a container's header


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the first frame and the packets of a file tell."""

    identity: tuple[int, ...]
    origin: Fraction
    """Time stamp of the first frame, in seconds on the clock of the file."""
    step: Fraction
    """Seconds between two frames."""
    scan: Scan
    shape: Shape
    still: bool
    """Whether the file holds a single picture."""
    interlaced: bool
    seekable: bool
    """Whether a pass may start at a key frame."""
    codec: str
    pixel_format: str
    has_audio: bool
    notes: tuple[str, ...]

    @property
    def seconds(self) -> Fraction:
        """Length from the first frame to the end of the last one."""
        return max(self.scan.end - self.origin, self.step)


@dataclass(frozen=True, slots=True)
class Part:
    """The part of the source that becomes frames, in seconds from its first frame."""

    start: Fraction
    end: Fraction
    count: int
    """Frames of the result."""


def probe(path: Path, options: SourceOptions) -> Probe:
    """Decode the first frame and read all packets.

    Raises:
        SourceError: The file cannot be read as pictures.
    """
    until = None if options.end is None else _seconds(path, "end", options.end) + 1
    with Reading(path, options.limits) as reading, translated(path):
        scanned = scan(reading.packets(), reading.step, until)
        broke_off = reading.broke_off
    if scanned is None:
        raise SourceError(str(path), "has no picture")
    with Reading(path, options.limits) as reading:
        return _first_frame(reading, scanned, broke_off, options)


def _first_frame(reading: Reading, scanned: Scan, broke_off: bool, options: SourceOptions) -> Probe:
    path, stream = reading.path, reading.stream
    still = reading.still or (scanned.packets == 1 and scanned.complete)
    check_size(path, reading, still, options.limits)
    frame = next(reading.frames(), None)
    if frame is None:
        raise SourceError(str(path), no_picture(reading, still, options.limits))
    time = frame_time(frame)
    notes = _notes(reading, scanned, broke_off)
    interlaced = not still and reading.interlaced(frame)
    if interlaced:
        notes.append("the video is interlaced; each two fields become one frame")
    return Probe(
        identity=reading.identity,
        origin=scanned.first if time is None else time,
        step=reading.step,
        scan=scanned,
        shape=shape_of(str(path), frame, stream.sample_aspect_ratio, options),
        still=still,
        interlaced=interlaced,
        seekable=scanned.clean and not broke_off and reading.container.format.name in _INDEXED,
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        has_audio=bool(reading.container.streams.audio),
        notes=tuple(notes),
    )


def no_picture(reading: Reading, still: bool, limits: SourceLimits) -> str:
    """Return why a file gave no frame."""
    context = reading.stream.codec_context
    if context.width * context.height:
        return f"no picture of it can be decoded (codec {context.name})"
    # FFmpeg does not report the size of a picture that it refuses.
    most = (limits.max_photo_pixels if still else limits.max_frame_pixels) / MEGAPIXEL
    return f"no picture of it can be decoded: it is damaged or has more than {most:g} megapixels"


def check_size(path: Path, reading: Reading, still: bool, limits: SourceLimits) -> None:
    """Refuse a file whose pictures are too large.

    Raises:
        SourceError: the file or its pictures exceed a limit.
    """
    if still:
        check_photo_bytes(path, reading.identity[2], limits)
    most = limits.max_photo_pixels if still else limits.max_frame_pixels
    width, height = reading.stream.codec_context.width, reading.stream.codec_context.height
    if width * height > most:
        raise SourceError(
            str(path),
            f"has {width}x{height} pixels, a {'photo' if still else 'video'} must have at most "
            f"{most / MEGAPIXEL:g} megapixels",
        )


def _notes(reading: Reading, scanned: Scan, broke_off: bool) -> list[str]:
    """Return what the file claims and does not hold."""
    claimed = reading.container.duration
    length = scanned.end - scanned.first
    notes = []
    if scanned.complete and claimed and claimed / _MICROSECONDS - length > _CUT_SECONDS:
        notes.append(
            f"the file ends after {float(length):.1f} s, although it claims "
            f"{claimed / _MICROSECONDS:.1f} s"
        )
    elif broke_off:
        notes.append(f"the file cannot be read beyond {float(length):.1f} s")
    if not scanned.clean and scanned.packets > 1 and not reading.still:
        notes.append("the time stamps of the video are not continuous; gaps are closed")
    return notes


def part(path: Path, probe: Probe, options: SourceOptions) -> Part:
    """Return which part of the source becomes frames.

    Raises:
        SourceError: `start` or `end` is wrong, or the part is too short or too long.
    """
    if probe.still:
        if options.start is not None or options.end is not None:
            raise SourceError(str(path), "is a photo; start and end apply to videos only")
        return Part(Fraction(0), Fraction(0), 1)
    return choose(path, probe.seconds, options)


def choose(path: Path, length: Fraction, options: SourceOptions) -> Part:
    """Return the part of a source that lasts `length` seconds.

    Raises:
        SourceError: `start` or `end` is wrong, or the part is too short or too long.
    """
    start = Fraction(0) if options.start is None else _seconds(path, "start", options.start)
    end = length if options.end is None else _seconds(path, "end", options.end)
    end = min(end, length)
    if start >= end:
        raise SourceError(
            str(path),
            f"start is {float(start):g} s, must be less than the end at {float(end):.2f} s",
        )
    return Part(start, end, count_frames(_bounded(path, end - start, options), options.fps))


def time_notes(part: Part, rate: float, options: SourceOptions) -> list[str]:
    """Return how the time of a video or a folder is changed, one sentence each.

    `rate` is the frames per second of the source. Differences of under 1 frame are not noted.
    """
    notes = []
    if abs(rate - options.fps) >= _SAME_RATE:
        shown = f"{rate:.2f}".rstrip("0").rstrip(".")
        notes.append(
            f"the video has {shown} frames a second, and is converted to {options.fps} frames a "
            "second"
        )
    if options.end is not None and options.end - part.end >= Fraction(1, options.fps):
        notes.append(
            f"the end at {options.end:g} s lies beyond the end of the source, which is at "
            f"{float(part.end):.2f} s and is used"
        )
    return notes


def _bounded(path: Path, length: Fraction, options: SourceOptions) -> Fraction:
    limits = options.limits
    chosen = options.start is not None or options.end is not None
    subject = "the chosen part lasts" if chosen else "lasts"
    if length < Fraction(limits.min_seconds):
        raise SourceError(
            str(path), f"{subject} {float(length):.2f} s, must be at least {limits.min_seconds:g} s"
        )
    if length > Fraction(limits.max_seconds):
        raise SourceError(
            str(path),
            f"{subject} {float(length):.1f} s, must be at most {limits.max_seconds:g} s; "
            "choose a part with start and end",
        )
    return length


def _seconds(path: Path, name: str, value: float) -> Fraction:
    if not math.isfinite(value) or value < 0:
        raise SourceError(str(path), f"{name} is {value}, must be a number of seconds from 0 on")
    return Fraction(value).limit_denominator(1_000_000)
