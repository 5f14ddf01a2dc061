"""Reads the frames of a WebSocket (RFC 6455) without assembling messages.

The gateway forwards the bytes of data frames as they arrived, with their masks. It reads only the
headers of the frames: to limit messages and rates, and to find the control frames, which concern
one connection and are not forwarded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

WHOLE_FRAME_BYTES: Final = 128 * 1024
"""A frame up to this size is forwarded when it is complete, so that the receiver never gets a part
of it when the sender dies. A longer frame is forwarded in pieces, so that no frame fills memory."""
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
_PROTOCOL_ERROR, _INVALID_TEXT, _TOO_BIG = 1002, 1007, 1009
_CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013})
"""Codes below 3000 that a close frame may contain."""
_FIN, _RESERVED, _OPCODE, _CONTROL, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x08, 0x80, 0x7F
_MAX_CONTROL_BYTES: Final = 125
_LENGTH_16: Final = 126
"""The length field of a frame whose length follows in 16 bits."""


class Opcode(IntEnum):
    """The kinds of frames."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_WHOLE: Final = (_FIN | Opcode.TEXT, _FIN | Opcode.BINARY)
"""First bytes of a frame that is a whole message."""


@dataclass(frozen=True, slots=True)
class Close:
    """The end of one direction: a close frame, or a violation of the protocol."""

    code: int
    reason: str
    is_violation: bool = False
    """Whether the sender violated the protocol; then it still expects a close frame."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one read found."""

    forward: bytes
    """The data frames, unchanged."""
    is_mid_frame: bool
    """Whether the rest of the last frame in `forward` follows in the next segment."""
    frames: int
    """Number of frames that started, control frames included."""
    pings: tuple[bytes, ...] = ()
    """The payloads of the pings."""
    close: Close | None = None
    has_more: bool = False
    """Whether the read stopped at the maximum number of frames."""


@dataclass(slots=True)  # not frozen: one is made for each frame, and freezing triples the time
class _Header:
    first: int
    is_masked: bool
    size: int
    """Bytes of the header, with the mask."""
    length: int
    """Bytes of the payload."""

    @property
    def opcode(self) -> int:
        return self.first & _OPCODE

    @property
    def is_final(self) -> bool:
        return bool(self.first & _FIN)

    @property
    def is_control(self) -> bool:
        return bool(self.first & _CONTROL)


class FrameReader:
    """Splits the bytes of one direction into segments."""

    __slots__ = (
        "_buffer",
        "_mask_bytes",
        "_mask_flag",
        "_masked",
        "_max_message_bytes",
        "_message_bytes",
        "_needed",
        "_remaining",
    )

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        """`masked` tells whether the sender is a client, whose frames must have masks."""
        self._masked = masked
        self._mask_flag = _MASKED if masked else 0
        self._mask_bytes = 4 if masked else 0
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._remaining = 0
        """Bytes of a long frame that are still to be forwarded."""
        self._message_bytes: int | None = None
        """Size of the message whose final frame has not arrived; None between messages."""
        self._needed = 0
        """Bytes that the buffer has to contain before a read finds more in it."""

    @property
    def buffered(self) -> int:
        """Return the number of bytes that no segment contained yet."""
        return len(self._buffer)

    @property
    def is_incomplete(self) -> bool:
        """Return whether a read would find nothing, since the rest of a frame is missing."""
        return len(self._buffer) < self._needed

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        self._buffer += data

    def count_whole(self, data: bytes | bytearray, max_frames: int) -> int:
        """Return the number of frames in `data` if it may be forwarded as it is, otherwise 0.

        That is so if nothing is buffered and `data` consists of whole messages of one frame each,
        which is what a live session sends. Everything else takes `feed` and `read`.
        """
        if self._remaining or self._message_bytes is not None:
            return 0
        if self._buffer and data is not self._buffer:
            return 0
        size, at, frames = len(data), 0, 0
        while at < size:
            if size - at < 4 or frames == max_frames or data[at] not in _WHOLE:
                return 0
            length = data[at + 1] ^ self._mask_flag  # over 127 if the mask is missing or wrong
            at += 2 + self._mask_bytes
            if length == _LENGTH_16:
                length = data[at - self._mask_bytes] << 8 | data[at - self._mask_bytes + 1]
                at += 2
            elif length > _LENGTH_16:
                return 0
            if length > self._max_message_bytes:
                return 0
            at += length
            frames += 1
        if at == size:
            return frames
        if frames == 1:
            self._needed = at
        return 0

    def clear(self) -> None:
        """Drop the bytes that no segment contained yet."""
        self._buffer.clear()
        self._needed = 0

    def read(self, max_frames: int) -> Segment:
        """Return the next segment; it is empty if more bytes must arrive first."""
        buffer, size = self._buffer, len(self._buffer)
        self._needed = 0
        whole = self.count_whole(buffer, max_frames)
        if whole:
            data = bytes(buffer)
            buffer.clear()
            return Segment(data, is_mid_frame=False, frames=whole)
        at = start = min(self._remaining, size)
        self._remaining -= at
        pieces, pings, close, frames = [bytes(buffer[:at])], list[bytes](), None, 0
        while not self._remaining and frames < max_frames and close is None:
            header = self._header(at)
            if header is None:
                break
            close = self._violation(header)
            end = at + header.size + header.length
            if close is not None:
                break
            if end > size and end - at <= WHOLE_FRAME_BYTES:
                self._needed = end - at  # what precedes the frame leaves the buffer
                break
            frames += 1
            if header.is_control:
                pieces.append(bytes(buffer[start:at]))
                payload = _unmasked(buffer[at + header.size - 4 * header.is_masked : end], header)
                if header.opcode == Opcode.PING:
                    pings.append(payload)
                elif header.opcode == Opcode.CLOSE:
                    close = _parse_close(payload)
                at = start = end
                continue
            self._count(header)
            self._remaining = max(0, end - size)
            at = min(end, size)
        pieces.append(bytes(buffer[start:at]))
        del buffer[:at]
        is_mid_frame = self._remaining > 0
        has_more = frames >= max_frames and bool(buffer)
        return Segment(b"".join(pieces), is_mid_frame, frames, tuple(pings), close, has_more)

    def _header(self, at: int) -> _Header | None:
        """Return the header of the frame at an offset, or None if it is not complete."""
        buffer = self._buffer
        if len(buffer) - at < 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        is_masked, length = bool(second & _MASKED), second & _LENGTH
        extended = {126: 2, 127: 8}.get(length, 0) if length > _MAX_CONTROL_BYTES else 0
        size = 2 + extended + 4 * is_masked
        if len(buffer) - at < size:
            return None
        if extended:
            length = int.from_bytes(buffer[at + 2 : at + 2 + extended], "big")
        return _Header(first, is_masked, size, length)

    def _violation(self, header: _Header) -> Close | None:
        if header.first & _RESERVED:
            return _violated("reserved bits are set")
        if header.is_masked is not self._masked:
            return _violated("the frame has no mask" if self._masked else "the frame has a mask")
        if header.is_control:
            return _control_violation(header)
        if header.opcode > Opcode.BINARY:
            return _violated(f"opcode {header.opcode} is unknown")
        if (header.opcode == Opcode.CONTINUATION) is (self._message_bytes is None):
            return _violated("a message starts or continues out of order")
        total = (self._message_bytes or 0) + header.length
        if total > self._max_message_bytes:
            limit = self._max_message_bytes
            return Close(_TOO_BIG, f"a message has more than {limit} bytes", is_violation=True)
        return None

    def _count(self, header: _Header) -> None:
        total = (self._message_bytes or 0) + header.length
        self._message_bytes = None if header.is_final else total


def encode(opcode: Opcode, payload: bytes, mask: bytes | None = None) -> bytes:
    """Return one frame; a client passes a mask of 4 bytes."""
    length, flag = len(payload), 0 if mask is None else _MASKED
    head = bytearray([_FIN | opcode])
    if length <= _MAX_CONTROL_BYTES:
        head.append(flag | length)
    elif length < 1 << 16:
        head += bytes([flag | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([flag | 127]) + length.to_bytes(8, "big")
    if mask is None:
        return bytes(head) + payload
    return bytes(head) + mask + _xor(payload, mask)


def encode_close(code: int, reason: str, mask: bytes | None = None) -> bytes:
    """Return a close frame; a long reason is truncated."""
    text = reason.encode()[: _MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
    return encode(Opcode.CLOSE, code.to_bytes(2, "big") + text, mask)


def _parse_close(payload: bytes) -> Close:
    """Return the content of a close frame. One without a code means a normal end."""
    if not payload:
        return Close(NORMAL, "")
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not (code in _CLOSE_CODES or 3000 <= code < 5000):
        return _violated("the close code is invalid")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        return Close(_INVALID_TEXT, "the close reason is not UTF-8", is_violation=True)


def _control_violation(header: _Header) -> Close | None:
    if header.opcode not in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
        return _violated(f"opcode {header.opcode} is unknown")
    if not header.is_final or header.length > _MAX_CONTROL_BYTES:
        return _violated("a control frame is fragmented or too long")
    return None


def _violated(reason: str) -> Close:
    return Close(_PROTOCOL_ERROR, reason, is_violation=True)


def _unmasked(masked: bytearray, header: _Header) -> bytes:
    """Return the payload of a control frame from its mask, if it has one, and its payload."""
    if not header.is_masked:
        return bytes(masked)
    return _xor(masked[4:], masked[:4])


def _xor(data: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    return bytes(byte ^ mask[index & 3] for index, byte in enumerate(data))
