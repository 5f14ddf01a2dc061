"""What the client knows of an answer: the items and parts that are announced and not ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol import server_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from avatar_runtime.protocol.conversation import Conversation

    Event = tuple[str, dict[str, object]]

MAX_ENTRIES: Final = 128
"""Items of an answer, and parts of an item, at most."""
MAX_TEXT: Final = 64 * 1024
"""Characters of a transcript that the end of an interrupted answer repeats, at most."""


@dataclass(slots=True)
class _Part:
    is_audio: bool
    text: str = ""
    is_open: bool = True

    def describe(self, *, in_item: bool) -> dict[str, object]:
        kind = "audio" if self.is_audio else "text"
        name = "transcript" if self.is_audio else "text"
        return {"type": f"output_{kind}" if in_item else kind, name: self.text}


@dataclass(slots=True)
class _Item:
    output_index: int
    document: dict[str, object]
    is_open: bool = True
    in_conversation: bool = False
    previous: object = None
    parts: dict[int, _Part] = field(default_factory=dict)

    def incomplete(self) -> dict[str, object]:
        document = {**self.document, "status": "incomplete"}
        if document.get("type") == "message":
            document["content"] = [part.describe(in_item=True) for part in self.parts.values()]
        return document


class Outline:
    """The announced items of one answer."""

    def __init__(self, response_id: str) -> None:
        self._id = response_id
        self._items: dict[str, _Item] = {}

    def observe(self, kind: str, fields: Mapping[str, object]) -> None:
        """Take notice of an event that was sent. Items and parts over the limits are not kept."""
        name = kind.removeprefix("response.")
        if kind.startswith("conversation.item."):
            self._observe_conversation(kind, fields)
        elif name in ("output_item.added", "output_item.done"):
            self._observe_item(name, fields)
        elif (item := self._items.get(str(fields.get("item_id")))) is not None:
            _observe_part(item, name, fields)

    def close_audio(self) -> Iterator[Event]:
        """Yield the events that end the audio of the open parts."""
        for item_id, item, index, part in self._open_parts():
            if part.is_audio:
                ids = self._ids(item_id, item, index)
                yield "response.output_audio.done", ids
                yield "response.output_audio_transcript.done", {**ids, "transcript": part.text}

    def close(self, conversation: Conversation) -> Iterator[Event]:
        """Yield the events that end the open parts and items; they are ended then.

        `conversation` knows what is before an item now, if the item is the session's own.
        """
        for item_id, item, index, part in self._open_parts():
            ids = self._ids(item_id, item, index)
            if not part.is_audio:
                yield "response.output_text.done", {**ids, "text": part.text}
            yield "response.content_part.done", {**ids, "part": part.describe(in_item=False)}
            part.is_open = False
        for item_id, item in self._items.items():
            if item.is_open:
                item.document = item.incomplete()
                item.is_open = False
                ids = {"response_id": self._id, "output_index": item.output_index}
                yield "response.output_item.done", {**ids, "item": item.document}
            if item.in_conversation:
                item.in_conversation = False
                own = conversation.find(item_id)
                previous = item.previous if own is None else conversation.previous(own)
                done = {"item": item.document, "previous_item_id": previous}
                yield "conversation.item.done", done

    def output(self) -> list[dict[str, object]]:
        """Return the items of the answer as its response object has them."""
        items = sorted(self._items.values(), key=lambda item: item.output_index)
        return [item.document for item in items]

    def _open_parts(self) -> list[tuple[str, _Item, int, _Part]]:
        return [
            (item_id, item, index, part)
            for item_id, item in self._items.items()
            for index, part in item.parts.items()
            if part.is_open
        ]

    def _ids(self, item_id: str, item: _Item, content_index: int) -> dict[str, object]:
        return server_events.content_part_ids(self._id, item_id, item.output_index, content_index)

    def _observe_item(self, name: str, fields: Mapping[str, object]) -> None:
        document, index = fields.get("item"), fields.get("output_index")
        if not isinstance(document, dict) or not isinstance(index, int):
            return
        item_id = str(document.get("id"))
        if name == "output_item.added":
            if len(self._items) < MAX_ENTRIES:
                self._items[item_id] = _Item(index, document)
        elif (item := self._items.get(item_id)) is not None:
            item.document, item.is_open = document, False
            for part in item.parts.values():
                part.is_open = False

    def _observe_conversation(self, kind: str, fields: Mapping[str, object]) -> None:
        document = fields.get("item")
        item_id = str(document.get("id")) if isinstance(document, dict) else ""
        item = self._items.get(item_id)
        if item is not None:
            item.in_conversation = kind == "conversation.item.added"
            item.previous = fields.get("previous_item_id")


def _observe_part(item: _Item, name: str, fields: Mapping[str, object]) -> None:
    index = fields.get("content_index")
    if not isinstance(index, int):
        return
    if name == "content_part.added":
        described = fields.get("part")
        kind = described.get("type") if isinstance(described, dict) else None
        if len(item.parts) < MAX_ENTRIES:
            item.parts[index] = _Part(kind != "text")
    elif (part := item.parts.get(index)) is None:
        return
    elif name in ("output_audio_transcript.delta", "output_text.delta"):
        delta = fields.get("delta")
        if isinstance(delta, str):
            part.text = (part.text + delta)[:MAX_TEXT]
    elif name == "content_part.done":
        part.is_open = False
