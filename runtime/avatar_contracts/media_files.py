"""The files that a person names on a command line: media to read, and files to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_contracts.environment import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VIDEO_SUFFIXES: Final = (".mp4", ".mov")
"""Formats that hold H.264 with AAC, their metadata, and the duration of each track."""


def read_fault(error: Exception) -> str:
    """Return why a media file cannot be read, without its path and without an error number.

    `error` is an `OSError` or an error of PyAV, whose `InvalidDataError` is a `ValueError`.
    """
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, ValueError):
        return "it is not an audio or video file"
    return getattr(error, "strerror", None) or str(error)


def output_fault(option: str, path: Path, suffixes: Sequence[str] = ()) -> Fault | None:
    """Return why a file cannot be written, or `None` if it can; an existing file is not changed.

    `suffixes` are the supported ends of the name, in lower case; empty for any name.
    """

    def fault(limit: str) -> Fault:
        return Fault(option, str(path), limit)

    if path.is_dir():
        return fault("a file, not a folder")
    if suffixes and path.suffix.lower() not in suffixes:
        return fault(f"a file name that ends in {' or '.join(suffixes)}")
    if not path.parent.exists():
        return fault("in a folder that exists")
    exists = path.exists()
    if exists and not path.is_file():
        return fault("a regular file")
    try:
        # Opening is the only exact check: root passes `os.access` on a file system without writes.
        with path.open("ab"):
            pass
        if not exists:
            path.unlink()
    except OSError as error:
        return fault(f"a file that can be written ({error.strerror})")
    return None
