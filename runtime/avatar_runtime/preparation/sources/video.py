"""A video or a photo as a source of frames."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.errors import SourceError
from avatar_runtime.preparation.source import SourceInfo, TimedPicture
from avatar_runtime.preparation.sources import container, files, probing, shaping, timeline
from avatar_runtime.preparation.sources.reading import Reading, frame_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.preparation.source import SourceOptions
    from avatar_runtime.preparation.sources.colours import Converter
    from avatar_runtime.preparation.sources.probing import Part, Probe

# A seek lands this many seconds early, so that the frames that a deinterlacer or reordered
# frames need have been decoded.
_SEEK_MARGIN: Final = Fraction(1)
# A seek saves nothing near the beginning.
_SEEK_FROM: Final = Fraction(2)


def open_file(path: Path, options: SourceOptions) -> VideoSource:
    """Open a video or a photo.

    Raises:
        SourceError: The file cannot be used, with the reason.
    """
    probe = probing.probe(path, options)
    part = probing.part(path, probe, options)
    with files.open_regular(path, options.limits.max_video_bytes) as file:
        sha256 = files.digest(file)
    return VideoSource(path, options, probe, part, sha256)


def read_photo(
    path: Path, options: SourceOptions, converter: Converter
) -> tuple[tuple[int, int], NDArray[np.uint8]]:
    """Return the size of a photo before crop and scaling, and its frame; decodes it once.

    `converter` keeps its tables from one picture of a folder to the next.

    Raises:
        SourceError: The file cannot be used or is no still picture, with the reason.
    """
    with Reading(path, options.limits) as reading:
        if reading.still:
            return _only_frame(reading, options, converter)
    opened = open_file(path, options)  # a format that also holds videos, such as AVIF
    if opened.info.kind != "photo":
        raise SourceError(str(path), "moves; a folder must hold still pictures only")
    return (opened.info.source_width, opened.info.source_height), next(opened.frames())


def _only_frame(
    reading: Reading, options: SourceOptions, converter: Converter
) -> tuple[tuple[int, int], NDArray[np.uint8]]:
    path, limits = reading.path, options.limits
    probing.check_size(path, reading, True, limits)
    frame = next(reading.frames(), None)
    if frame is None:
        raise SourceError(str(path), probing.no_picture(reading, True, limits))
    shape = shaping.shape_of(str(path), frame, reading.stream.sample_aspect_ratio, options)
    with container.translated(path):
        picture = shaping.Shaper(str(path), shape, converter).make(frame)
    return shape.turn.size(*shape.square), np.array(picture, order="C")


class VideoSource:
    """The frames of one video, or the one frame of a photo."""

    def __init__(
        self, path: Path, options: SourceOptions, probe: Probe, part: Part, sha256: str
    ) -> None:
        self._path = path
        self._options = options
        self._probe = probe
        self._part = part
        self._found: tuple[str, ...] = ()
        self.info = _info(path, options, probe, part, sha256)

    @property
    def notes(self) -> tuple[str, ...]:
        """`info.notes` and what the last iteration found."""
        return self.info.notes + self._found

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames from index `start` on."""
        return (timed.picture for timed in self.timed(start))

    def timed(self, start: int = 0) -> Iterator[TimedPicture]:
        """Yield the frames from index `start` on with their times."""
        self._found = ()
        if start >= self._part.count:
            return
        reading, frames = self._begin(self._part.start + Fraction(start, self._options.fps))
        with reading:
            shown = start - 1
            for made in self._made(reading, start, frames):
                shown = made.index
                yield made
            self._finish(reading, shown)

    def _begin(self, target: Fraction) -> tuple[Reading, Iterator[Any]]:
        """Return the file and its frames from the time `target` or from earlier on."""
        probe = self._probe
        reading = self._reopen()
        if not probe.seekable or target < _SEEK_FROM:
            return reading, reading.frames(deinterlace=probe.interlaced)
        try:
            reading.seek(probe.origin + target - _SEEK_MARGIN)
            frames = reading.frames(deinterlace=probe.interlaced)
            first = next(frames, None)
        except SourceError:
            first = None
        time = None if first is None else frame_time(first)
        if time is not None and time - probe.origin <= target:
            return reading, chain([first], frames)
        reading.close()
        reading = self._reopen()
        return reading, reading.frames(deinterlace=probe.interlaced)

    def _reopen(self) -> Reading:
        reading = Reading(self._path, self._options.limits)
        if reading.identity != self._probe.identity:
            reading.close()
            raise SourceError(str(self._path), "changed while it was read", permanent=False)
        return reading

    def _made(self, reading: Reading, start: int, frames: Iterator[Any]) -> Iterator[TimedPicture]:
        probe = self._probe
        clock = timeline.Clock(probe.step, probe.origin)
        converter = shaping.converter(str(self._path), self._options)
        shaper = shaping.Shaper(str(self._path), probe.shape, converter)
        picture: NDArray[np.uint8] | None = None
        held: Any = None
        for index, time, frame in timeline.resample(
            ((clock.place(frame_time(frame)), frame) for frame in frames),
            start=self._part.start,
            first=start,
            count=self._part.count,
            fps=self._options.fps,
            step=probe.step,
            last=probe.scan.last - probe.origin - timeline.SLACK,
        ):
            if frame is not held or picture is None:
                with container.translated(self._path):
                    picture, held = shaper.make(frame), frame
            yield TimedPicture(index, time, np.array(picture, order="C"))
            reading.file.renew()

    def _finish(self, reading: Reading, shown: int) -> None:
        """Note what was damaged; refuse a video of which too little came out."""
        fps, count = self._options.fps, self._part.count
        if shown < 0:
            raise SourceError(str(self._path), "no frame of the chosen part can be decoded")
        found = []
        if reading.damaged:
            one = reading.damaged == 1
            found.append(f"{reading.damaged} damaged {'frame is' if one else 'frames are'} skipped")
        if shown + 1 < count:
            seconds = (shown + 1) / fps
            least = self._options.limits.min_seconds
            if seconds < least:
                raise SourceError(
                    str(self._path),
                    f"only {seconds:.2f} s can be decoded, must be at least {least:g} s",
                )
            found.append(f"the video can be decoded up to {seconds:.2f} s of {count / fps:.2f} s")
        self._found = tuple(found)


def _info(path: Path, options: SourceOptions, probe: Probe, part: Part, sha256: str) -> SourceInfo:
    turn, fit = probe.shape.turn, probe.shape.fit
    source_width, source_height = turn.size(*probe.shape.square)
    source_fps = 0.0 if probe.still else float(1 / probe.step)
    time_notes = [] if probe.still else probing.time_notes(part, source_fps, options)
    return SourceInfo(
        name=path.name,
        sha256=sha256,
        kind="photo" if probe.still else "video",
        width=fit.result[0],
        height=fit.result[1],
        fps=options.fps,
        frames=part.count,
        source_width=source_width,
        source_height=source_height,
        source_fps=source_fps,
        source_seconds=0.0 if probe.still else float(probe.seconds),
        codec=probe.codec,
        pixel_format=probe.pixel_format,
        has_audio=probe.has_audio,
        start=float(part.start),
        end=float(part.end),
        crop=options.crop,
        notes=(*probe.notes, *time_notes, *probe.shape.notes),
    )
