"""The text of the conversation, as the chat endpoint gets it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["system", "user", "assistant"]

MAX_ENTRIES: Final = 256
MAX_CHARACTERS: Final = 256 * 1024


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

    def _shrink(self) -> None:
        size = sum(len(entry.text or "") for entry in self._entries.values())
        while len(self._entries) > MAX_ENTRIES or (
            size > MAX_CHARACTERS and len(self._entries) > 1
        ):
            _, oldest = self._entries.popitem(last=False)
            size -= len(oldest.text or "")
