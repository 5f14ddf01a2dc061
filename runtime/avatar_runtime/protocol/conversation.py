"""The items of a conversation: who spoke when, and for how long."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from avatar_runtime.errors import ProtocolError, quoted, shown
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Maybe, Table, Text

if TYPE_CHECKING:
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_ITEMS: Final = 1000  # an utterance has two items
_MAX_TEXT: Final = 1024 * 1024
_ROLES: Final = ("system", "user", "assistant")
_STATUSES: Final = ("in_progress", "completed", "incomplete")
_ITEM: Final[Table] = {
    "id": Text(),
    "role": Text(),
    "status": Text(),
    "audio_ms": Count(),
    "transcript": Text(_MAX_TEXT),
    "text": Maybe(Text(_MAX_TEXT)),
}


@dataclass(slots=True)
class Item:
    """One message of the conversation, without its audio."""

    id: str
    role: Literal["system", "user", "assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    audio_ms: int = 0
    """Audio sent to the client so far, milliseconds; set for items of the assistant only."""
    transcript: str = ""
    """What the assistant says in an item of its own, or what the user was heard to say, as far as
    it is known."""
    text: str | None = None
    """The text of a message that the client wrote; `None` in an item of sound."""

    def describe(self) -> dict[str, object]:
        """Return the item object of the wire protocol."""
        part: dict[str, object] = {"type": "input_audio", "transcript": self.transcript or None}
        if self.text is not None:
            kind = "output_text" if self.role == "assistant" else "input_text"
            part = {"type": kind, "text": self.text}
        elif self.role == "assistant":
            part = {"type": "output_audio", "transcript": self.transcript}
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [] if self.status == "in_progress" else [part],
        }


def export_item(item: Item | None) -> dict[str, object] | None:
    """Return an item as plain values."""
    return None if item is None else document_fields.export(item, _ITEM)


def read_item(fields: StrictFields) -> Item:
    """Return an item that was exported.

    Raises:
        ProtocolError: a field is missing or wrong.
    """
    fields.choice("role", _ROLES)
    fields.choice("status", _STATUSES)
    return Item(**document_fields.read(fields, _ITEM))


class Conversation:
    """The newest `MAX_ITEMS` items, in order."""

    def __init__(self, outbox: Outbox) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._outbox = outbox

    @property
    def last(self) -> str | None:
        """The id of the newest item, or `None` if there is none."""
        return next(reversed(self._items), None)

    def has(self, item: Item) -> bool:
        """Return whether the conversation has an item."""
        return self._items.get(item.id) is item

    def add(self, item: Item) -> str | None:
        """Append an item and return the id of the one before it."""
        previous = self.last
        self._items[item.id] = item
        if len(self._items) > MAX_ITEMS:
            self._items.popitem(last=False)
        return previous

    def get(self, item_id: str) -> Item:
        """Return an item.

        Raises:
            ProtocolError: the conversation does not have the item.
        """
        if item_id not in self._items:
            raise ProtocolError(
                "item_not_found",
                f"item_id is {quoted(item_id)}; no such item in the conversation",
                param="item_id",
                value=shown(item_id),
            )
        return self._items[item_id]

    def find(self, item_id: str) -> Item | None:
        """Return an item, or `None` if the conversation does not have it."""
        return self._items.get(item_id)

    def previous(self, item: Item) -> str | None:
        """Return the id of the item before this one, or `None` if there is none any more."""
        before: str | None = None
        for item_id in self._items:
            if item_id == item.id:
                return before
            before = item_id
        return None

    def retrieve(self, item_id: str) -> None:
        """Send an item to the client.

        Raises:
            ProtocolError: the conversation does not have the item.
        """
        item = self.get(item_id)
        self._outbox.add("conversation.item.retrieved", {"item": item.describe()})

    def export(self) -> list[dict[str, object] | None]:
        """Return the items as plain values."""
        return [export_item(item) for item in self._items.values()]

    def restore(self, fields: StrictFields, name: str) -> None:
        """Continue from the items that another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        for found in fields.objects(name, MAX_ITEMS):
            item = read_item(found)
            self._items[item.id] = item

    def restore_item(self, fields: StrictFields, name: str) -> Item | None:
        """Return an exported item that may be `null`: that of the conversation, if it has one.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        found = document_fields.optional(fields, name)
        if found is None:
            return None
        item = read_item(found)
        return self._items.get(item.id, item)

    def delete(self, item_id: str) -> None:
        """Remove an item whose response is not active.

        Raises:
            ProtocolError: the conversation does not have the item, or its response is active.
        """
        if self.get(item_id).status == "in_progress":
            message = f"item_id is {quoted(item_id)}; its response is active"
            raise ProtocolError("response_active", message, param="item_id", value=shown(item_id))
        del self._items[item_id]
        self._outbox.add("conversation.item.deleted", {"item_id": item_id})

    def truncate(self, item: Item, audio_end_ms: int) -> None:
        """Set the end of an item's audio; `check_truncation` has accepted it."""
        item.audio_ms = audio_end_ms
        fields = {"item_id": item.id, "content_index": 0, "audio_end_ms": audio_end_ms}
        self._outbox.add("conversation.item.truncated", fields)

    def check_truncation(self, item: Item, audio_end_ms: int) -> None:
        """Check that the audio of an item can end at `audio_end_ms`.

        Raises:
            ProtocolError: it is an item of the user, or its audio is shorter.
        """
        if item.role != "assistant":
            raise ProtocolError(
                "invalid_value",
                f"item_id is {quoted(item.id)}; only items of the assistant can be truncated",
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


def response_active(param: str, value: object) -> ProtocolError:
    """Return the error for a change that is not allowed until the response has ended.

    `value` is what the field would have, of a configuration that was checked.
    """
    message = (
        f"{param} cannot change to {quoted(value)} while a response is active or audio is waiting"
    )
    return ProtocolError("response_active", message, param=param, value=value)
