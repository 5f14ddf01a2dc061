"""What the fields of a configuration must be together, whoever has set them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError, quoted
from avatar_runtime.protocol.session_config import ALPHA, Region

if TYPE_CHECKING:
    from avatar_runtime.protocol.session_config import Character, Crop, SessionConfig

PIXEL_RANGE: Final = (64, 2048)
"""Of a side of the frames that a client asks for; a crop has no upper limit but the picture."""
QUALITY_RANGE: Final = (1, 100)
_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")


def check(config: SessionConfig) -> None:
    """Check that the fields fit each other and the avatar.

    Raises:
        ProtocolError: the first field that does not.
    """
    _check_resolution(config)
    _check_crop(config)
    _check_region(config)
    _check_background(config)


def is_background(text: str) -> bool:
    """Return whether a text is a colour or `ALPHA`."""
    return text == ALPHA or _COLOUR.fullmatch(text) is not None


def is_within(crop: Crop, character: Character) -> bool:
    """Return whether an avatar has all pixels of a crop."""
    return crop.right <= character.width and crop.bottom <= character.height


def background_error(config: SessionConfig, fault: str) -> ProtocolError:
    """Return the refusal of a background."""
    param, value = "session.avatar.background", config.background or None
    message = f"{param} is {quoted(value)}; {fault}"
    return ProtocolError("invalid_value", message, param=param, value=value)


def _check_resolution(config: SessionConfig) -> None:
    if not config.video.is_encoded_when_sent or config.resolution is None:
        return
    for name, pixels in zip(("width", "height"), config.resolution, strict=True):
        if pixels % 2:
            param = f"session.avatar.video.resolution.{name}"
            raise ProtocolError(
                "invalid_value",
                f"{param} is {pixels}; must be even in {config.video.value}",
                param=param,
                value=pixels,
                limit="even",
            )


def _check_crop(config: SessionConfig) -> None:
    crop, character = config.crop, config.character
    if crop is not None and not is_within(crop, character):
        raise ProtocolError(
            "invalid_value",
            f"session.avatar.video.crop.bottom_right is [{crop.right}, {crop.bottom}];"
            f" the picture of {character.name} has {character.width} x {character.height}",
            param="session.avatar.video.crop.bottom_right",
            value=[crop.right, crop.bottom],
            limit=[character.width, character.height],
        )


def _check_region(config: SessionConfig) -> None:
    """Refuse patches of encoded video; without video there is nothing to patch."""
    if config.region is not Region.PATCH or not config.video.is_encoded_when_sent:
        return
    raise ProtocolError(
        "invalid_value",
        f'session.avatar.video.region is "patch"; must be full in {config.video.value}',
        param="session.avatar.video.region",
        value=config.region.value,
        limit=[Region.FULL.value],
    )


def _check_background(config: SessionConfig) -> None:
    """Refuse a background of an avatar that was not cut out, and of patches."""
    is_cut_out = config.character.has_alpha
    if not config.background or (is_cut_out and config.region is Region.FULL):
        return
    fault = "must be null with video.region patch"
    if not is_cut_out:
        fault = f"must be null, since {config.character.name} has no alpha"
    raise background_error(config, fault)
