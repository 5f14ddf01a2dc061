"""The text of the conversation, as the chat endpoint gets it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Maybe, Table, Text

if TYPE_CHECKING:
    from avatar_runtime.protocol.strict_fields import StrictFields

Role = Literal["system", "user", "assistant"]

MAX_ENTRIES: Final = 256
MAX_CHARACTERS: Final = 256 * 1024
_ENTRY: Final[Table] = {
    "item_id": Text(),
    "role": Text(),
    "text": Maybe(Text(1024 * 1024)),
}


@dataclass(slots=True)
class Entry:
    """One message of the conversation."""

    role: Role
    text: str | None
    """`None` as long as it is not known; such an entry is not sent."""


class History:
    """The newest messages, in order, within `MAX_ENTRIES` and `MAX_CHARACTERS`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def add(self, item_id: str, role: Role, text: str | None) -> None:
        """Append a message."""
        self._entries[item_id] = Entry(role, text)
        self._shrink()

    def set_text(self, item_id: str, text: str) -> None:
        """Set the text of a message, unless it was deleted."""
        if item_id in self._entries:
            self._entries[item_id].text = text
            self._shrink()

    def text(self, item_id: str) -> str | None:
        """Return the text of a message; `None` if it is not known or was deleted."""
        entry = self._entries.get(item_id)
        return None if entry is None else entry.text

    def remove(self, item_id: str) -> None:
        """Delete a message, if it exists."""
        self._entries.pop(item_id, None)

    def messages(self, limit: int) -> list[dict[str, str]]:
        """Return the last `limit` messages that have a text, oldest first."""
        found = [
            {"role": entry.role, "content": entry.text}
            for entry in self._entries.values()
            if entry.text
        ]
        return found[-limit:]

    def export(self) -> list[dict[str, object]]:
        """Return the messages as plain values."""
        return [
            {"item_id": item_id, "role": entry.role, "text": entry.text}
            for item_id, entry in self._entries.items()
        ]

    def restore(self, fields: StrictFields, name: str) -> None:
        """Continue from the messages that another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        for found in fields.objects(name, MAX_ENTRIES):
            found.choice("role", ("system", "user", "assistant"))
            self.add(**document_fields.read(found, _ENTRY))

    def _shrink(self) -> None:
        size = sum(len(entry.text or "") for entry in self._entries.values())
        while len(self._entries) > MAX_ENTRIES or (
            size > MAX_CHARACTERS and len(self._entries) > 1
        ):
            _, oldest = self._entries.popitem(last=False)
            size -= len(oldest.text or "")
