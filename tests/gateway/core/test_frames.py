from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.frames import (
    WHOLE_FRAME_BYTES,
    Close,
    FrameReader,
    Opcode,
    Segment,
    encode,
    encode_close,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = b"\x01\x80\xff\x10"
LIMIT = 2**20


def _reader(masked: bool = False) -> FrameReader:
    return FrameReader(masked=masked, max_message_bytes=LIMIT)


def _frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = None) -> bytes:
    frame = bytearray(encode(Opcode.TEXT, payload, mask))
    frame[0] = (0x80 if fin else 0) | opcode
    return bytes(frame)


def _read_all(reader: FrameReader, max_frames: int = 100) -> list[Segment]:
    segments = [reader.read(max_frames)]
    while segments[-1].has_more and segments[-1].close is None:
        segments.append(reader.read(max_frames))
    return segments


@dataclass
class Stream:
    """Frames, and what a reader has to find in them."""

    wire: bytes = b""
    data: bytes = b""
    pings: tuple[bytes, ...] = ()
    frames: int = 0


@st.composite
def streams(draw: st.DrawFn, mask: bytes | None) -> Stream:
    """Return valid messages with control frames anywhere between their fragments."""
    stream = Stream()
    sizes = st.sampled_from([0, 1, 5, 125, 126, 300, 65_535, 65_536, WHOLE_FRAME_BYTES + 9])
    for _ in range(draw(st.integers(1, 4))):
        fragments = draw(st.integers(1, 3))
        for index in range(fragments):
            for payload in draw(st.lists(st.binary(max_size=9), max_size=2)):
                kind = draw(st.sampled_from([Opcode.PING, Opcode.PONG]))
                stream.wire += encode(kind, payload, mask)
                stream.pings += (payload,) if kind is Opcode.PING else ()
                stream.frames += 1
            opcode = draw(st.sampled_from([1, 2])) if index == 0 else 0
            frame = _frame(opcode, bytes(draw(sizes)), fin=index == fragments - 1, mask=mask)
            stream.wire += frame
            stream.data += frame
            stream.frames += 1
    return stream


@pytest.mark.parametrize("mask", [None, MASK], ids=["pod", "caller"])
@given(data=st.data())
def test_data_frames_pass_unchanged_in_whatever_pieces_they_arrive(
    data: st.DataObject, mask: bytes | None
) -> None:
    stream = data.draw(streams(mask))
    cuts = data.draw(st.lists(st.integers(0, len(stream.wire)), max_size=6).map(sorted))
    reader = _reader(masked=mask is not None)
    segments: list[Segment] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream.wire)], strict=True):
        reader.feed(stream.wire[start:end])
        segments += _read_all(reader, data.draw(st.integers(1, 5)))
        assert reader.buffered <= WHOLE_FRAME_BYTES
    assert b"".join(segment.forward for segment in segments) == stream.data
    assert sum((segment.pings for segment in segments), ()) == stream.pings
    assert sum(segment.frames for segment in segments) == stream.frames
    assert all(segment.close is None for segment in segments)
    assert not segments[-1].is_mid_frame
    assert reader.buffered == 0


@pytest.mark.parametrize("mask", [None, MASK], ids=["pod", "caller"])
@given(data=st.data())
def test_whole_messages_are_found_without_reading_them(
    data: st.DataObject, mask: bytes | None
) -> None:
    """Whatever is counted may be forwarded as it is: `read` would forward the same."""
    stream = data.draw(streams(mask))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(stream.wire))] * 2)))
    wire = data.draw(st.sampled_from([stream.wire, stream.wire[start:end], bytes(stream.data)]))
    reader, most = _reader(masked=mask is not None), data.draw(st.integers(1, 5))
    count = reader.count_whole(wire, most)
    if count:
        reader.feed(wire)
        assert reader.read(most) == Segment(wire, is_mid_frame=False, frames=count)
        assert reader.buffered == 0


@pytest.mark.parametrize("mask", [None, MASK], ids=["pod", "caller"])
@pytest.mark.parametrize("size", [0, 1, 2, 125, 126, 15_000, 65_535])
@pytest.mark.parametrize("count", [1, 3])
def test_what_a_live_session_sends_is_counted(size: int, count: int, mask: bytes | None) -> None:
    frame = encode(Opcode.BINARY, bytes(size), mask)
    reader = _reader(masked=mask is not None)
    small = size < 2 and mask is None  # the length would reach beyond a frame of so few bytes
    assert reader.count_whole(frame * count, 3) == (0 if small and len(frame) < 4 else count)
    assert reader.count_whole(frame * count, count - 1) == 0
    assert reader.count_whole(frame * count + frame[:-1], 9) == 0
    assert _reader(masked=mask is None).count_whole(frame, 9) == 0
    for other in (_frame(0, b"12"), _frame(1, b"12", fin=False), encode(Opcode.PING, b"12")):
        assert _reader().count_whole(other, 9) == 0
    short = FrameReader(masked=mask is not None, max_message_bytes=max(0, size - 1))
    assert not size or short.count_whole(frame, 9) == 0
    reader.feed(frame[:1])
    assert reader.count_whole(frame, 9) == 0


def test_a_frame_that_fits_is_forwarded_whole() -> None:
    reader, frame = _reader(), encode(Opcode.TEXT, bytes(WHOLE_FRAME_BYTES - 10))
    reader.feed(frame[:-1])
    assert reader.read(9).forward == b""
    reader.feed(frame[-1:])
    assert (reader.read(9).forward, reader.buffered) == (frame, 0)


def test_a_longer_frame_is_forwarded_as_it_arrives() -> None:
    reader, frame = _reader(), encode(Opcode.TEXT, bytes(WHOLE_FRAME_BYTES + 10))
    reader.feed(frame[:20])
    first = reader.read(9)
    assert (first.forward, first.is_mid_frame, reader.buffered) == (frame[:20], True, 0)
    reader.feed(frame[20:] + encode(Opcode.PING, b"after"))
    second = reader.read(9)
    assert (second.forward, second.is_mid_frame, second.pings) == (frame[20:], False, (b"after",))


def test_a_read_stops_after_the_given_number_of_frames() -> None:
    reader = _reader()
    reader.feed(5 * encode(Opcode.TEXT, b""))
    assert [(each.frames, each.has_more) for each in _read_all(reader, 2)] == [
        (2, True),
        (2, True),
        (1, False),
    ]


@pytest.mark.parametrize(
    ("frame", "close"),
    [
        (encode_close(1000, "bye"), Close(1000, "bye")),
        (encode_close(4410, ""), Close(4410, "")),
        (encode(Opcode.CLOSE, b""), Close(1000, "")),
        (encode_close(1000, "ü" * 100), Close(1000, "ü" * 61)),
    ],
)
def test_a_close_frame_ends_the_stream(frame: bytes, close: Close) -> None:
    reader, text = _reader(), encode(Opcode.TEXT, b"last")
    reader.feed(text + frame + text)
    segment = reader.read(9)
    assert (segment.forward, segment.close) == (text, close)


def _violations() -> Sequence[tuple[str, bytes, int]]:
    text, start = encode(Opcode.TEXT, b"x"), _frame(1, b"x", fin=False)
    return [
        ("reserved bits", bytes([text[0] | 0x40]) + text[1:], 1002),
        ("mask", encode(Opcode.TEXT, b"x", MASK), 1002),
        ("unknown opcode", _frame(3, b"x"), 1002),
        ("unknown control opcode", _frame(11, b"x"), 1002),
        ("continuation first", _frame(0, b"x"), 1002),
        ("message in a message", start + text, 1002),
        ("fragmented ping", _frame(9, b"", fin=False), 1002),
        ("long ping", _frame(9, bytes(126)), 1002),
        ("reserved close code", encode_close(1005, ""), 1002),
        ("close of one byte", encode(Opcode.CLOSE, b"x"), 1002),
        ("close reason", encode(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
        ("long message", b"\x81\x7f" + (LIMIT + 1).to_bytes(8, "big"), 1009),
        ("long fragments", _frame(1, bytes(LIMIT), fin=False) + _frame(0, b"x"), 1009),
    ]


@pytest.mark.parametrize(
    ("frames", "code"), [pytest.param(wire, code, id=name) for name, wire, code in _violations()]
)
def test_a_violation_ends_the_stream_before_its_frame_is_forwarded(
    frames: bytes, code: int
) -> None:
    reader, text = _reader(), encode(Opcode.TEXT, b"before")
    reader.feed(text + frames)
    segment = reader.read(9)
    assert segment.close is not None
    assert (segment.close.code, segment.close.is_violation) == (code, True)
    assert segment.forward.startswith(text)
    assert not segment.is_mid_frame


def test_a_caller_must_mask_its_frames() -> None:
    reader = _reader(masked=True)
    reader.feed(encode(Opcode.TEXT, b"x"))
    close = reader.read(9).close
    assert close is not None
    assert close.code == 1002


@given(payload=st.binary(max_size=70_000), mask=st.none() | st.binary(min_size=4, max_size=4))
def test_a_ping_and_a_message_of_the_gateway_are_valid(payload: bytes, mask: bytes | None) -> None:
    reader = _reader(masked=mask is not None)
    frame = encode(Opcode.BINARY, payload, mask)
    reader.feed(frame + encode(Opcode.PING, payload[:125], mask))
    segment = reader.read(9)
    assert (segment.forward, segment.pings) == (frame, (payload[:125],))
