"""Fetches the pictures of an avatar in silence, over which the patches of a session are drawn."""

from __future__ import annotations

import asyncio
import http.client
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_client import errors
from avatar_contracts import answer_limits, labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_client.dialing import Target
    from avatar_client.traces import VideoFrame

MAX_BYTES: Final = answer_limits.MAX_PICTURE_BYTES
_TIMEOUT_S: Final = 20.0  # without a byte
_MAX_ATTEMPTS: Final = 20
"""At one picture, while the server is busy."""
_MAX_RETRY_AFTER_S: Final = 10
"""Until the next attempt, whatever the server asks for."""


async def fetch(target: Target, frames: Iterable[VideoFrame]) -> Mapping[str, bytes]:
    """Return the JPEG file of each picture that the frames need, by `Patch.picture`.

    The session of the frames is still open, so that the server keeps its version of the avatar. A
    server that is busy is asked again, when it says.

    Raises:
        RecordingError: the server does not give a picture.
    """
    pictures = dict.fromkeys(f.patch.picture for f in frames if f.patch is not None)
    return await asyncio.to_thread(_fetch, target, list(pictures)) if pictures else {}


def _fetch(target: Target, pictures: list[str]) -> dict[str, bytes]:
    parts = urlsplit(target.address())
    is_secure = parts.scheme == "wss"
    connect = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    if target.session_token:
        headers[labels.SESSION_TOKEN_HEADER] = target.session_token
    found = {}
    try:
        for picture in pictures:
            # A path has the host of the session: the key goes nowhere else.
            found[picture] = _fetch_one(connection, picture, headers)
    except (OSError, http.client.HTTPException) as error:
        raise errors.RecordingError("the idle loop", str(error)) from error
    finally:
        connection.close()
    return found


def _fetch_one(
    connection: http.client.HTTPConnection, picture: str, headers: Mapping[str, str]
) -> bytes:
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        connection.request("GET", picture, headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES + 1)
        if answer.status == http.client.SERVICE_UNAVAILABLE and attempt < _MAX_ATTEMPTS:
            time.sleep(_wait_s(answer.headers.get("Retry-After", "")))
            continue
        if answer.status != http.client.OK:
            raise errors.RecordingError(picture, f"the server answered {answer.status}")
        if len(body) > MAX_BYTES:
            raise errors.RecordingError(picture, f"it has more than {MAX_BYTES} bytes")
        return body
    raise AssertionError("the last attempt returns or raises")


def _wait_s(retry_after: str) -> int:
    """Return the seconds until the next attempt; a date or nonsense counts as one second."""
    if not (retry_after.isascii() and retry_after.isdigit()):
        return 1
    return min(int(retry_after[:6]), _MAX_RETRY_AFTER_S)
