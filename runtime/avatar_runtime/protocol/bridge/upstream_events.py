"""The events of an upstream: which of them are relayed, and what they must look like."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = dict[str, object]

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Size of a message of the upstream. 64 kB is about a second of audio."""
MAX_ID: Final = 512
_MAX_INTEGER: Final = 2**31


class Route(Enum):
    """Where an event of the upstream goes."""

    SESSION = "session"
    """It says what the upstream's session is."""
    ERROR = "error"
    RESPONSE = "response"
    """It belongs to the response in `response_id` and leaves in step with its audio."""
    ITEM = "item"
    """It belongs to an item, and to its response if that is spoken."""
    DIRECT = "direct"
    """It leaves at once."""


_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
_PART: Final = ("response_id", "item_id", "output_index", "content_index")
_CALL: Final = ("response_id", "item_id", "output_index")
_KINDS: Final[Mapping[str, tuple[Route, tuple[str, ...]]]] = {
    "session.created": (Route.SESSION, ("session",)),
    "session.updated": (Route.SESSION, ("session",)),
    "error": (Route.ERROR, ("error",)),
    "conversation.item.added": (Route.ITEM, ("item",)),
    "conversation.item.done": (Route.ITEM, ("item",)),
    "conversation.item.retrieved": (Route.DIRECT, ("item",)),
    "conversation.item.deleted": (Route.DIRECT, ("item_id",)),
    "conversation.item.truncated": (Route.DIRECT, ("item_id", "content_index", "audio_end_ms")),
    f"{_TRANSCRIPTION}.delta": (Route.DIRECT, ("item_id",)),
    f"{_TRANSCRIPTION}.completed": (Route.DIRECT, ("item_id", "content_index", "transcript")),
    f"{_TRANSCRIPTION}.segment": (Route.DIRECT, ("item_id",)),
    f"{_TRANSCRIPTION}.failed": (Route.DIRECT, ("item_id", "content_index", "error")),
    "input_audio_buffer.committed": (Route.DIRECT, ("item_id",)),
    "input_audio_buffer.cleared": (Route.DIRECT, ()),
    "input_audio_buffer.speech_started": (Route.DIRECT, ("audio_start_ms", "item_id")),
    "input_audio_buffer.speech_stopped": (Route.DIRECT, ("audio_end_ms", "item_id")),
    "input_audio_buffer.timeout_triggered": (
        Route.DIRECT,
        ("audio_start_ms", "audio_end_ms", "item_id"),
    ),
    "input_audio_buffer.dtmf_event_received": (Route.DIRECT, ("event", "received_at")),
    "rate_limits.updated": (Route.DIRECT, ("rate_limits",)),
    "response.created": (Route.RESPONSE, ("response",)),
    "response.done": (Route.RESPONSE, ("response",)),
    "response.output_item.added": (Route.RESPONSE, ("response_id", "output_index", "item")),
    "response.output_item.done": (Route.RESPONSE, ("response_id", "output_index", "item")),
    "response.content_part.added": (Route.RESPONSE, (*_PART, "part")),
    "response.content_part.done": (Route.RESPONSE, (*_PART, "part")),
    "response.output_audio.delta": (Route.RESPONSE, (*_PART, "delta")),
    "response.output_audio.done": (Route.RESPONSE, _PART),
    "response.output_audio_transcript.delta": (Route.RESPONSE, (*_PART, "delta")),
    "response.output_audio_transcript.done": (Route.RESPONSE, (*_PART, "transcript")),
    "response.output_text.delta": (Route.RESPONSE, (*_PART, "delta")),
    "response.output_text.done": (Route.RESPONSE, (*_PART, "text")),
    "response.function_call_arguments.delta": (Route.RESPONSE, (*_CALL, "call_id", "delta")),
    "response.function_call_arguments.done": (Route.RESPONSE, (*_CALL, "call_id", "arguments")),
    "response.mcp_call_arguments.delta": (Route.RESPONSE, (*_CALL, "delta")),
    "response.mcp_call_arguments.done": (Route.RESPONSE, (*_CALL, "arguments")),
    "response.mcp_call.in_progress": (Route.ITEM, ("item_id", "output_index")),
    "response.mcp_call.completed": (Route.ITEM, ("item_id", "output_index")),
    "response.mcp_call.failed": (Route.ITEM, ("item_id", "output_index")),
    "mcp_list_tools.in_progress": (Route.DIRECT, ("item_id",)),
    "mcp_list_tools.completed": (Route.DIRECT, ("item_id",)),
    "mcp_list_tools.failed": (Route.DIRECT, ("item_id",)),
}
"""The relayed events: their route and the fields that they must have. Others are not relayed."""

_TEXTS: Final = frozenset({"delta", "transcript", "text", "arguments", "name", "event"})
_IDS: Final = frozenset({"response_id", "item_id", "call_id"})
_INTEGERS: Final = frozenset(
    {"output_index", "content_index", "audio_start_ms", "audio_end_ms", "received_at"}
)
_OBJECTS: Final = frozenset({"item", "part", "response", "error", "session"})
_LISTS: Final = frozenset({"rate_limits"})
_OURS: Final = ("type", "event_id", "seq", "epoch", "response_ref")
"""Fields of an event that the session itself sets."""


def load(text: str) -> Document:
    """Return the JSON object of a message.

    Raises:
        ProtocolError: it is not a JSON object, too large or nested too deeply.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        message = f"the message has {len(text)} characters, must be at most {MAX_MESSAGE_BYTES}"
        raise ProtocolError("message_too_large", message, limit=MAX_MESSAGE_BYTES)
    return dict(client_events.load(text).document)


def route(event: Document) -> Route | None:
    """Return where an event goes; `None` for an event that is not relayed.

    Raises:
        ProtocolError: the event has not the fields of its type.
    """
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    found, required = _KINDS[kind]
    for name in required:
        if name not in event:
            raise _invalid(kind, f"{name} is missing")
    for name, value in event.items():
        if not _is_valid(name, value):
            raise _invalid(kind, f"{name} has a wrong type or size")
    for name in ("item", "response"):
        if name in required and not is_id(identifier(event[name])):
            raise _invalid(kind, f"{name}.id is not an id")
    return found


def body(event: Document) -> Document:
    """Return the fields of an event without those that the session sets."""
    return {name: value for name, value in event.items() if name not in _OURS}


def identifier(document: object) -> object:
    """Return the `id` of an item or a response."""
    return document.get("id") if isinstance(document, dict) else None


def is_id(value: object) -> bool:
    """Return whether a value is an identifier of acceptable size."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID


def _is_valid(name: str, value: object) -> bool:
    if name in _IDS:
        return is_id(value)
    if name in _TEXTS:
        return isinstance(value, str)
    if name in _INTEGERS:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_INTEGER
    if name in _OBJECTS:
        return isinstance(value, dict)
    return not (name in _LISTS and not isinstance(value, list))


def _invalid(kind: str, problem: str) -> ProtocolError:
    return ProtocolError("invalid_value", f"{kind}: {problem}", param="type", value=kind)
