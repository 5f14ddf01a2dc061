"""Reads `session.audio.input.turn_detection` of a `session.update`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol.turn_detection import TurnDetection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_runtime.protocol.strict_fields import StrictFields

SERVER_VAD: Final = "server_vad"
SERVED_AS_SERVER_VAD: Final = ("semantic_vad", "azure_semantic_vad", "azure_semantic_vad_en")
"""Types that wait for the end of a thought; this service waits for silence."""
MAX_ASKED: Final = 4
"""Fields without effect that are kept, to warn about each of them once."""
PREFIX_PADDING_MS: Final = (0, 5_000)
SILENCE_DURATION_MS: Final = (100, 10_000)
IDLE_TIMEOUT_MS: Final = (5_000, 30_000)
"""OpenAI's limits."""


def read(fields: StrictFields, before: TurnDetection | None) -> TurnDetection:
    """Return the new turn detection; a field that is missing keeps its value of `before`.

    Raises:
        ProtocolError: a field is wrong.
    """
    kind = fields.choice("type", (SERVER_VAD, *SERVED_AS_SERVER_VAD))
    asked = [name for name in fields.unknown(("type", *_FIELDS)) if fields.document[name]]
    if kind != SERVER_VAD:
        asked.insert(0, "type")
    detection = replace(before or TurnDetection(), asked=tuple(asked[:MAX_ASKED]))
    for name, value in _FIELDS.items():
        if fields.document.get(name) is not None:
            # The names and types are those of the fields of `TurnDetection`.
            detection = replace(detection, **{name: value(fields)})  # type: ignore[arg-type]
    if "idle_timeout_ms" in fields and fields.document["idle_timeout_ms"] is None:
        detection = replace(detection, idle_timeout_ms=None)
    return detection


def _threshold(fields: StrictFields) -> float:
    value = fields.number("threshold")
    if not 0 <= value <= 1:
        raise fields.invalid("threshold", "must be 0 to 1", [0, 1])
    return float(value)


_FIELDS: Final[Mapping[str, Callable[[StrictFields], object]]] = {
    "threshold": _threshold,
    "prefix_padding_ms": lambda fields: fields.integer("prefix_padding_ms", *PREFIX_PADDING_MS),
    "silence_duration_ms": lambda fields: fields.integer(
        "silence_duration_ms", *SILENCE_DURATION_MS
    ),
    "idle_timeout_ms": lambda fields: fields.integer("idle_timeout_ms", *IDLE_TIMEOUT_MS),
    "create_response": lambda fields: fields.boolean("create_response"),
    "interrupt_response": lambda fields: fields.boolean("interrupt_response"),
}
