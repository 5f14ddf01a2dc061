"""The pictures of an avatar in silence, over which a client draws patches.

They are the frames that a session in `region: full` gets in silence, made in the same way, so that
a patch meets the pixels that it was cut from.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from avatar_contracts import answer_limits
from avatar_runtime.batching.frames import AudioWindow, FrameRequest
from avatar_runtime.errors import EngineError, Rejection, quoted, shown
from avatar_runtime.protocol.config_checks import PIXEL_RANGE, QUALITY_RANGE, is_within
from avatar_runtime.protocol.session_config import Crop
from avatar_runtime.serving import admission
from avatar_runtime.serving.fair_turns import FairTurns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from avatar_runtime.protocol.session_config import Character
    from avatar_runtime.serving.runtime import Runtime

MAX_BYTES: Final = answer_limits.MAX_PICTURE_BYTES
_MAX_TOO_LARGE: Final = 256
_FRAME: Final = re.compile(r"0|[1-9][0-9]{0,5}")
_NUMBER: Final = re.compile(r"[0-9]{1,6}")
_SILENCE: Final = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=True)


class IdleLoop:
    """Makes one picture at a time, for one caller after another."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._turns = FairTurns()
        # Bytes of pictures that were too large, the oldest first: they are not made again.
        self._too_large: OrderedDict[tuple[object, ...], int] = OrderedDict()

    async def read(
        self,
        name: str,
        frame: str,
        query: Mapping[str, str],
        caller: str,
        has_left: Callable[[], Awaitable[bool]],
    ) -> bytes | None:
        """Return a picture as a JPEG file, or `None` if its client has left.

        Args:
            name: the avatar, from the client.
            frame: the number of the picture, from the client.
            query: what the picture depends on, from the client.
            caller: who asks; callers take turns.
            has_left: whether the client does not wait for the picture any more.

        Raises:
            Rejection: a value is wrong, the version is not served, too many requests wait, or the
                picture is too large.
        """
        avatars, in_use = self._runtime.avatars, self._runtime.avatars_in_use()
        request = parse(choose(name, query.get("version"), avatars, in_use), frame, query)
        size = (request.width, request.height)
        key = (request.avatar, request.source_frame, size, request.quality, request.crop)
        if key in self._too_large:
            raise _too_large(self._too_large[key])
        async with self._turns.taken(caller):
            if await has_left():
                return None
            try:
                picture = await self._runtime.idle_picture(request)
            except EngineError as error:
                raise Rejection(500, 1011, "internal_error", "the picture failed") from error
        if len(picture) > MAX_BYTES:
            self._too_large[key] = len(picture)
            if len(self._too_large) > _MAX_TOO_LARGE:
                self._too_large.popitem(last=False)
            raise _too_large(len(picture))
        return picture


def _too_large(size: int) -> Rejection:
    message = (
        f"the picture has {size} bytes, must have at most {MAX_BYTES}; ask for a lower quality"
    )
    return Rejection(413, 1009, "message_too_large", message, value=size, limit=MAX_BYTES)


def choose(
    name: str,
    version: str | None,
    avatars: Mapping[str, Character],
    in_use: Mapping[str, Character],
) -> Character:
    """Return the version of an avatar whose picture a client wants.

    Args:
        name: the avatar.
        version: the beginning of its content hash; `None` for the current version.
        avatars: the current versions by name.
        in_use: the versions that sessions have, by `Character.engine_name`.

    Raises:
        Rejection: the avatar or the version is not served.
    """
    current = avatars.get(name)
    if version is None or (current is not None and current.engine_name == f"{name}@{version}"):
        if current is None:
            raise admission.avatar_not_found(name, avatars)
        return current
    if (found := in_use.get(f"{name}@{version}")) is not None:
        return found
    if current is None:
        raise admission.avatar_not_found(name, avatars)
    message = f"version is {quoted(version)}; this version of {name} is not served"
    raise Rejection(404, 4404, "avatar_not_found", message, param="version", value=shown(version))


def parse(character: Character, frame: str, query: Mapping[str, str]) -> FrameRequest:
    """Return the request of a picture.

    Raises:
        Rejection: a value is wrong.
    """
    if not _FRAME.fullmatch(frame) or int(frame) >= character.frames:
        message = f"frame is {quoted(frame)}; must be 0 to {character.frames - 1}"
        limit = [0, character.frames - 1]
        raise Rejection(
            404, 4404, "not_found", message, param="frame", value=shown(frame), limit=limit
        )
    crop = _crop(query.get("crop"), character)
    seen = (character.width, character.height) if crop is None else crop.size
    width, height = (
        _side(side, query.get(side), own)
        for side, own in zip(("width", "height"), seen, strict=True)
    )
    return FrameRequest(
        session="",
        response_ref=0,
        epoch=0,
        frame_index=0,
        deadline=0.0,
        avatar=character.engine_name,
        source_frame=int(frame),
        window=_SILENCE,
        quality=_integer("quality", query.get("quality", "80"), *QUALITY_RANGE),
        width=width,
        height=height,
        crop=None if crop is None else crop.corners,
    )


def _crop(text: str | None, character: Character) -> Crop | None:
    if text is None:
        return None
    numbers = text.split(",")[:5]
    if len(numbers) == 4 and all(map(_NUMBER.fullmatch, numbers)):
        crop = Crop(*map(int, numbers))
        if min(crop.size) >= PIXEL_RANGE[0] and is_within(crop, character):
            return crop
    size = [character.width, character.height]
    message = (
        f"crop is {quoted(text)}; must be left,top,right,bottom within {size[0]} x {size[1]},"
        f" at least {PIXEL_RANGE[0]} pixels wide and high"
    )
    raise Rejection(
        400, 1008, "invalid_query", message, param="crop", value=shown(text), limit=size
    )


def _side(name: str, text: str | None, own: int) -> int:
    """Return a side in pixels; that of the picture itself is allowed, whatever it is."""
    return own if text in (None, str(own)) else _integer(name, text, *PIXEL_RANGE)


def _integer(name: str, text: str, low: int, high: int) -> int:
    if _NUMBER.fullmatch(text) and low <= int(text) <= high:
        return int(text)
    message = f"{name} is {quoted(text)}; must be an integer from {low} to {high}"
    raise Rejection(
        400, 1008, "invalid_query", message, param=name, value=shown(text), limit=[low, high]
    )
