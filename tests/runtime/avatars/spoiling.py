"""Spoiled copies of an avatar whose content hash is right, so that it does not find the fault."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from avatar_runtime import errors
from avatar_runtime.avatars import cache
from avatar_runtime.avatars.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Tensors = dict[str, NDArray[Any]]


def read_tensors(folder: Path) -> Tensors:
    """Return copies of all tensors of an avatar."""
    found = load_file(folder / "avatar.safetensors") | load_file(folder / "pixels.safetensors")
    return {name: np.array(tensor) for name, tensor in found.items()}


def spoil(
    folder: Path,
    change: Callable[[Tensors], object] = lambda tensors: None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Change tensors and manifest fields of an avatar in place, and the hash with them."""
    tensors = read_tensors(folder)
    change(tensors)
    path = folder / "manifest.json"
    document = json.loads(path.read_text()) | dict(fields or {})
    known = {k: v for k, v in document.items() if k in Manifest.__dataclass_fields__}
    known["invalid_frames"] = tuple(known["invalid_frames"])
    hashed = Manifest(**known)
    document["content_hash"] = cache.hash_content(hashed, tensors)
    path.write_text(json.dumps(document))
    pixels = {
        k: v for k, v in tensors.items() if "pixel" in k or k in ("idle_offsets", "alpha_offsets")
    }
    others = {k: v for k, v in tensors.items() if k not in pixels}
    save_file(
        {k: np.ascontiguousarray(v) for k, v in others.items()}, folder / "avatar.safetensors"
    )
    save_file(
        {k: np.ascontiguousarray(v) for k, v in pixels.items()}, folder / "pixels.safetensors"
    )


def replace_picture(tensors: Tensors, index: int, file: bytes, prefix: str = "pixel") -> None:
    """Store another file as the picture of a frame."""
    name = {"pixel": "pixels", "idle": "idle_pixels"}[prefix]
    offsets = tensors[f"{prefix}_offsets"]
    parts = [tensors[name][a:b] for a, b in pairwise(offsets)]
    parts[index] = np.frombuffer(file, np.uint8)
    tensors[name], tensors[f"{prefix}_offsets"] = cache.pack(parts)


def fault_of(folder: Path) -> str:
    """Return why an avatar is refused."""
    with pytest.raises(errors.AssetError) as caught:
        cache.read(folder)
    assert caught.value.path == str(folder)
    return caught.value.problem
