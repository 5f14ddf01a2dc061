"""The configuration of a session in its document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import supported
from avatar_runtime.protocol import config_checks, document_fields
from avatar_runtime.protocol.config_checks import PIXEL_RANGE, QUALITY_RANGE
from avatar_runtime.protocol.config_update import (
    BITRATE_RANGE,
    MAX_STORED_CHARACTERS,
    WINDOW_MS_RANGE,
)
from avatar_runtime.protocol.document_fields import (
    Choice,
    Count,
    Flag,
    Format,
    List,
    Maybe,
    Number,
    Object,
    Pair,
    Table,
    Text,
)
from avatar_runtime.protocol.session_config import (
    Crop,
    FlowMode,
    Idle,
    Overrun,
    Region,
    SessionConfig,
    StartTrigger,
    Transport,
    VideoMode,
)
from avatar_runtime.protocol.turn_detection import TurnDetection
from avatar_runtime.protocol.turn_detection_update import (
    IDLE_TIMEOUT_MS,
    MAX_ASKED,
    PREFIX_PADDING_MS,
    SILENCE_DURATION_MS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.session_config import Character
    from avatar_runtime.protocol.strict_fields import StrictFields

_STORED: Final = ("stored", "stored_input", "stored_output")
_CONFIG: Final[Table] = {
    "format": Format(),
    "quality": Count(*QUALITY_RANGE),
    "bitrate": Count(*BITRATE_RANGE),
    "video": Choice(VideoMode),
    "names_avatar": Flag(),
    "region": Choice(Region),
    "background": Text(16),
    "resolution": Maybe(Pair(Count(*PIXEL_RANGE), Count(*PIXEL_RANGE))),
    "asked_audio_deltas": Maybe(Flag()),
    "idle": Choice(Idle),
    "transport": Choice(Transport),
    "flow": Choice(FlowMode),
    "window_ms": Count(*WINDOW_MS_RANGE),
    "overrun": Choice(Overrun),
    "asked_start": Maybe(Choice(StartTrigger)),
    **{name: Object() for name in _STORED},
}
_CROP: Final[Table] = {name: Count() for name in ("left", "top", "right", "bottom")}
_DETECTION: Final[Table] = {
    "threshold": Number(0, 1),
    "prefix_padding_ms": Count(*PREFIX_PADDING_MS),
    "silence_duration_ms": Count(*SILENCE_DURATION_MS),
    "idle_timeout_ms": Maybe(Count(*IDLE_TIMEOUT_MS)),
    "create_response": Flag(),
    "interrupt_response": Flag(),
    "asked": List(Text(), MAX_ASKED, tuple),
}


def export(config: SessionConfig) -> dict[str, object]:
    """Return a configuration as plain values; the avatar is in it by name and version."""
    detection, crop, character = config.turn_detection, config.crop, config.character
    return {
        "character": {"name": character.name, "version": character.version},
        **document_fields.export(config, _CONFIG),
        "crop": None if crop is None else document_fields.export(crop, _CROP),
        "turn_detection": (
            None if detection is None else document_fields.export(detection, _DETECTION)
        ),
    }


def read(fields: StrictFields, characters: Mapping[str, Character]) -> SessionConfig:
    """Return a configuration that was exported; `characters` are the avatars of this pod.

    Raises:
        ProtocolError: a field is missing or wrong, or the pod lacks this version of the avatar.
    """
    crop = document_fields.optional(fields, "crop")
    detection = document_fields.optional(fields, "turn_detection")
    config = SessionConfig(
        _character(fields.nested("character"), characters),
        **document_fields.read(fields, _CONFIG),
        crop=None if crop is None else Crop(**document_fields.read(crop, _CROP)),
        turn_detection=(
            None
            if detection is None
            else TurnDetection(**document_fields.read(detection, _DETECTION))
        ),
    )
    size = len(json.dumps([fields.document[name] for name in _STORED]))
    if size > MAX_STORED_CHARACTERS:
        limit = f"the stored fields must have at most {MAX_STORED_CHARACTERS} characters"
        raise fields.invalid("stored", f"{limit}, they have {size}", MAX_STORED_CHARACTERS)
    if config.background and not config_checks.is_background(config.background):
        raise fields.invalid("background", "must be a colour, alpha or empty", None)
    if config.crop is not None and min(config.crop.size) < PIXEL_RANGE[0]:
        smallest = f"must be at least {PIXEL_RANGE[0]} pixels wide and high"
        raise fields.invalid("crop", smallest, PIXEL_RANGE[0])
    config_checks.check(config)
    return config


def _character(fields: StrictFields, characters: Mapping[str, Character]) -> Character:
    name, version = fields.text("name"), fields.text("version")
    if name not in characters:
        names = sorted(characters)
        raise fields.error("avatar_not_found", "name", supported(names), names)
    character = characters[name]
    if character.version != version:
        expected = f"this pod serves version {character.version}"
        raise fields.error("avatar_not_found", "version", expected, character.version)
    return character
