"""Checks of the files that the user names, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_runtime import errors

if TYPE_CHECKING:
    from pathlib import Path


def require_file(path: Path) -> None:
    """Check that a path is a regular file, links followed.

    Raises:
        AssetError: the path does not exist, is no regular file, or its folder is not accessible.
    """
    if not _exists(path):
        raise errors.AssetError(str(path), "does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise errors.AssetError(str(path), f"is {kind}, must be a file")


def require_folder(path: Path) -> None:
    """Check that a path is a folder, links followed.

    Raises:
        AssetError: the path does not exist, is no folder, or its parent is not accessible.
    """
    if not _exists(path):
        raise errors.AssetError(str(path), "does not exist")
    if not path.is_dir():
        raise errors.AssetError(str(path), "is not a folder")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise errors.AssetError(str(path), f"cannot be read: {error.strerror}") from error
