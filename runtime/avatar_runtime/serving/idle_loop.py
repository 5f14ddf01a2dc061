"""The pictures of an avatar in silence, over which a client draws patches.

They are the frames that a session in `region: full` gets in silence, made in the same way, so that
a patch meets the pixels that it was cut from.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from avatar_runtime.avatars import manifest
from avatar_runtime.batching.frames import AudioWindow, FrameRequest
from avatar_runtime.errors import EngineError, Rejection, shown
from avatar_runtime.serving import admission

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from avatar_runtime.protocol.session_config import Character
    from avatar_runtime.serving.runtime import Runtime

MAX_WAITING: Final = 64
"""Requests that wait for their picture at most: clients ask for a few at a time."""
MAX_BYTES: Final = 2 << 20
"""Of one picture: what the gateway passes on at most."""
_RETRY_AFTER_S: Final = 1
_NUMBER: Final = re.compile(r"[0-9]{1,6}")
_SILENCE: Final = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=True)


class IdleLoop:
    """Makes one picture at a time, so that the idle frames of sessions wait for one at most."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._turns = asyncio.Semaphore(1)
        self._waiting = 0

    async def read(self, name: str, frame: str, query: Mapping[str, str]) -> bytes:
        """Return a picture as a JPEG file; `name`, `frame` and `query` come from a client.

        Raises:
            Rejection: a value is wrong, the version is not served, or too many requests wait.
        """
        character = self._runtime.avatars.get(name)
        if character is None:
            raise admission.avatar_not_found(name, self._runtime.avatars)
        request = parse(character, frame, query, self._runtime.avatars_in_use())
        if self._waiting >= MAX_WAITING:
            message = f"{self._waiting} requests for pictures wait, the limit is {MAX_WAITING}"
            raise Rejection(
                503, 1013, "no_capacity", message, limit=MAX_WAITING, retry_after_s=_RETRY_AFTER_S
            )
        self._waiting += 1
        try:
            async with self._turns:
                picture = await self._runtime.idle_picture(request)
        except EngineError as error:
            raise Rejection(500, 1011, "internal_error", "the picture failed") from error
        finally:
            self._waiting -= 1
        if len(picture) > MAX_BYTES:
            message = f"the picture has {len(picture)} bytes, must have at most {MAX_BYTES}"
            raise Rejection(
                413, 1009, "message_too_large", message, value=len(picture), limit=MAX_BYTES
            )
        return picture


def parse(
    character: Character, frame: str, query: Mapping[str, str], in_use: Collection[str]
) -> FrameRequest:
    """Return the request of a picture; `in_use` are the keys of versions that sessions have.

    Raises:
        Rejection: a value is wrong, or the version is not served.
    """
    key = f"{character.name}@{query['version']}" if "version" in query else character.engine_name
    if key != character.engine_name and key not in in_use:
        version = shown(query["version"])
        message = f"version is {version}; this version of {character.name} is not served"
        raise Rejection(404, 4404, "avatar_not_found", message, param="version", value=version)
    crop = _crop(query.get("crop"), character)
    seen = crop or (0, 0, character.width, character.height)
    width, height = seen[2] - seen[0], seen[3] - seen[1]
    return FrameRequest(
        session="",
        response_ref=0,
        epoch=0,
        frame_index=0,
        deadline=0.0,
        avatar=key,
        source_frame=_integer("frame", frame, 0, manifest.MAX_FRAMES - 1),
        window=_SILENCE,
        quality=_integer("quality", query.get("quality", "80"), 1, 100),
        width=_integer("width", query.get("width", str(width)), 1, manifest.MAX_SIDE),
        height=_integer("height", query.get("height", str(height)), 1, manifest.MAX_SIDE),
        crop=crop,
    )


def _crop(text: str | None, character: Character) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    numbers = text.split(",")[:5]
    if len(numbers) == 4 and all(map(_NUMBER.fullmatch, numbers)):
        left, top, right, bottom = map(int, numbers)
        if left < right <= character.width and top < bottom <= character.height:
            return left, top, right, bottom
    size = [character.width, character.height]
    message = f"crop is {shown(text)}; must be left,top,right,bottom within {size[0]} x {size[1]}"
    raise Rejection(
        400, 1008, "invalid_query", message, param="crop", value=shown(text), limit=size
    )


def _integer(name: str, text: str, low: int, high: int) -> int:
    if _NUMBER.fullmatch(text) and low <= int(text) <= high:
        return int(text)
    message = f"{name} is {shown(text)}; must be an integer from {low} to {high}"
    raise Rejection(
        400, 1008, "invalid_query", message, param=name, value=shown(text), limit=[low, high]
    )
