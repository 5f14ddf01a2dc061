"""Files of a source: only regular files are read, through a descriptor that is opened once."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from typing import TYPE_CHECKING, BinaryIO, Final

from avatar_runtime.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CHUNK_BYTES: Final = 1 << 20
_MEBIBYTE: Final = 1 << 20
# QuickTime file format, "Compressed movie resources": the content of an atom `dcom`, which names
# the method; FFmpeg knows only zlib. Eight bytes meet by chance once in 2^64 places.
_PACKED_INDEX: Final = b"dcomzlib"
# The name of an attribute that holds an ID3 tag, in UTF-16, with or without a null at its end. A
# frame of the tag may be compressed.
_ID3: Final = "ID3".encode("utf-16-le")
_ASF: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")  # GUID of the header of ASF
_OVERLAP: Final = len(_PACKED_INDEX) - 1
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class TooSlow(Exception):
    """Reading or decoding one frame takes longer than the limit."""


class Packed(Exception):
    """The file holds a compressed part that FFmpeg inflates without a limit; the text names it."""


class GuardedFile:
    """The file as FFmpeg reads it: `read`, `seek` and `tell`, until the deadline passes.

    FFmpeg gets no path, so that it can open no other file. A demuxer that reads in circles meets
    the deadline here; `renew` moves the deadline after each frame. A compressed part ends
    the reading before FFmpeg sees it whole.
    """

    def __init__(
        self, file: BinaryIO, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._seconds = seconds
        self._clock = clock
        self._deadline = clock() + seconds
        self.late = False
        self.packed = False
        self._tail = b""
        self._end = 0
        self._asf = False

    def renew(self) -> None:
        self._deadline = self._clock() + self._seconds

    def check(self) -> None:
        """Raise `TooSlow` after the deadline."""
        if self._clock() > self._deadline:
            self.late = True
            raise TooSlow

    def read(self, size: int) -> bytes:
        self.check()
        start = self._file.tell()
        data = self._file.read(size)
        seen = (self._tail if start == self._end else b"") + data
        self._tail, self._end = seen[-_OVERLAP:], start + len(data)
        self._asf = self._asf or (start == 0 and data.startswith(_ASF))
        if fault := _packed(seen, asf=self._asf):
            self.packed = True
            raise Packed(fault)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.check()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def _packed(data: bytes, *, asf: bool) -> str:
    """Return what is wrong with a file that holds `data`; empty if nothing is."""
    if _PACKED_INDEX in data:
        return "has a compressed QuickTime index; save it as MP4"
    if asf and _ID3 in data:
        return "has an ID3 tag in its header; save it without the tag or as MP4"
    return ""


def open_regular(path: Path, limit_bytes: int) -> BinaryIO:
    """Open `path`, which is a regular file of 1 to `limit_bytes` bytes; links are followed.

    Raises:
        SourceError: The path is missing, is no regular file, is empty or too large.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SourceError(str(path), "does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(str(path), f"cannot be opened: {reason}") from None
    try:
        _require_regular(path, os.fstat(descriptor), limit_bytes)
    except SourceError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb", buffering=0)


def refuse_url(path: str) -> None:
    """Refuse an address in place of a path.

    Raises:
        SourceError: The path starts with a scheme, such as "https://".
    """
    if _URL.match(path):
        reason = "is a URL; download the file first, the preparation opens no network connection"
        raise SourceError(path, reason)


def _require_regular(path: Path, found: os.stat_result, limit_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(str(path), f"is {_kind(found.st_mode)}, must be a file or a folder")
    if found.st_size == 0:
        raise SourceError(str(path), "is empty")
    if found.st_size > limit_bytes:
        raise SourceError(
            str(path),
            f"has {found.st_size // _MEBIBYTE} MiB, must have at most "
            f"{limit_bytes // _MEBIBYTE} MiB",
        )


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device"


def digest(file: BinaryIO) -> str:
    """Return the SHA-256 of the whole file in hexadecimal; reads 1 MiB at a time."""
    file.seek(0)
    found = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        found.update(chunk)
    file.seek(0)
    return found.hexdigest()
