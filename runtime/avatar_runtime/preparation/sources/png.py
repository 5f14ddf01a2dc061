"""Checks the chunks of a PNG or APNG before FFmpeg decodes it.

FFmpeg inflates each compressed text and colour profile into memory without a limit, and reads on
in the pixel data after the picture is full: 2 MiB of a file become 2 GiB. A PNG in a video is a
packet that holds a whole PNG file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from avatar_runtime.preparation.source import MEGAPIXEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# FFmpeg's decoder also takes a picture that starts as MNG.
_SIGNATURES: Final = (SIGNATURE, b"\x8aMNG\r\n\x1a\n")
CODECS: Final = frozenset({"png", "apng"})

_MEBIBYTE: Final = 1 << 20
# Profiles of printers have about 2 MiB, the metadata that photo editors write less.
_MOST_INFLATED: Final = 4 * _MEBIBYTE
_MOST_OTHER_BYTES: Final = 32 * _MEBIBYTE
# libpng's own default (PNG_USER_CHUNK_CACHE_MAX). FFmpeg's time grows with the square of the texts.
_MOST_OTHER: Final = 1000
# 256 MiB, the largest photo, in pixel chunks of 1 KiB; libpng writes 8 KiB and FFmpeg 4 KiB each.
_MOST_CHUNKS: Final = 1 << 18
_PIXELS: Final = frozenset({b"IDAT", b"fdAT"})
_SEQUENCE_NUMBER: Final = 4  # bytes before the pixel data of an fdAT
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG specification, table 11.1: colour types
_HIDDEN: Final = b"prFl"  # a private chunk that a decoder may ignore
_STEP: Final = 1 << 16
_MOST_KEPT: Final = 64 * _MEBIBYTE
_NO_CRC: Final = bytes(4)
_BLOCK_BYTES: Final = 0xFFFF  # longest stored block of a zlib stream


class Refused(Exception):
    """A PNG that costs too much; the text completes a sentence that starts with the path."""


class Readable(Protocol):
    """The part of a binary file that the check uses."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Header:
    """Size of the picture in pixels, and bits of one pixel."""

    width: int
    height: int
    bits: int

    @property
    def raw_bytes(self) -> int:
        """Upper bound of the inflated pixel data: Adam7 has up to 15/8 rows for each row, and two
        more in a picture of few rows.
        """
        return 2 * (self.height + 2) * (self.width * self.bits // 8 + 2)


def check_file(file: Readable, size: int, *, photo_pixels: int, frame_pixels: int) -> bool:
    """Check what precedes the pixels of a file of `size` bytes; return whether it is an APNG.

    Reads the heads of at most 1000 chunks, and returns to the beginning of the file.

    Raises:
        Refused: The picture has too many pixels, or there is too much before them.
    """
    file.seek(len(SIGNATURE))
    position, count, header, moving = len(SIGNATURE), 0, None, False
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in _PIXELS or kind == b"fcTL":
            break
        count += 1
        position += length + 12
        _check_other(count, position)
        moving = moving or kind == b"acTL"
        if kind == b"IHDR" and header is None:
            header = _header(file.read(13))
        if position >= size:
            break
        file.seek(position)
    file.seek(0)
    _check_size(header, frame_pixels if moving else photo_pixels)
    return moving


def check_picture(
    data: memoryview,
    known: Header | None,
    max_pixels: int,
    inflated_pixels: bytearray | None = None,
) -> Header | None:
    """Check one coded picture, with its signature or without; return the header that holds now.

    `known` is the header of the stream, which the pictures of an APNG do not repeat.
    `inflated_pixels` gets the inflated pixel data for `stored`, if they are at most 64 MiB.

    Raises:
        Refused: Decoding the picture costs more memory or time than its pixels need.
    """
    header, pixels, others, other_bytes, inflated = known, [], 0, 0, 0
    for _, kind, body in _chunks(data):
        if kind in _PIXELS:
            pixels.append(body[_SEQUENCE_NUMBER:] if kind == b"fdAT" else body)
            continue
        others += 1
        other_bytes += len(body)
        _check_other(others, other_bytes)
        if kind == b"IHDR":
            header = _header(bytes(body[:13])) or header
            _check_size(header, max_pixels)
        inflated += _inflated(_packed(kind, bytes(body)), _MOST_INFLATED - inflated)
        if inflated > _MOST_INFLATED:
            raise Refused(
                f"has texts or colour profiles that inflate to more than "
                f"{_MOST_INFLATED // _MEBIBYTE} MiB (chunk {kind.decode()}); save it without them"
            )
    if inflated_pixels is not None and (header is None or header.raw_bytes > _MOST_KEPT):
        inflated_pixels = None
    if header is not None and _exceeds(pixels, header.raw_bytes, inflated_pixels):
        raise Refused(
            f"has pixel data that inflate to more than {header.width}x{header.height} pixels hold"
        )
    return header


def stored(data: memoryview, inflated_pixels: bytearray) -> bytes:
    """Return a picture with its pixel data stored instead of compressed.

    Inflating costs most of the decoding, and `check_picture` has done it. FFmpeg does not check the
    CRC of a chunk.
    """
    parts: list[bytes | memoryview] = [SIGNATURE]
    begun = False
    for _, kind, body in _chunks(data):
        if kind != b"IDAT":
            parts += [struct.pack(">I4s", len(body), kind), body, _NO_CRC]
        elif not begun:
            begun = True
            packed = _uncompressed(memoryview(inflated_pixels))
            parts += [struct.pack(">I4s", sum(map(len, packed)), kind), *packed, _NO_CRC]
    return b"".join(parts)


def _uncompressed(data: memoryview) -> list[bytes | memoryview]:
    """Return the parts of a zlib stream that stores the data in blocks (RFC 1950, RFC 1951).

    `zlib.compress` with level 0 does the same, and copies the data once more.
    """
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    for at in range(0, len(data), _BLOCK_BYTES):
        block = data[at : at + _BLOCK_BYTES]
        last = at + _BLOCK_BYTES >= len(data)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return [*parts, struct.pack(">I", zlib.adler32(data))]


def hide_profiles(data: memoryview) -> None:
    """Rename the colour profiles of a coded picture in place, so that FFmpeg ignores them.

    FFmpeg does not apply them. It attaches their name to the frame, and PyAV 18.1 frees that name
    twice once `frame.side_data` is read. FFmpeg does not check the CRC of a chunk.
    """
    for at, kind, _ in _chunks(data):
        if kind == b"iCCP":
            data[at + 4 : at + 8] = _HIDDEN


def _chunks(data: memoryview) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yield the offset, the type and the content of each chunk; the last one may be cut off."""
    at = len(SIGNATURE) if bytes(data[: len(SIGNATURE)]) in _SIGNATURES else 0
    count = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        count += 1
        if count > _MOST_CHUNKS:
            raise Refused(f"has more than {_MOST_CHUNKS} chunks")
        yield at, kind, data[at + 8 : at + 8 + length]
        at += length + 12


def _check_other(count: int, size: int) -> None:
    if count > _MOST_OTHER:
        raise Refused(f"has more than {_MOST_OTHER} chunks that are not pixels")
    if size > _MOST_OTHER_BYTES:
        raise Refused(f"has more than {_MOST_OTHER_BYTES // _MEBIBYTE} MiB that are not pixels")


def _header(body: bytes) -> Header | None:
    if len(body) < 10:
        return None
    width, height, depth, colour = struct.unpack(">IIBB", body[:10])
    # An unknown colour type counts as the widest one; FFmpeg refuses it.
    return Header(width, height, depth * _CHANNELS.get(colour, 4))


def _check_size(header: Header | None, max_pixels: int) -> None:
    if header is not None and header.width * header.height > max_pixels:
        raise Refused(
            f"is {header.width}x{header.height} pixels, must have at most "
            f"{max_pixels / MEGAPIXEL:g} megapixels"
        )


def _packed(kind: bytes, body: bytes) -> bytes:
    """Return the zlib stream of a chunk; empty if the chunk has none."""
    _, _, rest = body.partition(b"\0")
    if kind in {b"zTXt", b"iCCP"}:
        return rest[1:]
    if kind == b"iTXt" and rest[:1] != b"\0":
        # Compression flag and method, then the language and the translated keyword.
        return rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    return b""


def _inflated(packed: bytes, limit: int) -> int:
    """Return the inflated size, and at most `limit + 1`."""
    if not packed:
        return 0
    try:
        return len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error:
        return 0  # FFmpeg stops at the same fault.


def _exceeds(parts: Iterable[memoryview], limit: int, kept: bytearray | None) -> bool:
    """Return whether the stream in `parts` inflates to more than `limit` bytes.

    `kept` gets the bytes; it stays empty if the stream is damaged or has no end.
    """
    stream, total = zlib.decompressobj(), 0
    try:
        for part in parts:
            for at in range(0, len(part), _STEP):
                rest: bytes | memoryview = part[at : at + _STEP]
                while len(rest) and not stream.eof:
                    made = stream.decompress(rest, 1 << 20)
                    total += len(made)
                    if total > limit:
                        return True
                    if kept is not None:
                        kept += made
                    rest = stream.unconsumed_tail
    except zlib.error:
        pass
    if kept is not None and not stream.eof:
        kept.clear()
    return False
