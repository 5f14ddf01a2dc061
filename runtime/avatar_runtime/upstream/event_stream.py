"""Reads server-sent events that arrive in parts."""

from __future__ import annotations

from typing import Final

MAX_LINE_BYTES: Final = 256 * 1024


class EventStream:
    """Collects bytes and returns the data of the events that are complete.

    Lines end with LF or CRLF. Fields other than `data` are ignored.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def push(self, chunk: bytes) -> list[bytes]:
        """Add bytes and return the data of complete events.

        Raises:
            ValueError: an event is longer than `MAX_LINE_BYTES`.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            if sum(map(len, self._data)) > MAX_LINE_BYTES:
                raise ValueError(f"an event of more than {MAX_LINE_BYTES} bytes")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"an event of more than {MAX_LINE_BYTES} bytes")
        return found
