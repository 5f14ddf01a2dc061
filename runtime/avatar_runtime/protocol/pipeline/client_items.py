"""The items and requests of a client that mode speech understands: messages with text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from avatar_runtime.protocol.pipeline.history import Role
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_TEXT: Final = 16 * 1024
"""Characters of one message: about 18 minutes of speech."""
MAX_ITEMS: Final = 64
"""Items of `response.input`, and parts of a message, at most."""
MAX_ID: Final = 64
_ROLES: Final[dict[str, Role]] = {"system": "system", "user": "user", "assistant": "assistant"}
_PARTS: Final = {
    "system": ("input_text",),
    "user": ("input_text",),
    "assistant": ("output_text", "text"),
}
SERVED: Final = ("response.instructions", "response.input")
"""Fields of `response.create` that have an effect in this mode only."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the client."""

    id: str | None
    """The id that the client gives it, if any."""
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class ResponseInput:
    """What a `response.create` says about its answer."""

    instructions: str
    """Empty: those of the session."""
    messages: tuple[Message, ...] | None
    """The messages to answer; `None` for those of the conversation."""


def parse_item(fields: StrictFields) -> Message:
    """Return the message in an item.

    Raises:
        ProtocolError: it is not a message with text, or it is too long.
    """
    if fields.document.get("type") is not None:
        fields.choice("type", ("message",))
    role = _ROLES[fields.choice("role", tuple(_ROLES))]
    item_id = None
    if fields.document.get("id") is not None:
        item_id = fields.text("id")
        if not 1 <= len(item_id) <= MAX_ID:
            raise fields.invalid("id", f"must have 1 to {MAX_ID} characters", MAX_ID)
    text = "\n".join(_part(part, role) for part in fields.objects("content", MAX_ITEMS))
    if not text.strip():
        raise fields.invalid("content", "must have a text")
    if len(text) > MAX_TEXT:
        raise fields.error(
            "text_too_long", "content", f"must have at most {MAX_TEXT} characters", MAX_TEXT
        )
    return Message(item_id, role, text)


def parse_response(fields: StrictFields) -> ResponseInput:
    """Return what the event `response.create` says about its answer.

    Raises:
        ProtocolError: `instructions` or `input` is wrong or too long.
    """
    if fields.document.get("response") is None:
        return ResponseInput("", None)
    body = fields.nested("response")
    instructions, messages = "", None
    if body.document.get("instructions") is not None:
        instructions = body.text("instructions")
        if len(instructions) > MAX_TEXT:
            raise body.error(
                "text_too_long",
                "instructions",
                f"must have at most {MAX_TEXT} characters",
                MAX_TEXT,
            )
    if body.document.get("input") is not None:
        messages = tuple(parse_item(item) for item in body.objects("input", MAX_ITEMS))
    return ResponseInput(instructions, messages)


def _part(part: StrictFields, role: str) -> str:
    part.choice("type", _PARTS[role])
    return part.text("text")
