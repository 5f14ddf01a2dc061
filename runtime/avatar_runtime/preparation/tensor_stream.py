"""Writes and maps safetensors files piece by piece, so that no tensor is in memory as a whole.

The format: 8 bytes with the length of a JSON header, the header, then the tensors. Chunks of the
staging folder are written with an ordinary `OSError` if the disk is full, and a file is there
completely or not at all.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

# Largest alignment first, as the safetensors library orders them.
_CODES: Final = {
    "int64": "I64",
    "float64": "F64",
    "int32": "I32",
    "float32": "F32",
    "float16": "F16",
    "uint8": "U8",
}
_TYPES: Final = {code: dtype for dtype, code in _CODES.items()}
_MAX_HEADER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Stream:
    """A tensor whose parts follow each other along its first axis."""

    dtype: str
    shape: tuple[int, ...]
    parts: Iterable[NDArray[Any]]


def write(path: Path, streams: Mapping[str, Stream]) -> None:
    """Write a file under a temporary name and rename it.

    Raises:
        OSError: the disk is full or the folder is not writable.
        ValueError: the parts of a tensor do not have the bytes of its shape.
    """
    order = sorted(streams, key=lambda name: (list(_CODES).index(streams[name].dtype), name))
    header: dict[str, Any] = {}
    at = 0
    for name in order:
        stream = streams[name]
        size = math.prod(stream.shape) * np.dtype(stream.dtype).itemsize
        header[name] = {
            "dtype": _CODES[stream.dtype],
            "shape": list(stream.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            _write_parts(file, name, streams[name], header[name]["data_offsets"])
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _write_parts(file: Any, name: str, stream: Stream, span: list[int]) -> None:
    written = 0
    for part in stream.parts:
        plain = np.ascontiguousarray(part, stream.dtype)
        written += plain.nbytes
        file.write(plain.data)
    if written != span[1] - span[0]:
        raise ValueError(f"tensor {name} has {written} bytes, its shape has {span[1] - span[0]}")


def whole(tensors: Mapping[str, NDArray[Any]]) -> dict[str, Stream]:
    """Return streams of tensors that are in memory."""
    return {name: Stream(str(t.dtype), t.shape, [t]) for name, t in tensors.items()}


def mapped(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file of `write`, read only, read from the disk when used.

    Raises:
        AssetError: the file is cut or was not written by `write`.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header has {length} bytes, the limit is {_MAX_HEADER_BYTES}")
            header = json.loads(file.read(length))
        return {name: _map(path, size, 8 + length, entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.AssetError(str(path), f"unreadable: {error}") from error


def _map(path: Path, size: int, base: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(map(int, entry["shape"]))
    begin, end = entry["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize or base + end > size:
        raise ValueError(f"it has {size} bytes, its header describes {base + end}")
    if begin == end:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", base + begin, shape)
