"""Reads the boxes in pickles of upstream MuseTalk without running what a stranger may put there.

A pickle is a program. Before it runs, every instruction is compared with a list of those that
build lists, tuples and numbers; the only names that it may use are those of NumPy's scalars, and
they are replaced by functions of this module.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.preparation import given_files

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 64 << 20
"""An upstream file has about 40 bytes a box: 64 MiB are over an hour."""
MAX_ROWS: Final = 200_000
_OPCODES: Final = frozenset(
    (
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE",
        "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET",
        "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
        "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT",
        "NONE", "NEWTRUE", "NEWFALSE",
        # A NumPy scalar: a name, texts, bytes and a call of the name.
        "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
        "BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
    )
)  # fmt: skip
_TYPES: Final = frozenset(
    f"{kind}{size}"
    for kind, sizes in (("i", "1248"), ("u", "1248"), ("f", "248"))
    for size in sizes
)


def read_boxes(path: Path) -> list[tuple[int, int, int, int]]:
    """Return the rows of four whole numbers in a pickle.

    Raises:
        AssetError: the file is no such pickle; names what it has instead.
    """
    given_files.require_file(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, the limit is {MAX_BYTES}")
        return _rows(_load(path.read_bytes()))
    except OSError as error:
        raise errors.AssetError(str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise errors.AssetError(str(path), f"not a list of boxes: {error}") from error


def _load(data: bytes) -> Any:
    """Run a checked pickle.

    Raises:
        ValueError: the pickle is damaged or has a forbidden instruction or name.
    """
    _check_opcodes(data)
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except ValueError:
        raise
    except Exception as error:
        # A damaged pickle raises nearly every type: IndexError, KeyError, TypeError and others.
        raise ValueError(f"the pickle is damaged: {type(error).__name__}") from error


def _check_opcodes(data: bytes) -> None:
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(data):
            count += 1
            if opcode.name not in _OPCODES:
                raise ValueError(f"the pickle has the instruction {opcode.name}")
            if opcode.name.endswith("PUT") and int(argument or 0) > count:
                # The C unpickler allocates an array up to the index.
                raise ValueError(f"the pickle stores a value under the number {argument}")
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the pickle is damaged: {type(error).__name__}") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "dtype"): _DType,
            ("_codecs", "encode"): _encoded,  # bytes in protocols 0 to 2
            # NumPy 1 and 2.
            **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
        }
        if (module, name) not in known:
            raise ValueError(f"the pickle uses {f'{module}.{name}'[:80]!r}")
        return known[module, name]


class _DType:
    """Stands for `numpy.dtype` with a plain number type."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _TYPES:
            raise ValueError(f"a number has the type {str(code)[:20]!r}")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in {"<", ">", "|", "="}:
            self.order = state[1]


def _encoded(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are damaged")
    return text.encode("latin-1")


def _scalar(dtype: object, data: object) -> float:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
        raise ValueError("a number is damaged")
    kind = np.dtype(dtype.order.replace("|", "=") + dtype.code)
    if len(raw) != kind.itemsize:
        raise ValueError(f"a number of type {dtype.code} has {len(raw)} bytes")
    value: float = np.frombuffer(raw, kind)[0].item()
    return value


def _rows(value: object) -> list[tuple[int, int, int, int]]:
    if not isinstance(value, list):
        raise ValueError(f"it has a {type(value).__name__}, must have a list")
    if len(value) > MAX_ROWS:
        raise ValueError(f"it has {len(value)} boxes, the limit is {MAX_ROWS}")
    return [_row(index, row) for index, row in enumerate(value)]


def _row(index: int, row: object) -> tuple[int, int, int, int]:
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise ValueError(f"entry {index} is a {type(row).__name__}, must be four numbers")
    for number in row:
        if not isinstance(number, int | float) or not abs(number) < 1 << 15:
            raise ValueError(
                f"entry {index} has a {type(number).__name__}, must be pixel positions"
            )
    x1, y1, x2, y2 = (int(number) for number in row)
    return x1, y1, x2, y2
