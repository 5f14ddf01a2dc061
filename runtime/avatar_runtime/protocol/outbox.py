"""Messages that wait for the socket, numbered in the order in which they are sent."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_contracts.event_keys import UNCOUNTED, event_key
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Flag, Table
from avatar_runtime.protocol.exported_messages import Messages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_contracts.binary_messages import Header
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_EXPORTED_BYTES: Final = 8 * 1024 * 1024
"""Size of the messages that wait, in a document. `Session.can_receive` stops the client before."""
_STATE: Final[Table] = {"is_binary": Flag(), "_seq": Count(), "_unnumbered": Count()}


class Outbox:
    """The queue of messages for the client.

    Media does not wait here: it is encoded when the socket can take it and the outbox is empty.
    A message that has a number is therefore never discarded.
    """

    def __init__(self, suffix: str) -> None:
        """`suffix` is the common suffix of the session's identifiers."""
        self._suffix = suffix
        self.is_binary = False
        """Whether media leaves as binary messages."""
        self._seq = 0
        self._unnumbered = 0
        self._queue: deque[tuple[int, str | bytes]] = deque()
        self._characters = 0
        self.events = 0
        """Messages so far whose kind is not in `UNCOUNTED`."""
        self._known: Counter[str] = Counter()  # keys of those to come that the client has already

    @property
    def last_seq(self) -> int:
        """Number of the newest message; 0 before the first."""
        return self._seq

    @property
    def characters(self) -> int:
        """Size of the messages that wait, in characters or bytes."""
        return self._characters

    def add(self, kind: str, fields: dict[str, object]) -> None:
        """Append an event, unless the client has it: from the pod that is lost."""
        if kind not in UNCOUNTED:
            self.events += 1
            if self._known and self.is_known(kind, fields):
                self._known -= Counter([event_key(kind, fields)])
                return
        self._add(self.number(kind, fields))

    @property
    def repeats(self) -> bool:
        """Whether events follow that the client has already."""
        return bool(self._known)

    def is_known(self, kind: str, fields: Mapping[str, object]) -> bool:
        """Return whether the client has an event already that comes next."""
        return self._known[event_key(kind, fields)] > 0

    def skip_to(self, seq: int, known: Sequence[str] = ()) -> None:
        """Go on after message `seq` of a client that has all messages that wait here.

        `known` are the keys of the events to come that it has, too.
        """
        self._queue.clear()
        self._characters = 0
        self._seq = seq
        self._known = Counter(known)

    def end_repetition(self) -> None:
        """Send the next event, whatever the client says it has."""
        self.events += self._known.total()
        self._known.clear()

    def add_media(
        self, kind: str, fields: Callable[[], dict[str, object]], header: Header, payload: bytes
    ) -> None:
        """Append media; the arguments are those of `number_media`."""
        self._add(self.number_media(kind, fields, header, payload))

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

    def _unnumber(self, kind: str, fields: dict[str, object]) -> str:
        self._unnumbered += 1
        event_id = f"event_{self._suffix}_i{self._unnumbered}"
        return _as_json({"type": kind, "event_id": event_id, **fields})

    def number_media(
        self,
        kind: str,
        fields: Callable[[], dict[str, object]],
        header: Header,
        payload: bytes,
        *,
        is_numbered: bool = True,
    ) -> str | bytes:
        """Return media with the next number, as an event or as a binary message.

        `fields` returns the fields of the event, `header` is that of the binary message. The caller
        must send the message next. One without a number may be lost.
        """
        if not self.is_binary:
            return self.number(kind, fields()) if is_numbered else self._unnumber(kind, fields())
        if not is_numbered:
            return header.pack(payload)
        self._seq += 1
        return replace(header, seq=self._seq).pack(payload)

    def pop(self) -> tuple[int, str | bytes] | None:
        """Remove and return the oldest message with its number; `None` if the outbox is empty."""
        if not self._queue:
            return None
        seq, message = self._queue.popleft()
        self._characters -= len(message)
        return seq, message

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""
        queue = Messages(MAX_EXPORTED_BYTES).export(self._queue)
        return {**document_fields.export(self, _STATE), "events": self.events, "queue": queue}

    def restore(self, fields: StrictFields) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        if "events" in fields:  # a pod of the version before does not write it
            self.events = fields.integer("events", 0, self._seq)
        for seq, message in Messages(MAX_EXPORTED_BYTES).read(fields, "queue", self._seq):
            self._queue.append((seq, message))
            self._characters += len(message)

    def _add(self, message: str | bytes) -> None:
        self._queue.append((self._seq, message))
        self._characters += len(message)


def _as_json(event: dict[str, object]) -> str:
    return json.dumps(event, separators=(",", ":"))
