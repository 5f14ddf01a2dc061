"""Binary messages of `/v1/realtime`: a header of 32 bytes, then the media.

docs/wire-protocol.md, "Binary messages", describes the fields. All integers are unsigned and
big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = 0xA7
"""The first byte. No text in UTF-8 begins with it."""
VERSION: Final = 1
HEADER_BYTES: Final = 32
NO_FRAME: Final = 0xFFFF_FFFF
"""`frame_index` of audio."""
MAX_U32: Final = 0xFFFF_FFFF

PATCH_BYTES: Final = 12
"""What precedes the image with `Flag.PATCH`."""

_HEADER: Final = struct.Struct(">BBBBIIIIIQ")
_PATCH: Final = struct.Struct(">HHHHI")


class Kind(IntEnum):
    """What the payload is."""

    JPEG = 1
    """An image."""
    H264 = 2
    """An access unit in Annex-B form."""
    FMP4 = 3
    """A part of a fragmented MP4 file."""
    OUTPUT_AUDIO = 4
    """Samples of the avatar, in the output format of the session."""
    INPUT_AUDIO = 16
    """Samples of the client, in the input format of the session."""


class Flag(IntFlag):
    """What else is true of the payload; other bits are 0."""

    KEYFRAME = 1
    """It can be decoded without the frames before it."""
    LAST = 2
    """No later message has audio or, with a frame, a frame of this response."""
    IDLE = 4
    """It belongs to no response."""
    PATCH = 8
    """A position precedes the image."""
    DISCONTINUITY = 16
    """Frames of the response were dropped right before this one."""


NO_FLAGS: Final = Flag(0)
ALL_FLAGS: Final = Flag.KEYFRAME | Flag.LAST | Flag.IDLE | Flag.PATCH | Flag.DISCONTINUITY
ALL_KINDS: Final = tuple(Kind)


class BinaryMessageError(ValueError):
    """A message whose header is wrong."""

    def __init__(self, field: str, value: int, limit: object, expected: str) -> None:
        super().__init__(f"{field} is {value}; {expected}")
        self.field = field
        """Name of the field of the header; `message` for the whole message."""
        self.value = value
        self.limit = limit
        """The value that the field must have, or the values that it may have."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one message without its constants and the length of the payload."""

    kind: Kind
    seq: int = 0
    """Number of the message, from 1: the server's, or the client's own; 0 for none."""
    offset_samples: int = 0
    """Where the media starts: samples of the response, or samples that the client sent before."""
    flags: Flag = NO_FLAGS
    epoch: int = 0
    """0 from a client."""
    response_ref: int = 0
    """The integer in `response.created`; 0 for none."""
    frame_index: int = NO_FRAME

    def pack(self, payload: bytes) -> bytes:
        """Return the message with a payload."""
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            self.kind,
            self.flags,
            self.seq,
            self.epoch,
            self.response_ref,
            self.frame_index,
            len(payload),
            self.offset_samples,
        )
        return header + payload


def unpack(
    message: bytes, kinds: Sequence[Kind] = ALL_KINDS, flags: Flag = ALL_FLAGS
) -> tuple[Header, bytes]:
    """Return the header and the payload of a message.

    Args:
        message: the header and the payload.
        kinds: what the payload may be.
        flags: the flags that may be set.

    Raises:
        BinaryMessageError: the message is too short, or a field is wrong.
    """
    if len(message) < HEADER_BYTES:
        expected = f"must have at least {HEADER_BYTES} bytes"
        raise BinaryMessageError("message", len(message), HEADER_BYTES, expected)
    magic, version, kind, bits, seq, epoch, ref, frame_index, size, offset = _HEADER.unpack_from(
        message
    )
    _check("magic", magic, MAGIC)
    _check("version", version, VERSION)
    _check_kind(kind, kinds)
    _check_flags(bits, int(flags))
    _check("payload_length", size, len(message) - HEADER_BYTES)
    header = Header(Kind(kind), seq, offset, Flag(bits), epoch, ref, frame_index)
    return header, message[HEADER_BYTES:]


def pack_patch(rect: tuple[int, int, int, int], source_frame: int) -> bytes:
    """Return what precedes the image with `Flag.PATCH`; `rect` is left, top, width and height."""
    return _PATCH.pack(*rect, source_frame)


def unpack_patch(payload: bytes) -> tuple[tuple[int, int, int, int], int, bytes]:
    """Return the rectangle, the source frame and the image of a payload with `Flag.PATCH`.

    Raises:
        BinaryMessageError: the payload is too short.
    """
    if len(payload) < PATCH_BYTES:
        expected = f"must be at least {PATCH_BYTES} with the flag of a patch"
        raise BinaryMessageError("payload_length", len(payload), PATCH_BYTES, expected)
    left, top, width, height, source_frame = _PATCH.unpack_from(payload)
    return (left, top, width, height), source_frame, payload[PATCH_BYTES:]


def _check(field: str, value: int, expected: int) -> None:
    if value != expected:
        raise BinaryMessageError(field, value, expected, f"must be {expected}")


def _check_kind(kind: int, kinds: Sequence[Kind]) -> None:
    if kind in kinds:
        return
    if len(kinds) == 1:
        _check("kind", kind, int(kinds[0]))
    known = [int(each) for each in kinds]
    raise BinaryMessageError("kind", kind, known, f"must be one of {known}")


def _check_flags(bits: int, known: int) -> None:
    if not known:
        _check("flags", bits, 0)
    if bits & ~known:
        raise BinaryMessageError("flags", bits, known, f"must have no bits but those of {known}")
