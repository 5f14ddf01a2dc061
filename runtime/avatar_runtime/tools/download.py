"""Downloads a file of a known SHA-256 in as many connections as it takes: a part is continued.

What was received stays in a file beside its place until it is complete and verified, also when the
process ends. A part whose complete file has another SHA-256 is discarded once, because the file of
the server may have changed in between.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors
from avatar_runtime.tools import fetch

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Iterator
    from pathlib import Path

ATTEMPTS: Final = 6
"""Connections for one file that may end early before the download has failed."""
FIRST_DELAY_S: Final = 1.0
"""Before the second attempt; each further one waits twice as long."""
_CHUNK_BYTES: Final = 1 << 20
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """The file to download."""

    url: str
    sha256: str
    hosts: tuple[str, ...]
    max_bytes: int
    authorization: str = ""


def download(
    source: Source,
    part: Path,
    reserve: Callable[[int], None],
    sleep: Callable[[float], None],
) -> int:
    """Write the file to `part`, and return how many bytes were received for it.

    `reserve` is called with the bytes that are still to come, and raises if there is no space.

    Raises:
        FetchError: the URL is not allowed, or the file is another one; permanent.
        FetchFailed: the server did not deliver the file in `ATTEMPTS` attempts.
        CacheError: the disk is full.
    """
    received, failed, restarted = 0, 0, False
    while True:
        before = _size(part)
        try:
            received += _receive(source, part, reserve)
        except errors.FetchFailed as error:
            failed += 1
            received += max(0, _size(part) - before)
            if failed >= ATTEMPTS:
                raise
            delay_s = FIRST_DELAY_S * 2 ** (failed - 1)
            _log.warning("download stopped, next attempt in %g s: %s", delay_s, error)
            sleep(delay_s)
            continue
        digest = sha256(part)
        if digest == source.sha256:
            return received
        part.unlink()
        if not before or restarted:
            fault = f"its SHA-256 is {digest}, must be {source.sha256}"
            raise errors.FetchError(source.url, fault)
        restarted = True
        _log.warning("the continued file is another one, starting again url=%s", source.url)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in lowercase hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(source: Source, part: Path, reserve: Callable[[int], None]) -> int:
    """Append the rest of the file to `part`, and return its size."""
    have = _size(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if source.authorization:
        headers[fetch.AUTHORIZATION] = source.authorization
    try:
        with fetch.opened(source.url, source.hosts, headers) as response:
            if response.status != 206:
                have = 0
            return _append(response, source, part, have, reserve)
    except errors.FetchError as error:
        if have and "status is 416" in error.fault:  # the part is longer than the file
            part.unlink()
            raise errors.FetchFailed(source.url, "the part is longer than the file") from error
        raise


def _append(
    response: http.client.HTTPResponse,
    source: Source,
    part: Path,
    have: int,
    reserve: Callable[[int], None],
) -> int:
    if have and not response.getheader("Content-Range", "").startswith(f"bytes {have}-"):
        part.unlink()
        raise errors.FetchFailed(source.url, "the server continued at another byte")
    expected = fetch.declared_size(response) or 0
    fetch.check_size(source.url, have + expected, source.max_bytes)
    reserve(expected)
    with _full_disk(part), part.open("r+b" if have else "wb") as file:
        file.seek(have)
        return fetch.copy_body(response, source.url, source.max_bytes, file.write, have)


@contextlib.contextmanager
def _full_disk(part: Path) -> Iterator[None]:
    """Tell a full disk apart from other errors.

    Raises:
        CacheError: no space is left for `part`, which is removed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        with contextlib.suppress(OSError):
            part.unlink()  # a part that cannot be completed keeps the disk of the node full
        fault = f"no space is left while {part.name[:12]} is written ({os.strerror(error.errno)})"
        raise errors.CacheError(str(part.parent), fault) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
