"""The header of binary messages: docs/wire-protocol.md, "Binary messages"."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.binary_messages import (
    HEADER_BYTES,
    NO_FRAME,
    BinaryMessageError,
    Flag,
    Header,
    Kind,
    pack_patch,
    unpack,
    unpack_patch,
)

EXAMPLE = bytes.fromhex("A7 01 01 01 00000039 00000001 00000001 00000003 0000522A 0000000000000B40")
U32 = st.integers(0, 2**32 - 1)


def test_the_example_of_the_document() -> None:
    header = Header(
        Kind.JPEG,
        seq=57,
        epoch=1,
        response_ref=1,
        frame_index=3,
        flags=Flag.KEYFRAME,
        offset_samples=2880,
    )
    payload = bytes(21_034)
    assert len(EXAMPLE) == HEADER_BYTES
    assert header.pack(payload) == EXAMPLE + payload
    assert unpack(EXAMPLE + payload) == (header, payload)


@given(
    header=st.builds(
        Header,
        st.sampled_from(Kind),
        seq=U32,
        offset_samples=st.integers(0, 2**64 - 1),
        flags=st.integers(0, 31).map(Flag),
        epoch=U32,
        response_ref=U32,
        frame_index=U32,
    ),
    payload=st.binary(max_size=100),
)
def test_what_is_packed_is_unpacked(header: Header, payload: bytes) -> None:
    assert unpack(header.pack(payload)) == (header, payload)


@pytest.mark.parametrize(
    ("message", "field", "value", "limit"),
    [
        (b"", "message", 0, 32),
        (EXAMPLE[:31], "message", 31, 32),
        (b"\x7b" + EXAMPLE[1:], "magic", 0x7B, 0xA7),
        (b"\xa7\x02" + EXAMPLE[2:], "version", 2, 1),
        (b"\xa7\x01\x05" + EXAMPLE[3:], "kind", 5, [1, 2, 3, 4, 16]),
        (b"\xa7\x01\x01\x21" + EXAMPLE[4:], "flags", 33, 31),
        (EXAMPLE, "payload_length", 21_034, 0),
        (EXAMPLE + bytes(21_035), "payload_length", 21_034, 21_035),
    ],
)
def test_a_wrong_header_is_refused(message: bytes, field: str, value: int, limit: object) -> None:
    with pytest.raises(BinaryMessageError, match=rf"^{field} is {value}; must ") as error:
        unpack(message)
    assert (error.value.field, error.value.value, error.value.limit) == (field, value, limit)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    try:
        header, payload = unpack(message)
    except BinaryMessageError:
        return
    assert header.pack(payload) == message


def test_no_text_begins_with_the_magic() -> None:
    with pytest.raises(UnicodeDecodeError):
        EXAMPLE[:1].decode()
    assert NO_FRAME == 0xFFFFFFFF


U16 = st.integers(0, 2**16 - 1)


@given(rect=st.tuples(U16, U16, U16, U16), source_frame=U32, image=st.binary(max_size=20))
def test_the_place_of_a_patch_precedes_its_image(
    rect: tuple[int, int, int, int], source_frame: int, image: bytes
) -> None:
    assert unpack_patch(pack_patch(rect, source_frame) + image) == (rect, source_frame, image)


def test_the_place_of_a_patch_has_twelve_bytes() -> None:
    place = pack_patch((1, 2, 3, 4), 5)
    assert place == bytes.fromhex("0001 0002 0003 0004 00000005")
    with pytest.raises(BinaryMessageError, match="payload_length is 11"):
        unpack_patch(place[:11])
