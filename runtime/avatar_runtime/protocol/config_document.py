"""The configuration of a session in its document."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import supported
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.config_update import (
    BACKGROUNDS,
    BITRATE_RANGE,
    MAX_STORED_CHARACTERS,
    PIXEL_RANGE,
    WINDOW_MS_RANGE,
    is_background,
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
    "quality": Count(1, 100),
    "bitrate": Count(*BITRATE_RANGE),
    "video": Choice(VideoMode),
    "names_avatar": Flag(),
    "region": Choice(Region),
    "background": Text(),
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
_CROP: Final[Table] = {
    name: Count(0, PIXEL_RANGE[1]) for name in ("left", "top", "right", "bottom")
}
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
    _check_size(config, fields)
    _check_picture(config, fields)
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


def _check_picture(config: SessionConfig, fields: StrictFields) -> None:
    """Check the rules of `session.update` for patches and the background."""
    is_patch = config.region is Region.PATCH
    fits = not (is_patch and config.video.is_encoded_when_sent)
    document_fields.check(fits, fields, "region", f"must be full in {config.video.value}")
    if not config.background:
        return
    document_fields.check(
        is_background(config.background), fields, "background", f"must be {BACKGROUNDS}"
    )
    fits = config.character.has_alpha and not is_patch
    document_fields.check(fits, fields, "background", "must be empty without alpha or with patches")


def _check_size(config: SessionConfig, fields: StrictFields) -> None:
    crop, character = config.crop, config.character
    if crop is not None:
        is_within = crop.right <= character.width and crop.bottom <= character.height
        document_fields.check(
            is_within and min(crop.size) >= PIXEL_RANGE[0],
            fields,
            "crop",
            f"must be within {character.width} x {character.height},"
            f" at least {PIXEL_RANGE[0]} pixels wide and high",
        )
    if config.video.is_encoded_when_sent and config.resolution is not None:
        is_even = all(pixels % 2 == 0 for pixels in config.resolution)
        document_fields.check(is_even, fields, "resolution", "must be even")
