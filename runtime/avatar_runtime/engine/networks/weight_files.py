"""Reads files of weights that strangers made: safetensors, or pickles with only tensors.

A file that is something else is reported in one sentence: empty, a pointer of git-lfs, a web page
or other text, or a pickle with other objects. Pickles are read with `weights_only=True`, whose
messages are never repeated, since they advise to turn the protection off.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

_START_BYTES: Final = 1024  # of a file, which tell what it is
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_WRAPPERS: Final = ("module.", "_orig_mod.", "unet.")
"""Prefixes that every name of a file has if a wrapped model was saved (torch, MuseTalk)."""
_MAX_SHOWN: Final = 3  # keys of a wrong pickle that the message names


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, without the prefix of a wrapper.

    A pickle may have the tensors under the key `state_dict`; its other objects, such as the number
    of the epoch, are ignored.

    Raises:
        AssetError: the file is unreadable, is not a file of weights, or has no tensors by name.
    """
    check_start(path)
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return dict(zip(plain_names(tensors), tensors.values(), strict=True))


def check_start(path: Path) -> None:
    """Check that a file does not begin like something that is downloaded in place of weights.

    Raises:
        AssetError: the file cannot be opened, is empty, or is text.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        raise errors.AssetError(str(path), f"unreadable: {error.strerror}") from error
    if fault := start_fault(start):
        raise errors.AssetError(str(path), f"unreadable: {fault}")


def start_fault(start: bytes) -> str | None:
    """Return what a file with this start is, or `None` if it may be a file of weights."""
    if not start:
        return "the file is empty (0 bytes), download it again"
    if start.startswith(_LFS):
        size = re.search(rb"^size (\d{1,15})$", start, re.MULTILINE)
        wanted = f" of the {size[1].decode()} bytes of weights" if size else ""
        return f"the file is a git-lfs pointer in place{wanted}, run 'git lfs pull'"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "the file is an HTML page, as a wrong link or a login page gives, not weights"
    if text.startswith((b"<?xml", b"{", b"[")):
        return "the file is text (XML or JSON), not weights"
    return None


def plain_names(names: Iterable[str]) -> list[str]:
    """Return the names without the prefixes of wrappers that all of them have."""
    plain = list(names)
    while plain:
        shared = [w for w in _WRAPPERS if all(name.startswith(w) for name in plain)]
        if not shared:
            break
        plain = [name.removeprefix(shared[0]) for name in plain]
    return plain


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        fault = f"unreadable: not a whole safetensors file ({error})"
        raise errors.AssetError(str(path), fault) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickle, memory-mapped unless it has torch's first format."""
    import torch

    try:
        held = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:
        # torch raises errors of any type; a forbidden object is named as "GLOBAL module.name".
        forbidden = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        fault = (
            f"not a file of weights alone: it holds an object of {forbidden[1]}, "
            "must hold only tensors"
            if forbidden
            else "unreadable: not a whole file of torch.save"
        )
        raise errors.AssetError(str(path), fault) from error
    wrong = _pickle_fault(held)
    if wrong is not None:
        raise errors.AssetError(str(path), f"not a file of weights by name: {wrong}")
    return {str(k): t for k, t in _inner(held).items() if isinstance(t, torch.Tensor)}


def _inner(held: Mapping[Any, Any]) -> Mapping[Any, Any]:
    inner = held.get("state_dict")
    return inner if isinstance(inner, Mapping) else held


def _pickle_fault(held: object) -> str | None:
    """Return what a pickle holds in place of tensors by name, or `None`."""
    import torch

    if isinstance(held, torch.Tensor):
        return f"it holds one tensor of the shape {tuple(held.shape)}"
    if not isinstance(held, Mapping):
        entries = f" with {len(held)} entries" if isinstance(held, list | tuple) else ""
        return f"it holds a {type(held).__name__}{entries}"
    found = _inner(held)
    if not any(isinstance(value, torch.Tensor) for value in found.values()):
        keys = ", ".join(repr(key)[:40] for key in list(found)[:_MAX_SHOWN]) or "none"
        return f"it holds no tensors; its first keys are: {keys}"
    return None
