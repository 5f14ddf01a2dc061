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
        self._unnumbered = 0
        self._queue: deque[str] = deque()
        self._characters = 0

    @property
    def characters(self) -> int:
        """Size of the events that wait, in characters."""
        return self._characters

    def add(self, kind: str, fields: dict[str, object]) -> None:
        """Append an event."""
        text = self.number(kind, fields)
        self._queue.append(text)
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
        return _as_json({"type": kind, "event_id": event_id, "seq": self._seq, **fields})

    def unnumbered(self, kind: str, fields: dict[str, object]) -> str:
        """Return an event as JSON that has no number: the client does not miss it if it is lost."""
        self._unnumbered += 1
        event_id = f"event_{self._suffix}_i{self._unnumbered}"
        return _as_json({"type": kind, "event_id": event_id, **fields})

    def pop(self) -> str | None:
        """Remove and return the oldest event, or return `None` if the outbox is empty."""
        if not self._queue:
            return None
        text = self._queue.popleft()
        self._characters -= len(text)
        return text


def _as_json(event: dict[str, object]) -> str:
    return json.dumps(event, separators=(",", ":"))
