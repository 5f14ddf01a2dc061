"""Relays the responses of an upstream: its events, and its audio as answers of the avatar."""

from __future__ import annotations

import binascii
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol.answer_audio import Part
from avatar_runtime.protocol.bridge import upstream_events
from avatar_runtime.protocol.media import W

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_runtime.protocol.answer import Answer
    from avatar_runtime.protocol.answers import Answers
    from avatar_runtime.protocol.bridge.upstream_audio import AudioStream
    from avatar_runtime.protocol.bridge.upstream_events import Document

_V = TypeVar("_V")
_MAX_KNOWN: Final = 256
"""Ids of responses and items that are remembered."""
_FINAL: Final = ("completed", "cancelled", "failed", "incomplete")
_OBJECTS: Final = ("status_details", "usage", "metadata")
_CALLS: Final = frozenset({"function_call", "mcp_call", "mcp_approval_request"})
"""Types of items that are reported also if the sound before them is cut short."""


@dataclass(slots=True)
class _Relayed(Generic[W]):
    """A response of the upstream whose answer has not ended."""

    answer: Answer[W]
    audio: AudioStream
    last_part: Part | None = None
    calls: set[str] = field(default_factory=set)


class ResponseRelay(Generic[W]):
    """Turns the events of the upstream's responses into answers."""

    def __init__(
        self,
        answers: Answers[W],
        conversation_id: str,
        open_stream: Callable[[], AudioStream],
        on_first_audio: Callable[[float], None],
    ) -> None:
        """`open_stream` converts the audio of a response to the format of the session."""
        self._answers = answers
        self._conversation_id = conversation_id
        self._open_stream = open_stream
        self._on_first_audio = on_first_audio
        self._relayed: dict[str, _Relayed[W]] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()  # ids of responses
        self._items: OrderedDict[str, str] = OrderedDict()  # response by item

    @property
    def unfinished(self) -> list[Answer[W]]:
        """The answers whose response the upstream has not completed."""
        return [relayed.answer for relayed in self._relayed.values() if relayed.answer.done is None]

    def receive(self, kind: str, fields: Document, now: float) -> None:
        """Handle an event with a response; one of an unknown or ended response is ignored.

        Raises:
            ProtocolError: the answer is too large, or too many answers wait.
        """
        if kind == "response.created":
            self._open(fields, now)
            return
        relayed = self._find(fields)
        if relayed is None:
            return
        if kind == "response.output_audio.delta":
            self._say(relayed, fields, now)
        elif kind == "response.done":
            self._finish(relayed, fields, now)
        else:
            self._report(relayed, kind, fields, now)

    def receive_item(self, kind: str, fields: Document, now: float) -> bool:
        """Handle an event of an item, and return whether the item belongs to an answer.

        Raises:
            ProtocolError: the answer is too large.
        """
        item_id = fields.get("item_id", upstream_events.identifier(fields.get("item")))
        response_id = self._items.get(str(item_id))
        if response_id is None:
            return False
        relayed = self._relayed.get(response_id)
        if relayed is not None:
            self._report(relayed, kind, fields, now)
        return True

    def forget(self, answer: Answer[W]) -> None:
        """Forget an answer that has ended."""
        self._relayed.pop(answer.id, None)

    def _open(self, fields: Document, now: float) -> None:
        response = self._ours(fields["response"], ("in_progress",))
        response_id = str(response["id"])
        if response_id in self._seen:
            return  # the client knows a response with this id
        _remember(self._seen, response_id, None)
        answer = self._answers.open(response, now)
        self._relayed[response_id] = _Relayed(answer, self._open_stream())

    def _find(self, fields: Document) -> _Relayed[W] | None:
        response_id = fields.get("response_id", upstream_events.identifier(fields.get("response")))
        return self._relayed.get(str(response_id))

    def _say(self, relayed: _Relayed[W], fields: Document, now: float) -> None:
        try:
            audio = binascii.a2b_base64(str(fields["delta"]), strict_mode=True)
        except ValueError:
            raise ProtocolError("invalid_base64", "delta is not base64", param="delta") from None
        part = Part(
            str(fields["item_id"]),
            _integer(fields["output_index"]),
            _integer(fields["content_index"]),
        )
        relayed.last_part = part
        if relayed.answer.heard_at is None:
            self._on_first_audio(now)
        samples = relayed.audio.add(audio)
        if samples:
            self._answers.say(relayed.answer, samples, part, now)

    def _report(self, relayed: _Relayed[W], kind: str, fields: Document, now: float) -> None:
        item = fields.get("item")
        item_id = str(fields.get("item_id", upstream_events.identifier(item)))
        if kind == "response.output_item.added" and isinstance(item, dict):
            _remember(self._items, item_id, relayed.answer.id)
            if str(item.get("type")) in _CALLS and len(relayed.calls) < _MAX_KNOWN:
                relayed.calls.add(item_id)
        call = item_id if item_id in relayed.calls else None
        self._answers.report(relayed.answer, kind, fields, call)

    def _finish(self, relayed: _Relayed[W], fields: Document, now: float) -> None:
        rest = relayed.audio.finish()
        if rest and relayed.last_part is not None:
            self._answers.say(relayed.answer, rest, relayed.last_part, now)
        self._answers.finish(relayed.answer, self._ours(fields["response"], _FINAL), now)

    def _ours(self, response: object, statuses: Sequence[str]) -> Mapping[str, object]:
        """Return a response object for the client; the first of `statuses` replaces a wrong one."""
        assert isinstance(response, dict)
        status, output = response.get("status"), response.get("output")
        checked: Document = {**response, "conversation_id": self._conversation_id}
        checked["status"] = status if status in statuses else statuses[0]
        items = output if isinstance(output, list) else []
        checked["output"] = [item for item in items if isinstance(item, dict)]
        for name in _OBJECTS:
            if not isinstance(checked.get(name), dict):
                checked[name] = None
        return checked


def _remember(known: OrderedDict[str, _V], key: str, value: _V) -> None:
    known[key] = value
    if len(known) > _MAX_KNOWN:
        known.popitem(last=False)


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value
