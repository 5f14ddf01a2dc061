"""One pass over an open file: packets, frames, deinterlacing, and what was damaged."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Self

import av
import av.error
import av.filter

from avatar_runtime.errors import SourceError
from avatar_runtime.preparation.sources import container as containers
from avatar_runtime.preparation.sources import files, png, watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from avatar_runtime.preparation.source import SourceLimits

_DEFAULT_STEP: Final = Fraction(1, 25)
_FASTEST: Final = 1000
"""Highest frame rate that a file may claim; FFmpeg reports the time base for broken ones."""
_INTERLACED: Final = frozenset({2, 3, 4, 5})  # AVFieldOrder: TT, BB, TB, BT


class Reading:
    """An open file; a context manager that closes it."""

    def __init__(self, path: Path, limits: SourceLimits) -> None:
        self.path = path
        self._limits = limits
        opened = files.open_regular(path, limits.max_video_bytes)
        self.file = files.GuardedFile(opened, limits.frame_seconds)
        try:
            self.identity = _identity(opened.fileno())
            self.container = containers.open_container(path, self.file, limits)
            if self.still:
                containers.check_photo_bytes(path, self.identity[2], limits)
            self.stream = containers.pick_stream(path, self.container)
        except BaseException:
            opened.close()
            raise
        self.damaged = 0
        """Packets and frames that could not be decoded whole."""
        self.broke_off = False
        """Whether the file ends in the middle."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()
        self.file.close()

    @property
    def still(self) -> bool:
        """Whether the format holds one picture."""
        return self.container.format.name in containers.STILL_FORMATS

    @property
    def step(self) -> Fraction:
        """Seconds between two frames, as the file tells it; 1/25 if it tells nothing usable."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return 1 / Fraction(rate) if rate and 0 < rate <= _FASTEST else _DEFAULT_STEP

    def seek(self, seconds: Fraction) -> None:
        """Go to the last key frame that starts at `seconds` on the clock of the file, or before."""
        with containers.translated(self.path):
            stamp = int(seconds / self.stream.time_base)
            self.container.seek(stamp, stream=self.stream, backward=True)

    def packets(self) -> Iterator[Any]:
        """Yield the packets of the stream, without the empty ones that end it."""
        source = self.container.demux(self.stream)
        while True:
            try:
                packet = next(source)
            except StopIteration:
                return
            except (files.TooSlow, files.Packed):
                raise
            except (av.error.FFmpegError, OSError, ValueError) as error:
                if isinstance(error, OSError) and not isinstance(error, av.error.FFmpegError):
                    raise  # the disk has failed, the file may be whole
                self.broke_off = True
                return
            self.file.check()
            if packet.size:
                yield packet

    def frames(self, *, deinterlace: bool = False) -> Iterator[Any]:
        """Yield the decoded `av.VideoFrame`s in presentation order.

        Raises:
            SourceError: A frame takes longer than the limit.
        """
        with containers.translated(self.path):
            source = self._decoded()
            yield from _deinterlaced(source, self.stream) if deinterlace else source

    def _decoded(self) -> Iterator[Any]:
        limit = self._limits.max_photo_pixels if self.still else self._limits.max_frame_pixels
        decoder = containers.make_decoder(self.stream, limit)
        header = None
        if decoder.name in png.CODECS and decoder.extradata:
            head = bytearray(decoder.extradata)
            header = self._check_png(head, None, limit)
            decoder.extradata = bytes(head)
        for packet in self.packets():
            if decoder.name in png.CODECS:
                pixels = bytearray() if self.still else None
                header = self._check_png(packet, header, limit, pixels)
                if pixels:
                    packet = av.Packet(png.stored(memoryview(packet), pixels))
            yield from self._decode(decoder, packet)
        yield from self._decode(decoder, None)

    def _check_png(
        self,
        data: Any,
        known: png.Header | None,
        limit: int,
        inflated_pixels: bytearray | None = None,
    ) -> png.Header | None:
        """Check a coded PNG and hide its colour profile; `data` is a writable buffer."""
        view = memoryview(data)
        try:
            header = png.check_picture(view, known, limit, inflated_pixels)
            png.hide_profiles(view)
            return header
        except png.Refused as refused:
            raise SourceError(str(self.path), str(refused)) from None

    def _decode(self, decoder: Any, packet: Any) -> Iterator[Any]:
        try:
            with watchdog.watching(self.path, self._limits.frame_seconds):
                decoded = decoder.decode(packet)
        except (av.error.FFmpegError, ValueError):
            self.damaged += 1
            return
        for frame in decoded:
            self.damaged += frame.is_corrupt
            # PyAV gives no time base to the frames that the decoder still holds at the end.
            frame.time_base = frame.time_base or self.stream.time_base
            self.file.check()
            self.file.renew()
            yield frame
            self.file.renew()

    def interlaced(self, frame: Any) -> bool:
        """Whether the video consists of fields, judged by the stream and its first frame."""
        return bool(frame.interlaced_frame) or self.stream.codec_context.field_order in _INTERLACED


def frame_time(frame: Any) -> Fraction | None:
    """Return the time stamp of a frame in seconds on the clock of the file."""
    if frame.pts is None or not frame.time_base:
        return None
    seconds: Fraction = frame.pts * Fraction(frame.time_base)
    return seconds


def _identity(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _deinterlaced(frames: Iterator[Any], stream: Any) -> Iterator[Any]:
    """Yield one whole frame for each two fields; frames that are whole already pass."""
    graph: Any = None
    for frame in frames:
        if graph is None:
            graph = _filter(frame, stream)
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _filter(frame: Any, stream: Any) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or stream.time_base,
    )
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    )
    graph.configure()
    return graph


def _pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
