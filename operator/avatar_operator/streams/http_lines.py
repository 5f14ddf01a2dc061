"""Reads the body of one HTTP/1.1 answer line by line, whatever parts it arrives in.

A general client keeps some 20 KB for an answer that never ends, and wakes a task for
each part of it; here it is a few hundred bytes, for as many answers as there are pods
(docs/decisions/0013-streams-without-tasks.md). RFC 9112, sections 4, 6 and 7.1.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from avatar_operator.errors import BrokenStream

LONGEST_HEAD: Final = 1 << 14  # bytes
LONGEST_LINE: Final = 1 << 20  # bytes
_LONGEST_SIZE: Final = 64  # bytes of the line before a chunk, with its extensions

_Step = Enum("_Step", "HEAD SIZE CHUNK AFTER_CHUNK PLAIN")


class Lines:
    """What is not yet a whole line of one answer."""

    __slots__ = ("_left", "_line", "_rest", "_step")

    def __init__(self) -> None:
        self._step = _Step.HEAD
        self._rest = b""  # what is left of the framing
        self._line = b""  # what is left of the body
        self._left = 0  # bytes of the chunk still to come

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends.

        Raises:
            BrokenStream: the answer is no good one, or it ended; the reader is of no more use.
        """
        data, self._rest = self._rest + data, b""
        lines: list[bytes] = []
        at = 0
        while at < len(data):
            match self._step:
                case _Step.PLAIN:
                    self._take(data[at:], lines)
                    break
                case _Step.CHUNK:
                    part = data[at : at + self._left]
                    self._take(part, lines)
                    at += len(part)
                    self._left -= len(part)
                    if not self._left:
                        self._step = _Step.AFTER_CHUNK
                    continue
            end = b"\r\n\r\n" if self._step is _Step.HEAD else b"\r\n"
            found = data.find(end, at)
            if found < 0:
                self._keep(data[at:])
                break
            self._frame(data[at:found])
            at = found + len(end)
        return lines

    def _keep(self, rest: bytes) -> None:
        if len(rest) > (LONGEST_HEAD if self._step is _Step.HEAD else _LONGEST_SIZE):
            raise BrokenStream(f"{len(rest)} bytes are no head and no chunk")
        self._rest = rest

    def _frame(self, text: bytes) -> None:
        """Take in the head, the size of a chunk, or the end of one."""
        if self._step is _Step.HEAD:
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
    """Return whether the body comes in chunks; else it lasts as long as the connection.

    Raises:
        BrokenStream: the answer is not 200.
    """
    status, *fields = head.decode("latin-1").split("\r\n")
    _, _, told = status.partition(" ")
    if not status.startswith("HTTP/1.") or not told.startswith("200"):
        raise BrokenStream(f"it answered {told[:3] or 'nothing'}")
    headers = {name.lower(): value for name, _, value in (f.partition(":") for f in fields)}
    return "chunked" in headers.get("transfer-encoding", "").lower()


def _size(text: bytes) -> int:
    number = text.partition(b";")[0].strip()
    try:
        size = int(number, 16)
    except ValueError:
        size = -1
    if size < 0:
        raise BrokenStream(f"the size of a chunk is {number[:8]!r}")
    return size
