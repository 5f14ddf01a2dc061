"""Makes small files that cost much memory or time where a decoder trusts them."""

from __future__ import annotations

import struct
import uuid
import zlib
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MEBIBYTE = 1 << 20
SIDE = 64


def chunk(kind: bytes, body: bytes) -> bytes:
    sum_of = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + sum_of


@cache
def deflated(mebibytes: int) -> bytes:
    """Return a zlib stream that inflates to this many MiB of zeros, about 1/1000 as long."""
    packer = zlib.compressobj(9)
    zeros = bytes(MEBIBYTE)
    return b"".join([*(packer.compress(zeros) for _ in range(mebibytes)), packer.flush()])


def png(
    extra: Iterable[bytes] = (), pixels: bytes | None = None, size: tuple[int, int] = (SIDE, SIDE)
) -> bytes:
    """Return a grey RGB picture with `extra` chunks before its pixels, a zlib stream."""
    width, height = size
    packed = zlib.compress(bytes(height * (1 + 3 * width))) if pixels is None else pixels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"".join([SIGNATURE, header, *extra, chunk(b"IDAT", packed), chunk(b"IEND", b"")])


def text(mebibytes: int) -> bytes:
    return chunk(b"zTXt", b"Comment\0\0" + deflated(mebibytes))


def profile(mebibytes: int) -> bytes:
    return chunk(b"iCCP", b"icc\0\0" + deflated(mebibytes))


def in_container(path: Path, picture: bytes, count: int = 30) -> Path:
    """Write a video of `count` packets of codec PNG, 25 a second; only the first is `picture`."""
    pictures = [picture, *[png()] * (count - 1)]
    if path.suffix == ".mkv":
        path.write_bytes(_matroska(pictures))
        return path
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "rgb24"
        for index, content in enumerate(pictures):
            packet = av.Packet(content)
            packet.stream = stream
            packet.time_base = Fraction(1, 25)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            container.mux(packet)
    return path


def _element(name: str, body: bytes) -> bytes:
    """Return an EBML element; `name` is its ID in hexadecimal."""
    return bytes.fromhex(name) + struct.pack(">Q", 1 << 56 | len(body)) + body


def _matroska(pictures: Iterable[bytes]) -> bytes:
    """Return a Matroska file with a track of PNGs, which FFmpeg reads but does not write."""
    bitmap = struct.pack("<IiiHH4sIiiII", 40, SIDE, SIDE, 1, 24, b"MPNG", 0, 0, 0, 0, 0)
    size = _element("b0", bytes([SIDE])) + _element("ba", bytes([SIDE]))
    track = [
        _element("d7", b"\1"), _element("73c5", b"\1"), _element("83", b"\1"),
        _element("86", b"V_MS/VFW/FOURCC"), _element("63a2", bitmap), _element("e0", size),
        _element("23e383", struct.pack(">I", 40_000_000)),
    ]  # fmt: skip
    blocks = [
        _element("a3", struct.pack(">BhB", 0x81, index * 40, 0x80) + content)
        for index, content in enumerate(pictures)
    ]
    segment = [
        _element("1549a966", _element("2ad7b1", struct.pack(">I", 1_000_000))),
        _element("1654ae6b", _element("ae", b"".join(track))),
        _element("1f43b675", _element("e7", b"\0") + b"".join(blocks)),
    ]
    return _element("1a45dfa3", _element("4282", b"matroska")) + _element(
        "18538067", b"".join(segment)
    )


def animated(extra: Iterable[bytes], count: int = 30) -> bytes:
    """Return an APNG of `count` frames with `extra` chunks before the first one."""
    packed = zlib.compress(bytes(SIDE * (1 + 3 * SIDE)))
    made = [SIGNATURE, chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))]
    made += [chunk(b"acTL", struct.pack(">II", count, 0)), *extra]
    number = 0
    for index in range(count):
        control = struct.pack(">IIIIIHHBB", number, SIDE, SIDE, 0, 0, 1, 25, 0, 0)
        made.append(chunk(b"fcTL", control))
        number += 1
        if index:
            made.append(chunk(b"fdAT", struct.pack(">I", number) + packed))
            number += 1
        else:
            made.append(chunk(b"IDAT", packed))
    return b"".join([*made, chunk(b"IEND", b"")])


def _atom(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def packed_index(mebibytes: int, before: int = 0) -> bytes:
    """Return a QuickTime file whose index is compressed and lies `before` bytes further on."""
    size = struct.pack(">I", mebibytes * MEBIBYTE)
    content = _atom(b"dcom", b"zlib") + _atom(b"cmvd", size + deflated(mebibytes))
    start = _atom(b"ftyp", b"qt  \0\0\0\0qt  ") + (_atom(b"free", bytes(before)) if before else b"")
    return start + _atom(b"moov", _atom(b"cmov", content))


def _synchsafe(number: int) -> bytes:
    """Return an ID3v2.4 size: 7 bits a byte."""
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def add_id3(wmv: bytes, mebibytes: int) -> bytes:
    """Return an ASF file with an attribute `ID3`, whose one frame is a compressed text."""
    packer = zlib.compressobj(9)
    letters = b"a" * MEBIBYTE
    parts = [packer.compress(b"\0k\0"), *(packer.compress(letters) for _ in range(mebibytes))]
    content = struct.pack(">I", mebibytes * MEBIBYTE) + b"".join([*parts, packer.flush()])
    # Flags of the frame: compressed (8), with the length of its data (1).
    frame = b"TXXX" + _synchsafe(len(content)) + b"\0\x09" + content
    tag = b"ID3\x04\0\0" + _synchsafe(len(frame)) + frame
    name = "ID3\0".encode("utf-16-le")
    record = struct.pack("<HHHHHI", 1, 0, 0, len(name), 1, len(tag)) + name + tag
    metadata = uuid.UUID("c5f8cbea-5baf-4877-8467-aa8c44fa4cca").bytes_le
    added = metadata + struct.pack("<Q", len(record) + 24) + record
    made = bytearray(wmv)
    at = made.index(uuid.UUID("5fbf03b5-a92e-11cf-8ee3-00c00c205365").bytes_le)  # its extension
    end = at + struct.unpack_from("<Q", made, at + 16)[0]
    for kind, place in (("<Q", 16), ("<Q", at + 16), ("<I", at + 42)):
        struct.pack_into(kind, made, place, struct.unpack_from(kind, made, place)[0] + len(added))
    return bytes(made[:end] + added + made[end:])
