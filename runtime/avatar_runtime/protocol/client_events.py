"""What a client may say: one frozen class for each event, parsed strictly."""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MESSAGE_BYTES: Final = 21 * 1024 * 1024
APPEND_BYTES: Final = 15 * 1024 * 1024
EVENT_ID_CHARACTERS: Final = 512
NESTING: Final = 32
_SEPARATORS: Final = 100_000  # of a legal message: audio holds none, a session a few hundred
_LONGEST_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """`session.update`: the wanted changes, not yet checked."""

    session: Fields


@dataclass(frozen=True, slots=True)
class Append:
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


@dataclass(frozen=True, slots=True)
class CancelResponse:
    """`response.cancel`; without an id it means the active one."""

    response_id: str | None


@dataclass(frozen=True, slots=True)
class Ack:
    """`output_video_buffer.ack`: played up to `pts_ms` of the response."""

    response_id: str
    pts_ms: float


@dataclass(frozen=True, slots=True)
class RequestKeyframe:
    """`output_video_buffer.request_keyframe`; every JPEG is one."""


ClientEvent = (
    SessionUpdate
    | Append
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


def load(text: str) -> Fields:
    """Return the message as an object.

    Raises `ProtocolError` if it is none, too large or too deep.
    """
    if len(text) > MESSAGE_BYTES:
        raise too_large(len(text))
    if len(text) > _SEPARATORS and sum(map(text.count, ",[{")) > _SEPARATORS:
        message = f"the message has more than {_SEPARATORS} values"
        raise ProtocolError("invalid_value", message, limit=_SEPARATORS)
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ProtocolError("invalid_json", f"the message is not JSON: {error}") from None
    if not isinstance(document, dict):
        kind = "array" if isinstance(document, list) else type(document).__name__
        raise ProtocolError("invalid_json", f"the message is not an object but: {kind}")
    _check_nesting(document)
    return Fields(document)


def event_id(fields: Fields) -> str | None:
    """Return the client's own id of the event, which errors repeat."""
    if "event_id" not in fields or fields.document["event_id"] is None:
        return None
    text = fields.text("event_id")
    if len(text) > EVENT_ID_CHARACTERS:
        raise fields.invalid(
            "event_id", f"must have at most {EVENT_ID_CHARACTERS} characters", EVENT_ID_CHARACTERS
        )
    return text


def parse(fields: Fields) -> ClientEvent:
    """Return the event.

    Raises `ProtocolError` with the code of wire protocol §13.
    """
    kind = fields.text("type")
    if kind not in _PARSERS:
        raise fields.refuse("unknown_event", "type", "it is no event of this protocol")
    return _PARSERS[kind](fields)


def too_large(size: int) -> ProtocolError:
    """Return the error for a message of `size` bytes."""
    return ProtocolError(
        "message_too_large",
        f"the message has {size} bytes, at most {MESSAGE_BYTES} are taken",
        value=size,
        limit=MESSAGE_BYTES,
        close=1009,
    )


def binary_refused(size: int) -> ProtocolError:
    """Return the error for a binary message in a session of the json transport."""
    return ProtocolError(
        "binary_not_enabled",
        "a binary message came in a session whose avatar.transport is json",
        param="avatar.transport",
        value=size,
        limit=["json"],
    )


def _append(fields: Fields) -> Append:
    text = fields.text("audio")
    size = len(text) // 4 * 3
    if size > APPEND_BYTES + 2:
        raise ProtocolError(
            "audio_too_large",
            f"audio has {size} bytes, at most {APPEND_BYTES} are taken in one append",
            param="audio",
            value=size,
            limit=APPEND_BYTES,
        )
    try:
        return Append(binascii.a2b_base64(text, strict_mode=True))
    except ValueError as error:
        raise fields.refuse("invalid_base64", "audio", f"not base64: {error}") from None


def _truncate(fields: Fields) -> TruncateItem:
    item_id = fields.text("item_id")
    fields.integer("content_index", 0, 0)
    return TruncateItem(item_id, fields.integer("audio_end_ms", 0, _LONGEST_MS))


def _create_response(fields: Fields) -> CreateResponse:
    if "response" in fields:
        fields.nested("response")
    return CreateResponse()


def _cancel(fields: Fields) -> CancelResponse:
    if fields.document.get("response_id") is None:
        return CancelResponse(None)
    return CancelResponse(fields.text("response_id"))


def _ack(fields: Fields) -> Ack:
    response_id, pts_ms = fields.text("response_id"), fields.number("pts_ms")
    if not 0 <= pts_ms <= _LONGEST_MS:
        raise fields.invalid("pts_ms", f"must be 0 to {_LONGEST_MS}", [0, _LONGEST_MS])
    return Ack(response_id, pts_ms)


def _webrtc(fields: Fields) -> NoReturn:
    message = "WebRTC is not served; avatar.output_protocol supports: websocket"
    raise ProtocolError("webrtc_unsupported", message, param="type", value=fields.text("type"))


def _resume(fields: Fields) -> NoReturn:
    raise fields.invalid("type", "this version does not serve resume; connect anew")


_PARSERS: Final[Mapping[str, Callable[[Fields], ClientEvent]]] = {
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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _too_deep() -> ProtocolError:
    message = f"the message nests deeper than {NESTING} levels"
    return ProtocolError("invalid_value", message, limit=NESTING)


def _check_nesting(document: dict[str, object]) -> None:
    level: list[object] = [document]
    for _ in range(NESTING):
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
