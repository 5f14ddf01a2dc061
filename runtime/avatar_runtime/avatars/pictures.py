"""Checks of stored JPEG and PNG files that need no decoding: type, size, and completeness."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type: PNG, 11.2.2
# Markers of JPEG: ITU-T T.81, table B.1. Arithmetic coding and lossless frames are not decoded.
_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"
_SOF: Final = (0xC0, 0xC1, 0xC2)
_OTHER_SOF: Final = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_SOS: Final = 0xDA
_DQT: Final = 0xDB
_DHT: Final = 0xC4
_MAX_SEGMENTS: Final = 200


def check(file: NDArray[np.uint8], kind: str, width: int, height: int) -> None:
    """Check that a file is a complete picture of a type and a size, without decoding it.

    `file` is `(bytes,) uint8`; `kind` is `jpeg` or `png`.

    Raises:
        ValueError: it is not; says why.
    """
    if not file.size:
        raise ValueError("is empty")
    found = _png_size(file) if kind == "png" else _jpeg_size(file)
    if found != (width, height):
        size = f"{found[0]}x{found[1]} pixels"
        raise ValueError(f"has {size}, the manifest has {width}x{height}")


def _png_size(file: NDArray[np.uint8]) -> tuple[int, int]:
    head = file[:33].tobytes()
    if not head.startswith(_PNG_SIGNATURE) or head[12:16] != b"IHDR" or len(head) < 33:
        raise ValueError("is not a PNG file")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    if depth != 8 or _PNG_CHANNELS.get(colour) not in (1, 3):
        raise ValueError(f"is a PNG file of {depth} bits and colour type {colour}, must be 8 and 2")
    if file[-12:].tobytes() != _PNG_END:
        raise ValueError("is cut: the PNG file has no end")
    at = 8
    data = file.data
    while at + 12 <= file.size:
        (length,) = struct.unpack(">I", data[at : at + 4])
        at += 12 + length
    if at != file.size:
        raise ValueError("is cut: the chunks of the PNG file do not end at its end")
    return width, height


def _jpeg_size(file: NDArray[np.uint8]) -> tuple[int, int]:
    data = file.data
    if bytes(data[:2]) != _SOI:
        raise ValueError("is not a JPEG file")
    size, tables, at = None, set[int](), 2
    for _ in range(_MAX_SEGMENTS):
        marker, length = _segment(data, at)
        if marker in _OTHER_SOF:
            raise ValueError(f"is a JPEG file of an unsupported type (marker {marker:#x})")
        if marker in _SOF:
            size = _sof_size(data, at, length)
        tables.add(marker)
        at += 2 + length
        if marker == _SOS:
            break
    if size is None or not {_DQT, _DHT, _SOS} <= tables:
        raise ValueError("is a JPEG file without a frame or tables")
    if bytes(data[-2:]) != _EOI or at > file.size - 4:
        raise ValueError("is cut: the JPEG file has no end")
    return size


def _segment(data: memoryview, at: int) -> tuple[int, int]:
    """Return the marker at a position and the length of its segment, in bytes."""
    if at + 4 > len(data):
        raise ValueError("is cut: the JPEG file ends in its header")
    if data[at] != 0xFF:
        raise ValueError("is a damaged JPEG file: a marker is missing")
    length = data[at + 2] << 8 | data[at + 3]
    if length < 2 or at + 2 + length > len(data):
        raise ValueError("is a damaged JPEG file: a segment has a wrong length")
    return data[at + 1], length


def _sof_size(data: memoryview, at: int, length: int) -> tuple[int, int]:
    if length < 8:
        raise ValueError("is a damaged JPEG file: a segment has a wrong length")
    bits, height, width, channels = struct.unpack(">BHHB", data[at + 4 : at + 10])
    if bits != 8 or channels not in (1, 3):
        raise ValueError(f"is a JPEG file of {bits} bits and {channels} channels, must be 8 and 3")
    return width, height
