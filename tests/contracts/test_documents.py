"""Tests of JSON objects that another process sent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.documents import parse_object, take_lines


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"null",
        b"7",
        b"<html>",
        b"\xff",
        b'{"a"',
    ],
    ids=["empty", "cut", "deep", "deep objects", "list", "null", "number", "html", "bytes", "half"],
)
def test_anything_but_an_object_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_object(text)


@given(st.binary(max_size=200))
def test_bytes_are_an_object_or_a_value_error(text: bytes) -> None:
    try:
        document = parse_object(text)
    except ValueError:
        return
    assert isinstance(document, dict)


@given(st.dictionaries(st.text(), st.integers()))
def test_an_object_is_returned(document: dict[str, int]) -> None:
    assert parse_object(json.dumps(document)) == document


@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks: list[bytes]) -> None:
    buffer = bytearray()
    lines: list[bytes] = []
    for chunk in chunks:
        buffer += chunk
        lines += [bytes(line) for line in take_lines(buffer)]
        assert b"\n" not in buffer
    assert [*lines, bytes(buffer)] == b"".join(chunks).split(b"\n")
