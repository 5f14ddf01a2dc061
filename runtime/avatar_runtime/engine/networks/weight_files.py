"""Reads the tensors of one file of weights, and says in words what a wrong file is."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_HEAD_BYTES: Final = 512
_LFS_POINTER: Final = b"version https://git-lfs"
_ZIP: Final = b"PK\x03\x04"
"""How `torch.save` begins a file since version 1.6; such files can be memory-mapped."""
PREFIXES: Final = ("module.", "unet.")
"""Prefixes of all names that wrappers add: data parallel training, and a model that holds it."""
_MAX_NAMED: Final = 3


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a pickle with only tensors.

    A pickle is read without executing anything that it contains.

    Raises:
        AssetError: the file is unreadable, or contains other objects; says what it is.
    """
    import torch

    _check_head(path)
    document = _load(path)
    if isinstance(document, dict):
        document = document.get("state_dict", document)
    if not isinstance(document, dict):
        kind = type(document).__name__
        fault = f"contains a {kind}, must contain a mapping of names to tensors"
        raise errors.AssetError(str(path), fault)
    tensors = {
        name: tensor
        for name, tensor in document.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }
    if not tensors:
        raise errors.AssetError(str(path), "contains no tensor under a name")
    return _without_prefixes(tensors)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that no weight is infinite or not a number.

    Raises:
        AssetError: some are; names the tensors.
    """
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        named = ", ".join(wrong[:_MAX_NAMED])
        fault = f"weights are NaN or infinite in {named}{more}; the file is damaged"
        raise errors.AssetError(str(path), fault)


def _check_head(path: Path) -> None:
    """Recognize what is downloaded by mistake in place of weights."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise errors.AssetError(str(path), f"unreadable: {error.strerror or error}") from error
    text = head.lstrip().lower()
    if not head:
        fault = "is empty; the download did not finish"
    elif head.startswith(_LFS_POINTER):
        fault = "is a pointer of Git LFS, not the weights; run 'git lfs pull' in its repository"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        fault = "is a web page, not the weights; the address of the download was wrong"
    elif text.startswith(b"{") and path.suffix != ".safetensors":
        fault = "is a JSON document, not the weights"
    else:
        return
    raise errors.AssetError(str(path), fault)


def _load(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            mapped = file.read(len(_ZIP)) == _ZIP
        # Files of torch before 1.6 are a pickle alone, which cannot be memory-mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # The text of torch goes on with the advice to execute the file's code.
        raise errors.AssetError(str(path), _refusal(str(error))) from error
    except (OSError, RuntimeError, ValueError, SafetensorError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise errors.AssetError(str(path), f"unreadable: {reason}") from error
    except Exception as error:
        # torch.load raises further errors for files that are no pickles, such as IndexError.
        fault = f"not a file of weights: {type(error).__name__}"
        raise errors.AssetError(str(path), fault) from error


def _refusal(text: str) -> str:
    """Return why a pickle was refused; `text` is the message of torch."""
    for marker in ("Unsupported global: GLOBAL ", "Unsupported class "):
        _, found, rest = text.partition(marker)
        if found:
            return f"contains more than weights: {rest.split()[0]}; it is not executed"
    return "not a file of weights"


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors
