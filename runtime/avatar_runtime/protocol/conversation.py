"""The items of a conversation: who spoke when, and for how long."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

from avatar_runtime.errors import ProtocolError, shown

KEPT_ITEMS: Final = 1000  # two for each utterance; the oldest are forgotten


@dataclass(slots=True)
class Item:
    """One message of the conversation, without its sound."""

    id: str
    role: Literal["user", "assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    audio_ms: int = 0
    """Sound sent to the client so far; of assistant items only."""

    def describe(self) -> dict[str, object]:
        """Return the item as the wire shows it."""
        part: dict[str, object] = {"type": "input_audio", "transcript": None}
        if self.role == "assistant":
            part = {"type": "output_audio", "transcript": ""}
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [] if self.status == "in_progress" else [part],
        }


class Items:
    """The conversation in order."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()

    def add(self, item: Item) -> str | None:
        """Append an item and return the id of the one before it."""
        previous = next(reversed(self._items), None)
        self._items[item.id] = item
        if len(self._items) > KEPT_ITEMS:
            self._items.popitem(last=False)
        return previous

    def get(self, item_id: str) -> Item:
        """Return an item, or raise `ProtocolError`."""
        if item_id not in self._items:
            raise ProtocolError(
                "item_not_found",
                f"item_id is {shown(item_id)}; no such item in the conversation",
                param="item_id",
                value=shown(item_id),
            )
        return self._items[item_id]

    def remove(self, item_id: str) -> None:
        """Forget an item."""
        del self._items[item_id]

    def previous(self, item: Item) -> str | None:
        """Return the id of the item before this one, if it is still kept."""
        before: str | None = None
        for item_id in self._items:
            if item_id == item.id:
                return before
            before = item_id
        return None

    def check_truncation(self, item: Item, audio_end_ms: int) -> None:
        """Raise `ProtocolError` unless the sound of the item can end at `audio_end_ms`."""
        if item.role != "assistant":
            raise ProtocolError(
                "invalid_value",
                f"item_id is {shown(item.id)}; only items of the assistant can be truncated",
                param="item_id",
                value=shown(item.id),
            )
        if audio_end_ms > item.audio_ms:
            raise ProtocolError(
                "audio_end_out_of_range",
                f"audio_end_ms is {audio_end_ms}; {item.audio_ms} ms were sent",
                param="audio_end_ms",
                value=audio_end_ms,
                limit=item.audio_ms,
            )
