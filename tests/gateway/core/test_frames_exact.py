"""The sentence of each violation, and the bounds of frames and close codes."""

from __future__ import annotations

import pytest

from avatar_gateway.core.frames import (
    WHOLE_FRAME_BYTES,
    Close,
    FrameReader,
    Opcode,
    encode,
    encode_close,
)

MASK = b"\x01\x80\xff\x10"


def read_close(wire: bytes, *, masked: bool = False, limit: int = 1000) -> Close | None:
    reader = FrameReader(masked=masked, max_message_bytes=limit)
    reader.feed(wire)
    return reader.read(100).close


def violated(reason: str, code: int = 1002) -> Close:
    return Close(code, reason, is_violation=True)


def frame(first: int, payload: bytes = b"") -> bytes:
    return bytes([first]) + encode(Opcode.TEXT, payload)[1:]


ORDER = "a message starts or continues out of order"
CONTROL = "a control frame is fragmented or too long"


@pytest.mark.parametrize(
    ("wire", "close"),
    [
        (frame(0xC1), violated("reserved bits are set")),
        (frame(0xA1), violated("reserved bits are set")),
        (frame(0x91), violated("reserved bits are set")),
        (encode(Opcode.TEXT, b"", MASK), violated("the frame has a mask")),
        (frame(0x83), violated("opcode 3 is unknown")),
        (frame(0x87), violated("opcode 7 is unknown")),
        (frame(0x8B), violated("opcode 11 is unknown")),
        (frame(0x8F), violated("opcode 15 is unknown")),
        (frame(0x80), violated(ORDER)),
        (frame(0x01) + frame(0x81), violated(ORDER)),
        (frame(0x01) + frame(0x80) + frame(0x80), violated(ORDER)),
        (frame(0x09), violated(CONTROL)),
        (frame(0x89, bytes(126)), violated(CONTROL)),
        (frame(0x8A, bytes(126)), violated(CONTROL)),
        (frame(0x88, bytes(126)), violated(CONTROL)),
        (frame(0x81, bytes(1001)), violated("a message has more than 1000 bytes", 1009)),
        (
            frame(0x01, bytes(900)) + frame(0x80, bytes(101)),
            violated("a message has more than 1000 bytes", 1009),
        ),
        (encode(Opcode.CLOSE, b"\x03"), violated("the close code is invalid")),
        (encode(Opcode.CLOSE, b"\x03\xe8\xff"), violated("the close reason is not UTF-8", 1007)),
    ],
)
def test_each_violation_has_its_code_and_sentence(wire: bytes, close: Close) -> None:
    assert read_close(wire) == close


def test_a_caller_without_a_mask_is_told_so() -> None:
    assert read_close(frame(0x81), masked=True) == violated("the frame has no mask")
    assert read_close(encode(Opcode.TEXT, b"", MASK), masked=True) is None


@pytest.mark.parametrize(
    "wire",
    [
        frame(0x81, bytes(1000)),
        frame(0x01, bytes(900)) + frame(0x80, bytes(100)) + frame(0x82, bytes(1000)),
        frame(0x01, bytes(900)) + frame(0x00, bytes(50)) + frame(0x80, bytes(50)),
        frame(0x89, bytes(125)),
        frame(0x8A, bytes(125)),
        frame(0x01) + frame(0x89) + frame(0x80),
    ],
)
def test_frames_at_their_bounds_are_valid(wire: bytes) -> None:
    assert read_close(wire) is None


VALID = {*range(1000, 1004), *range(1007, 1014), 3000, 3999, 4000, 4999}


@pytest.mark.parametrize(
    "code", [0, 999, *range(1000, 1017), 2999, 3000, 3999, 4000, 4999, 5000, 65535]
)
def test_the_close_codes_are_those_of_the_registry(code: int) -> None:
    close = read_close(encode_close(code, "why"))
    assert close == (Close(code, "why") if code in VALID else violated("the close code is invalid"))


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65_535, b"\x82\x7e\xff\xff"),
        (65_536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_length_of_a_frame_is_written_in_the_shortest_form(length: int, head: bytes) -> None:
    payload = bytes(index & 0xFF for index in range(length))
    assert encode(Opcode.BINARY, payload) == head + payload
    masked = encode(Opcode.BINARY, payload, MASK)
    assert masked[: len(head)] == bytes([head[0], head[1] | 0x80]) + head[2:]
    assert masked[len(head) : len(head) + 4] == MASK
    assert masked[len(head) + 4 :] == bytes(
        byte ^ MASK[index % 4] for index, byte in enumerate(payload)
    )


def test_a_close_frame_has_125_bytes_at_most() -> None:
    assert encode_close(1000, "x" * 200) == b"\x88\x7d\x03\xe8" + b"x" * 123
    assert encode_close(1000, "x" * 123) == b"\x88\x7d\x03\xe8" + b"x" * 123


def test_a_header_is_read_when_it_is_complete() -> None:
    wire = encode(Opcode.PING, b"abc", MASK)
    for length in range(len(wire)):
        reader = FrameReader(masked=True, max_message_bytes=1000)
        reader.feed(wire[:length])
        segment = reader.read(1)
        assert (segment.frames, segment.pings, segment.has_more) == (0, (), False)
        assert reader.buffered == length
        reader.feed(wire[length:])
        segment = reader.read(1)
        assert (segment.frames, segment.pings, segment.has_more) == (1, (b"abc",), False)


def test_a_frame_of_128_kib_with_its_header_is_the_longest_that_is_kept() -> None:
    assert WHOLE_FRAME_BYTES == 131_072
    head = 10
    for extra, forwarded in ((0, False), (1, True)):
        wire = encode(Opcode.BINARY, bytes(WHOLE_FRAME_BYTES - head + extra))
        reader = FrameReader(masked=False, max_message_bytes=1 << 20)
        reader.feed(wire[:-1])
        segment = reader.read(1)
        assert segment.forward == (wire[:-1] if forwarded else b"")
        assert segment.is_mid_frame is forwarded
        assert segment.frames == int(forwarded)
        reader.feed(wire[-1:])
        assert reader.read(1).is_mid_frame is False


def test_bytes_that_are_dropped_are_not_read() -> None:
    reader = FrameReader(masked=False, max_message_bytes=10)
    reader.feed(frame(0x81, b"a"))
    reader.clear()
    assert reader.buffered == 0
    reader.feed(frame(0x81, b"b"))
    assert reader.read(1).forward == frame(0x81, b"b")
