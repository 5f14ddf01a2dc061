from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avatar_operator.errors import BrokenStream
from avatar_operator.streams import http_lines
from avatar_operator.streams.http_lines import LineReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: Chunked\r\n\r\n"
PLAIN = HEAD + b"\r\n"


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return f"{len(data):x}".encode() + extension + b"\r\n" + data + b"\r\n"


def read(*parts: bytes) -> list[bytes]:
    reader = LineReader()
    return [line for part in parts for line in reader.feed(part)]


def test_lines_come_out_of_chunks() -> None:
    assert read(CHUNKED + chunk(b"a\nb") + chunk(b"c\n", b";x=y")) == [b"a", b"bc"]


def test_lines_come_out_of_a_body_without_chunks() -> None:
    assert read(PLAIN + b"a\n", b"b", b"\nc") == [b"a", b"b"]


@given(
    said=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=6),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    chunked=st.booleans(),
)
@example(said=[b"", b""], sizes=[1], cuts=[1], chunked=True)
def test_lines_do_not_depend_on_chunks_and_segments(
    said: list[bytes], sizes: list[int], cuts: list[int], chunked: bool
) -> None:
    body = b"".join(line + b"\n" for line in said)
    framed = b"".join(map(chunk, pieces(body, sizes))) if chunked else body
    response = (CHUNKED if chunked else PLAIN) + framed
    assert read(*pieces(response, cuts)) == said


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Split data into pieces of these sizes, repeatedly."""
    found: list[bytes] = []
    while data:
        size = sizes[len(found) % len(sizes)]
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", "HTTP status 401"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP status missing"),
        (CHUNKED + b"0\r\n\r\n", "the stream ended"),
        (CHUNKED + b"many\r\n", "chunk size is b'many', must be a hexadecimal number"),
        (CHUNKED + b"123456789x\r\n", "chunk size is b'12345678', must be a hexadecimal number"),
        (b"HTTP/2 200 OK\r\n\r\n", "HTTP status 200"),
        (CHUNKED + b"-1\r\n", "chunk size is b'-1', must be a hexadecimal number"),
        (CHUNKED + b"1\r\nab\r\n", "a chunk is longer than its size"),
        (CHUNKED + b"1" * 65, "65 bytes are neither a header nor a chunk size"),
        (
            b"H" * (http_lines.LONGEST_HEADER + 1),
            "16385 bytes are neither a header nor a chunk size",
        ),
        (PLAIN + b"x" * (http_lines.LONGEST_LINE + 1), "a line is longer than 1048576 bytes"),
    ],
)
def test_an_invalid_response_breaks_the_stream_with_a_reason(response: bytes, fault: str) -> None:
    with pytest.raises(BrokenStream) as caught:
        read(response)
    assert str(caught.value) == fault


@pytest.mark.parametrize(
    "response",
    [
        CHUNKED + b"1" * 64,
        b"H" * http_lines.LONGEST_HEADER,
        PLAIN + b"x" * http_lines.LONGEST_LINE,
        CHUNKED + chunk(b"x" * 10, b";" + b"e" * 50),
    ],
    ids=["chunk size", "header", "line", "chunk extension"],
)
def test_what_is_as_long_as_its_limit_is_read(response: bytes) -> None:
    assert read(response) == []
