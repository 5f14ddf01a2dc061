"""Messages that wait for the socket, numbered in the order in which they are sent."""

from __future__ import annotations

import json
from collections import deque


class Outbox:
    """The queue of events for the client.

    Media does not wait here: it is encoded when the socket can take it and the outbox is empty.
    A message that has a number is therefore never discarded.
    """

    def __init__(self, suffix: str) -> None:
        """`suffix` is the common suffix of the session's identifiers."""
        self._suffix = suffix
        self._seq = 0
        self._queue: deque[tuple[int, str]] = deque()
        self._characters = 0

    @property
    def last_seq(self) -> int:
        """Number of the newest event."""
        return self._seq

    @property
    def characters(self) -> int:
        """Size of the events that wait, in characters."""
        return self._characters

    def add(self, kind: str, fields: dict[str, object]) -> None:
        """Append an event."""
        text = self.number(kind, fields)
        self._queue.append((self._seq, text))
        self._characters += len(text)

    def warn(
        self, code: str, message: str, *, param: str | None = None, event_id: str | None = None
    ) -> None:
        """Append a `warning`; `event_id` is that of the client's event that caused it."""
        fields = {"code": code, "message": message, "param": param, "event_id": event_id}
        self.add("warning", {"warning": fields})

    def number(self, kind: str, fields: dict[str, object]) -> str:
        """Return the event as JSON with the next number. The caller must send it next."""
        self._seq += 1
        event_id = f"event_{self._suffix}_{self._seq}"
        return json.dumps(
            {"type": kind, "event_id": event_id, "seq": self._seq, **fields},
            separators=(",", ":"),
        )

    def pop(self) -> tuple[int, str] | None:
        """Remove and return the oldest event with its number; `None` if the outbox is empty."""
        if not self._queue:
            return None
        seq, text = self._queue.popleft()
        self._characters -= len(text)
        return seq, text
