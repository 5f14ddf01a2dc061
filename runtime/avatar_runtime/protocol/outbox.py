"""Messages on their way to the client, numbered in the order in which they leave."""

from __future__ import annotations

import json
from collections import deque


class Outbox:
    """Events that wait for the socket.

    Media is not kept here: it is made when the socket can take it, and only while nothing
    else waits. So a number once given is never thrown away.
    """

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._seq = 0
        self._waiting: deque[str] = deque()
        self._characters = 0

    @property
    def characters(self) -> int:
        """Size of what waits."""
        return self._characters

    def add(self, kind: str, fields: dict[str, object]) -> None:
        """Append an event."""
        text = self.number(kind, fields)
        self._waiting.append(text)
        self._characters += len(text)

    def number(self, kind: str, fields: dict[str, object]) -> str:
        """Return the event as JSON with the next number; it must leave at once."""
        self._seq += 1
        event_id = f"event_{self._suffix}_{self._seq}"
        return json.dumps(
            {"type": kind, "event_id": event_id, "seq": self._seq, **fields},
            separators=(",", ":"),
        )

    def pop(self) -> str | None:
        """Return the oldest event, if one waits."""
        if not self._waiting:
            return None
        text = self._waiting.popleft()
        self._characters -= len(text)
        return text
