"""Opens a file with FFmpeg: which formats and codecs are allowed, and what its errors mean.

The file comes from a stranger. FFmpeg reads it through `GuardedFile` and opens nothing else:
playlists (m3u8, concat, DASH, SDP) are on no list, `io_open` refuses every further file or
connection, and QuickTime references to other files stay off.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import av
import av.error
import av.logging
from av.stream import Discard, Disposition

from avatar_runtime import cpus
from avatar_runtime.errors import SourceError, is_permanent
from avatar_runtime.preparation.sources import png
from avatar_runtime.preparation.sources.files import Packed, TooSlow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from avatar_runtime.preparation.source import SourceLimits
    from avatar_runtime.preparation.sources.files import GuardedFile

STILL_FORMATS: Final = frozenset(
    {"bmp_pipe", "jpeg_pipe", "png_pipe", "tiff_pipe", "webp_pipe", "gif_pipe"}
)
_MOVING_FORMATS: Final = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "ivf",
    "yuv4mpegpipe", "gif", "apng", "webp", "webp_anim",
)  # fmt: skip
_CODECS: Final = (
    "h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "libvpx-vp9", "mpeg1video", "mpeg2video",
    "mpeg4", "msmpeg4", "msmpeg4v2", "h263", "flv", "mjpeg", "prores", "dnxhd", "cfhd", "ffv1",
    "huffyuv", "ffvhuff", "utvideo", "magicyuv", "qtrle", "rawvideo", "v210", "theora", "wmv1",
    "wmv2", "wmv3", "vc1", "dvvideo", "gif", "png", "apng", "webp", "webp_anim", "tiff", "bmp",
)  # fmt: skip
SUPPORTED: Final = (
    "supported are MP4, MOV, MKV, WebM, AVI, MPEG, OGG, FLV, WMV, MXF, GIF, JPEG, PNG, WebP, "
    "TIFF, BMP and AVIF"
)
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
_MP4_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free"})
# The extended header of WebP: its flags lie at byte 20, and bit 1 tells of an animation.
_WEBP_FLAGS: Final = 20
_WEBP_MOVES: Final = 2
_MEBIBYTE: Final = 1 << 20
_MOST_STREAMS: Final = 64
_READ_BYTES: Final = 1 << 18
_MOST_THREADS: Final = 4
# A whole transport stream packet of each of 64 streams lies within FFmpeg's own default of 5 MB.
_PROBE_BYTES: Final = 5_000_000

# FFmpeg writes to stderr unless PyAV takes its messages; `None` drops them.
av.logging.set_level(None)


def open_container(path: Path, file: GuardedFile, limits: SourceLimits) -> Any:
    """Return the `av.container.InputContainer` of an open file.

    Raises:
        SourceError: The file is of no supported format, or is damaged at its beginning.
    """
    with translated(path):
        head = _head(file)
        _refuse_by_name(path, head)
        if head.startswith(png.SIGNATURE):
            _check_png(path, file, limits)
    options = {
        "format_whitelist": ",".join((*_MOVING_FORMATS, *sorted(STILL_FORMATS))),
        # FFmpeg may decode the first frame of each stream while it opens a file, and no PNG may be
        # decoded before `png.check_picture` has seen it.
        "codec_whitelist": ",".join(codec for codec in _CODECS if codec not in png.CODECS),
        "protocol_whitelist": "file",
        "max_streams": str(_MOST_STREAMS),
        "max_pixels": str(max(limits.max_photo_pixels, limits.max_frame_pixels)),
        "probesize": str(_PROBE_BYTES),
        "enable_drefs": "0",
    }
    try:
        with translated(path):
            return av.open(
                file,
                "r",
                options=options,
                metadata_errors="replace",
                buffer_size=_READ_BYTES,
                timeout=limits.frame_seconds,
                io_open=_refuse_to_open,
            )
    except SourceError as error:
        if file.late or file.packed or not is_permanent(error):
            raise
        reason = f"is not a video or picture that can be read; {SUPPORTED}"
        if head[4:8] in _MP4_BOXES:
            reason = (
                "is an MP4, MOV or AVIF file that is cut off or damaged: its index cannot be read"
            )
        raise SourceError(error.path, reason) from None


def _refuse_to_open(url: str, flags: int, options: object) -> object:
    """Stand in for every file or connection that the content of a file asks for."""
    raise PermissionError(f"a source must not open {url!r}")


def _head(file: GuardedFile) -> bytes:
    head = file.read(32)
    file.seek(0)
    return head


def _check_png(path: Path, file: GuardedFile, limits: SourceLimits) -> None:
    size = file.seek(0, os.SEEK_END)
    try:
        moving = png.check_file(
            file, size, photo_pixels=limits.max_photo_pixels, frame_pixels=limits.max_frame_pixels
        )
    except png.Refused as refused:
        raise SourceError(str(path), str(refused)) from None
    if not moving:
        check_photo_bytes(path, size, limits)


def check_photo_bytes(path: Path, size: int, limits: SourceLimits) -> None:
    """Refuse a photo that is too large to be read as one packet.

    Raises:
        SourceError: The file has more than `limits.max_photo_bytes`.
    """
    if size > limits.max_photo_bytes:
        raise SourceError(
            str(path),
            f"has {size // _MEBIBYTE} MiB, a photo must have at most "
            f"{limits.max_photo_bytes // _MEBIBYTE} MiB",
        )


def _refuse_by_name(path: Path, head: bytes) -> None:
    """Refuse what FFmpeg opens but does not decode: the tiles of HEIC, and animated WebP."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        raise SourceError(str(path), "is a HEIC photo; save it as JPEG or PNG")
    extended = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > _WEBP_FLAGS
    if extended and head[_WEBP_FLAGS] & _WEBP_MOVES:
        raise SourceError(str(path), "is an animated WebP; save it as MP4 or GIF")


def pick_stream(path: Path, container: Any) -> Any:
    """Return the video stream with the most pixels; the other streams are not read.

    Raises:
        SourceError: There is no stream of pictures that can be decoded.
    """
    hidden = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
    found = [stream for stream in container.streams.video if not stream.disposition & hidden]
    if not found:
        if container.streams.audio:
            raise SourceError(str(path), "has sound but no moving picture")
        raise SourceError(str(path), "has no picture")
    usable = [stream for stream in found if _allowed(stream)]
    if not usable:
        raise SourceError(str(path), f"has the video codec {_codec(found[0])}, not supported")
    best = max(usable, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
    for stream in container.streams:
        stream.discard = Discard.default if stream is best else Discard.all
    return best


def _allowed(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.name in _CODECS


def _codec(stream: Any) -> str:
    return "unknown" if stream.codec_context is None else str(stream.codec_context.name)


def make_decoder(stream: Any, max_pixels: int) -> Any:
    """Return the decoder of the stream: libvpx for VP9 with alpha, FFmpeg's own otherwise."""
    decoder = stream.codec_context
    if decoder.name == "vp9" and stream.metadata.get("alpha_mode") == "1":
        decoder = av.CodecContext.create("libvpx-vp9", "r")
    decoder.options = {"max_pixels": str(max_pixels)}
    decoder.thread_count = min(_MOST_THREADS, cpus.find().count)
    decoder.thread_type = "AUTO"
    return decoder


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the errors of FFmpeg and of slow reading into `SourceError`."""
    try:
        yield
    except TooSlow:
        # The disk or the machine may be busy.
        fault = "takes too long to read or decode"
        raise SourceError(str(path), fault, permanent=False) from None
    except Packed as packed:
        raise SourceError(str(path), str(packed)) from None
    except MemoryError as error:
        fault = "needs more memory than there is"
        raise SourceError(str(path), fault, permanent=_of_ffmpeg(error)) from None
    except (av.error.FFmpegError, OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fault = f"cannot be decoded: {reason}"
        raise SourceError(str(path), fault, permanent=_of_ffmpeg(error)) from None


def _of_ffmpeg(error: Exception) -> bool | None:
    """Return True for an error of FFmpeg: it reports damaged files as a lack of memory or as EIO.

    Errors of Python, such as those of a network volume, know themselves whether they pass.
    """
    return True if isinstance(error, av.error.FFmpegError) else None
