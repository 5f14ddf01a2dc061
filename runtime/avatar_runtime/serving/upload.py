"""Stores the body of a request in a file, one at a time for a folder of avatars.

`.upload` in the folder has the lock and the file. The file has one name, so that a process that is
killed leaves at most one of them.
"""

from __future__ import annotations

import asyncio
import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import Rejection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MAX_BYTES: Final = 512 * 1024 * 1024
CHUNK_S: Final = 30.0
"""Between two parts of a body: a stalled upload must not keep others out."""
_FOLDER: Final = ".upload"
_FILE: Final = "source"


@contextmanager
def reserved(avatars: Path) -> Iterator[Path]:
    """Reserve the folder of avatars for one preparation; yield the path for the source.

    Raises:
        Rejection: with status 409, if another preparation runs.
    """
    folder = avatars / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / _FILE
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another preparation runs; try again when it has ended"
            raise Rejection(409, 1013, "preparation_running", message) from error
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def check_length(length: str | None) -> None:
    """Check the length that a request announces.

    Raises:
        Rejection: with status 413, if it is over `MAX_BYTES`.
    """
    if length is not None and length.isdecimal() and int(length[:20]) > MAX_BYTES:
        raise _too_large(int(length[:20]))


async def store(chunks: AsyncIterator[bytes], path: Path) -> int:
    """Write a body to a file and return its length.

    Raises:
        Rejection: it is empty (400), too large (413), or stalls (408).
        OSError: the disk is full.
    """
    size = 0
    iterator = aiter(chunks)
    file = await asyncio.to_thread(path.open, "wb")
    try:
        while (chunk := await _next(iterator)) is not None:
            size += len(chunk)
            if size > MAX_BYTES:
                raise _too_large(size)
            await asyncio.to_thread(file.write, chunk)
    finally:
        await asyncio.to_thread(file.close)
    if size == 0:
        raise Rejection(400, 1008, "unusable_input", "the file is empty")
    return size


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(CHUNK_S):
            return await anext(chunks, None)
    except TimeoutError as error:
        message = f"no part of the file arrived for {CHUNK_S:g} s"
        raise Rejection(408, 1008, "upload_stalled", message) from error


def _too_large(size: int) -> Rejection:
    message = f"the file has {size} bytes, must have at most {MAX_BYTES}"
    return Rejection(413, 1009, "too_large", message, value=size, limit=MAX_BYTES)
