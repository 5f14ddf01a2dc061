"""Reads the files of an avatar's folder that a stranger may have written."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from avatar_runtime import errors
from avatar_runtime.avatars import checks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAMES: Final = ("avatar.safetensors", "pixels.safetensors")
"""The files of an avatar beside `manifest.json`."""

Signature = tuple[tuple[int, int, int] | None, ...]
"""Inode, time of the last change and size of each file of an avatar; `None` if it is missing."""

_MAX_HEADER_BYTES: Final = 1 << 20  # of safetensors: ten tensors need less than 1 KiB


def signature(folder: Path) -> Signature | None:
    """Return a value that changes with the files of an avatar; `None` without a manifest."""
    found = tuple(_stamp(folder / name) for name in ("manifest.json", *NAMES))
    return None if found[0] is None else found


def check_file(folder: Path, name: str) -> None:
    """Check that a file is a regular one inside the folder, so that reading it ends.

    Raises:
        AssetError: it is missing, a link out of the folder, no regular file, or too large.
    """
    path = folder / name
    try:
        resolved = path.resolve(strict=True)
        mode, size = resolved.stat().st_mode, resolved.stat().st_size
    except (OSError, RuntimeError) as error:
        raise errors.AssetError(str(folder), f"{name} is unreadable: {error}") from error
    if not resolved.is_relative_to(folder.resolve()):
        fault = f"{name} is a link to {resolved}, must lie inside the folder"
        raise errors.AssetError(str(folder), fault)
    if not stat.S_ISREG(mode):
        raise errors.AssetError(str(folder), f"{name} is unreadable: it is not a regular file")
    if size > checks.MAX_TENSOR_BYTES:
        limit = f"the limit is {checks.MAX_TENSOR_BYTES}"
        raise errors.AssetError(str(folder), f"{name} has {size} bytes, {limit}")


def read_layout(folder: Path, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the NumPy type and the shape of each tensor of a file, from its header alone.

    Raises:
        AssetError: the file is unreadable.
    """
    types = {"F16": "float16", "I32": "int32", "I64": "int64", "U8": "uint8"}
    try:
        with (folder / name).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            fault = f"its header has {length} bytes, the limit is {_MAX_HEADER_BYTES}"
            raise errors.AssetError(str(folder), f"{name} is unreadable: {fault}")
        with safe_open(folder / name, framework="numpy") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}
            return {
                key: (types.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
                for key, part in slices.items()
            }
    except (OSError, SafetensorError, ValueError) as error:
        raise errors.AssetError(str(folder), f"{name} is unreadable: {error}") from error


def load(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name.

    Raises:
        AssetError: the file is unreadable.
    """
    try:
        return load_file(folder / name)
    except (OSError, SafetensorError) as error:
        raise errors.AssetError(str(folder), f"{name} is unreadable: {error}") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
