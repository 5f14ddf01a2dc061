"""The events that wait to be sent to the upstream."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol.bridge import beta

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WAITING_CHARACTERS: Final = 1024 * 1024
"""Size of the waiting events from which on the client is not read: 16 s of audio at 24 kHz."""
_MAX_OWN: Final = 256
"""Ids of own events that are remembered: an error of the upstream may name them."""


class Requests:
    """A queue. It is emptied when the connection is lost: the next one is a new session."""

    def __init__(self, suffix: str, *, is_beta: bool) -> None:
        """`suffix` is the common suffix of the session's identifiers."""
        self._suffix = suffix
        self._is_beta = is_beta
        self._queue: deque[str] = deque()
        self._characters = 0
        self._own: OrderedDict[str, None] = OrderedDict()
        self._count = 0

    @property
    def is_full(self) -> bool:
        """Whether so much waits that no more events of the client are accepted."""
        return self._characters >= MAX_WAITING_CHARACTERS

    def forward(self, kind: str, fields: Mapping[str, object], event_id: str | None) -> None:
        """Append an event of the client, with its id."""
        named = {} if event_id is None else {"event_id": event_id}
        self._append(self._encode({"type": kind, **named, **fields}))

    def send(self, kind: str, fields: Mapping[str, object]) -> str:
        """Append an event of the session itself, and return its id."""
        event_id = self._next_id()
        self._append(self._encode({"type": kind, "event_id": event_id, **fields}))
        return event_id

    def send_first(self, kind: str, fields: Mapping[str, object]) -> str:
        """Put an event of the session itself before all others, and return its id."""
        event_id = self._next_id()
        text = self._encode({"type": kind, "event_id": event_id, **fields})
        self._queue.appendleft(text)
        self._characters += len(text)
        return event_id

    def is_own(self, event_id: object) -> bool:
        """Return whether an id is that of an event of the session itself."""
        return isinstance(event_id, str) and event_id in self._own

    def pull(self) -> str | None:
        """Remove and return the oldest event as JSON, or return `None` if none waits."""
        if not self._queue:
            return None
        text = self._queue.popleft()
        self._characters -= len(text)
        return text

    def clear(self) -> None:
        """Discard all events."""
        self._queue.clear()
        self._characters = 0

    def _append(self, text: str) -> None:
        self._queue.append(text)
        self._characters += len(text)

    def _encode(self, event: dict[str, object]) -> str:
        document = beta.to_beta(event) if self._is_beta else event
        return json.dumps(document, separators=(",", ":"))

    def _next_id(self) -> str:
        self._count += 1
        event_id = f"evt_{self._suffix}_{self._count}"
        self._own[event_id] = None
        if len(self._own) > _MAX_OWN:
            self._own.popitem(last=False)
        return event_id
