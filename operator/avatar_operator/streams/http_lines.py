"""Reads the body of one HTTP/1.1 response line by line, independent of how it is segmented.

A general client keeps about 20 KB for a response that never ends, and wakes a task for each
segment. This reader keeps a few hundred bytes, for as many responses as there are pods
(docs/decisions/0013-streams-without-tasks.md). RFC 9112, sections 4, 6 and 7.1.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from avatar_operator.errors import BrokenStream, TokenRefused

LONGEST_HEADER: Final = 1 << 14  # bytes
LONGEST_LINE: Final = 1 << 20  # bytes
_LONGEST_SIZE: Final = 64  # bytes of the line before a chunk, with its extensions

_Step = Enum("_Step", "HEADER SIZE CHUNK AFTER_CHUNK PLAIN")


class LineReader:
    """The incomplete line and the position in the framing of one response."""

    __slots__ = ("_left", "_line", "_rest", "_step")

    def __init__(self) -> None:
        self._step = _Step.HEADER
        self._rest = b""  # incomplete framing
        self._line = b""  # incomplete line of the body
        self._left = 0  # bytes of the chunk that have not arrived

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their line ends.

        Raises:
            BrokenStream: the response is invalid, or it ended; the reader must not be used again.
        """
        data, self._rest = self._rest + data, b""
        lines: list[bytes] = []
        position = 0
        while position < len(data):
            match self._step:
                case _Step.PLAIN:
                    self._take(data[position:], lines)
                    break
                case _Step.CHUNK:
                    part = data[position : position + self._left]
                    self._take(part, lines)
                    position += len(part)
                    self._left -= len(part)
                    if not self._left:
                        self._step = _Step.AFTER_CHUNK
                    continue
            end = b"\r\n\r\n" if self._step is _Step.HEADER else b"\r\n"
            found = data.find(end, position)
            if found < 0:
                self._keep(data[position:])
                break
            self._frame(data[position:found])
            position = found + len(end)
        return lines

    def _keep(self, rest: bytes) -> None:
        if len(rest) > (LONGEST_HEADER if self._step is _Step.HEADER else _LONGEST_SIZE):
            raise BrokenStream(f"{len(rest)} bytes are neither a header nor a chunk size")
        self._rest = rest

    def _frame(self, text: bytes) -> None:
        """Handle the header section, the size of a chunk, or the end of a chunk."""
        if self._step is _Step.HEADER:
            self._step = _Step.SIZE if _is_chunked(text) else _Step.PLAIN
        elif self._step is _Step.SIZE:
            self._left = _size(text)
            if not self._left:
                raise BrokenStream("the stream ended")
            self._step = _Step.CHUNK
        elif text:
            raise BrokenStream("a chunk is longer than its size")
        else:
            self._step = _Step.SIZE

    def _take(self, part: bytes, lines: list[bytes]) -> None:
        *whole, self._line = (self._line + part).split(b"\n")
        lines += whole
        if len(self._line) > LONGEST_LINE:
            raise BrokenStream(f"a line is longer than {LONGEST_LINE} bytes")


def _is_chunked(head: bytes) -> bool:
    """Return whether the body is chunked; otherwise it ends with the connection.

    Raises:
        TokenRefused: the status is 401.
        BrokenStream: the status is neither 200 nor 401.
    """
    status, *fields = head.decode("latin-1").split("\r\n")
    _, _, code = status.partition(" ")
    if not status.startswith("HTTP/1.") or not code.startswith("200"):
        kind = TokenRefused if code.startswith("401") else BrokenStream
        raise kind(f"HTTP status {code[:3] or 'missing'}")
    headers = {name.lower(): value for name, _, value in (f.partition(":") for f in fields)}
    return "chunked" in headers.get("transfer-encoding", "").lower()


def _size(text: bytes) -> int:
    number = text.partition(b";")[0].strip()
    try:
        size = int(number, 16)
    except ValueError:
        size = -1
    if size < 0:
        raise BrokenStream(f"chunk size is {number[:8]!r}, must be a hexadecimal number")
    return size
