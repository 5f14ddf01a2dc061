"""The events of a client: one frozen class for each event, parsed strictly."""

from __future__ import annotations

import binascii
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol.strict_fields import StrictFields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_MESSAGE_BYTES: Final = 21 * 1024 * 1024
MAX_APPEND_BYTES: Final = 15 * 1024 * 1024
MAX_EVENT_ID_CHARACTERS: Final = 512
MAX_NESTING: Final = 32
MAX_IGNORED: Final = 16
"""Warnings about one event, at most."""
MAX_METADATA: Final = 16
"""Entries of `response.metadata`; the limits are OpenAI's."""
MAX_METADATA_NAME: Final = 64
MAX_METADATA_VALUE: Final = 512
_SERVED: Final[Mapping[str, object]] = {"output_modalities": ["audio"], "conversation": "auto"}
"""Fields of `response.create` with the value that each response has."""
_MAX_VALUES: Final = 100_000  # values of a message; a legal session.update has a few hundred
_MAX_DIGITS: Final = 100
"""Digits of an integer. The time that Python takes for one is quadratic in them."""
_MAX_MS: Final = 86_400_000
MAX_SEQ: Final = 2**53 - 1
"""Highest number of a message: RFC 8259, section 6."""
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """`session.update`: the requested changes, not checked."""

    session: StrictFields


@dataclass(frozen=True, slots=True)
class AppendAudio:
    """`input_audio_buffer.append`: decoded bytes in the format of the session."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """`input_audio_buffer.commit`."""


@dataclass(frozen=True, slots=True)
class ClearInput:
    """`input_audio_buffer.clear`."""


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """`output_audio_buffer.clear`."""


@dataclass(frozen=True, slots=True)
class CreateItem:
    """`conversation.item.create`."""


@dataclass(frozen=True, slots=True)
class RetrieveItem:
    """`conversation.item.retrieve`."""

    item_id: str


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """`conversation.item.delete`."""

    item_id: str


@dataclass(frozen=True, slots=True)
class TruncateItem:
    """`conversation.item.truncate`."""

    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """`response.create`."""

    metadata: Mapping[str, str] | None = None
    """Returned in the response object."""
    ignored: tuple[str, ...] = ()
    """Paths of the fields that have no effect, at most `MAX_IGNORED` of them."""


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """`response.cancel`."""

    response_id: str | None
    """`None` names the active response."""


@dataclass(frozen=True, slots=True)
class Ack:
    """`output_video_buffer.ack`: the client has played the response up to `pts_ms`."""

    response_id: str
    pts_ms: float
    seq: int = 0
    """The client has all messages up to this number."""


@dataclass(frozen=True, slots=True)
class RequestKeyframe:
    """`output_video_buffer.request_keyframe`; every JPEG frame is a keyframe."""


ClientEvent = (
    SessionUpdate
    | AppendAudio
    | Commit
    | ClearInput
    | ClearOutput
    | CreateItem
    | RetrieveItem
    | DeleteItem
    | TruncateItem
    | CreateResponse
    | CancelResponse
    | Ack
    | RequestKeyframe
)


def load(text: str) -> StrictFields:
    """Return the JSON object of a message.

    Raises:
        ProtocolError: it is not a JSON object, too large or nested too deeply.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise too_large(len(text))
    if len(text) > _MAX_VALUES and sum(map(text.count, ",[{")) > _MAX_VALUES:
        message = f"the message has more than {_MAX_VALUES} values"
        raise ProtocolError("invalid_value", message, limit=_MAX_VALUES)
    try:
        document = json.loads(
            text,
            parse_constant=_reject_constant,
            parse_int=_parse_integer,
            parse_float=_parse_number,
        )
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ProtocolError("invalid_json", f"the message is not JSON: {error}") from None
    _check_surrogates(text, document)
    if not isinstance(document, dict):
        kind = "array" if isinstance(document, list) else type(document).__name__
        raise ProtocolError("invalid_json", f"the message is not a JSON object but: {kind}")
    _check_nesting(document)
    return StrictFields(document)


def event_id(fields: StrictFields) -> str | None:
    """Return the client's id of the event, which errors repeat, or `None`.

    Raises:
        ProtocolError: it is not a string or too long.
    """
    if "event_id" not in fields or fields.document["event_id"] is None:
        return None
    text = fields.text("event_id")
    if len(text) > MAX_EVENT_ID_CHARACTERS:
        raise fields.invalid(
            "event_id",
            f"must have at most {MAX_EVENT_ID_CHARACTERS} characters",
            MAX_EVENT_ID_CHARACTERS,
        )
    return text


def parse(fields: StrictFields) -> ClientEvent:
    """Return the event of a message.

    Raises:
        ProtocolError: with a code of docs/wire-protocol.md, "Errors".
    """
    kind = fields.text("type")
    if kind not in _PARSERS:
        raise fields.error("unknown_event", "type", "it is not an event of this protocol")
    return _PARSERS[kind](fields)


def too_large(size: int) -> ProtocolError:
    """Return the error for a message of `size` bytes."""
    return ProtocolError(
        "message_too_large",
        f"the message has {size} bytes, must be at most {MAX_MESSAGE_BYTES}",
        value=size,
        limit=MAX_MESSAGE_BYTES,
        close=1009,
    )


def binary_not_enabled(size: int) -> ProtocolError:
    """Return the error for a binary message in a session with the json transport."""
    return ProtocolError(
        "binary_not_enabled",
        "binary messages are not allowed while avatar.transport is json",
        param="avatar.transport",
        value=size,
        limit=["json"],
    )


def check_audio_size(size: int) -> None:
    """Check that the audio of one message may have `size` bytes.

    Raises:
        ProtocolError: it may not.
    """
    if size > MAX_APPEND_BYTES:
        raise ProtocolError(
            "audio_too_large",
            f"audio has {size} bytes, must be at most {MAX_APPEND_BYTES}",
            param="audio",
            value=size,
            limit=MAX_APPEND_BYTES,
        )


def _append(fields: StrictFields) -> AppendAudio:
    text = fields.text("audio")
    check_audio_size(len(text) // 4 * 3 - text[-2:].count("="))
    try:
        return AppendAudio(binascii.a2b_base64(text, strict_mode=True))
    except ValueError as error:
        raise fields.error("invalid_base64", "audio", f"not base64: {error}") from None


def _truncate(fields: StrictFields) -> TruncateItem:
    item_id = fields.text("item_id")
    fields.integer("content_index", 0, 0)
    return TruncateItem(item_id, fields.integer("audio_end_ms", 0, _MAX_MS))


def _create_response(fields: StrictFields) -> CreateResponse:
    if fields.document.get("response") is None:
        return CreateResponse()
    body = fields.nested("response")
    metadata = read_metadata(body) if body.document.get("metadata") is not None else None
    ignored = [
        body.path(name)
        for name in body.unknown(("metadata",))
        if body.document[name] is not None and body.document[name] != _SERVED.get(name)
    ]
    return CreateResponse(metadata, tuple(str(shown(path)) for path in ignored[:MAX_IGNORED]))


def read_metadata(body: StrictFields) -> Mapping[str, str]:
    """Return the required field `metadata` of an object.

    Raises:
        ProtocolError: it is missing, wrong or too large.
    """
    metadata = body.nested("metadata")
    if len(metadata.document) > MAX_METADATA:
        raise body.invalid("metadata", f"must have at most {MAX_METADATA} entries", MAX_METADATA)
    entries = {}
    for name in metadata.document:
        if len(name) > MAX_METADATA_NAME:
            message = f"names must have at most {MAX_METADATA_NAME} characters"
            raise body.invalid("metadata", message, MAX_METADATA_NAME)
        entries[name] = metadata.text(name)
        if len(entries[name]) > MAX_METADATA_VALUE:
            message = f"must have at most {MAX_METADATA_VALUE} characters"
            raise metadata.invalid(name, message, MAX_METADATA_VALUE)
    return entries


def _cancel(fields: StrictFields) -> CancelResponse:
    if fields.document.get("response_id") is None:
        return CancelResponse(None)
    return CancelResponse(fields.text("response_id"))


def _ack(fields: StrictFields) -> Ack:
    response_id, pts_ms = fields.text("response_id"), fields.number("pts_ms")
    if not 0 <= pts_ms <= _MAX_MS:
        raise fields.invalid("pts_ms", f"must be 0 to {_MAX_MS}", [0, _MAX_MS])
    seq = fields.integer("seq", 0, MAX_SEQ) if "seq" in fields else 0
    return Ack(response_id, pts_ms, seq)


def _webrtc(fields: StrictFields) -> NoReturn:
    message = "WebRTC is not supported; avatar.output_protocol supports: websocket"
    raise ProtocolError("webrtc_unsupported", message, param="type", value=fields.text("type"))


def _resume(fields: StrictFields) -> NoReturn:
    expected = "must be the first message of a connection with ?resume=SESSION_ID"
    raise fields.error("resume_not_first", "type", expected)


_PARSERS: Final[Mapping[str, Callable[[StrictFields], ClientEvent]]] = {
    "session.update": lambda fields: SessionUpdate(fields.nested("session")),
    "input_audio_buffer.append": _append,
    "input_audio_buffer.commit": lambda _: Commit(),
    "input_audio_buffer.clear": lambda _: ClearInput(),
    "output_audio_buffer.clear": lambda _: ClearOutput(),
    "conversation.item.create": lambda _: CreateItem(),
    "conversation.item.retrieve": lambda fields: RetrieveItem(fields.text("item_id")),
    "conversation.item.delete": lambda fields: DeleteItem(fields.text("item_id")),
    "conversation.item.truncate": _truncate,
    "response.create": _create_response,
    "response.cancel": _cancel,
    "session.avatar.connect": _webrtc,
    "output_video_buffer.ack": _ack,
    "output_video_buffer.request_keyframe": lambda _: RequestKeyframe(),
    "session.resume": _resume,
}


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _parse_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
    return int(text)


def _parse_number(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # it could not be sent back as JSON
        raise ValueError("a number is too large")
    return number


def _check_surrogates(text: str, document: object) -> None:
    """Check that each string can be sent back: UTF-8 has no half of a surrogate pair.

    Raises:
        ProtocolError: a string has one.
    """
    # Base64 has neither escapes nor other characters: a search of 256 KiB takes 4 ms.
    if (text.isascii() and "\\" not in text) or _SURROGATE.search(text) is None:
        return
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError:
        message = "a string of the message has half of a surrogate pair"
        raise ProtocolError("invalid_json", message) from None


def _too_deep() -> ProtocolError:
    message = f"the message is nested deeper than {MAX_NESTING} levels"
    return ProtocolError("invalid_value", message, limit=MAX_NESTING)


def _check_nesting(document: dict[str, object]) -> None:
    level: list[object] = [document]
    for _ in range(MAX_NESTING):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else _children(parent))
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _children(parent: object) -> list[object]:
    return parent if isinstance(parent, list) else []
