"""Arrays of numbers in the document of a session."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from avatar_runtime.protocol.document_fields import Data

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.protocol.strict_fields import StrictFields


@dataclass(frozen=True, slots=True)
class Array:
    """An array of a fixed shape, written as the base64 of its little-endian numbers."""

    shape: tuple[int, ...]
    dtype: str
    """`<f4` or `<f8`."""
    may_be_infinite: bool = False

    def export(self, value: NDArray[Any], now: float) -> object:
        """Return base64."""
        return Data().export(np.ascontiguousarray(value, self.dtype).tobytes(), now)

    def read(self, fields: StrictFields, name: str, now: float) -> NDArray[Any]:
        """Return a new array of numbers that are finite."""
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        data = Data(size).read(fields, name, now)
        if len(data) != size:
            raise fields.invalid(name, f"must have {size} bytes", size)
        return numbers(data, self.dtype, fields, name, self.may_be_infinite).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Samples:
    """An array of one dimension and any length up to a limit."""

    most: int
    """Numbers, at most."""
    dtype: str

    def export(self, value: NDArray[Any], now: float) -> object:
        """Return base64."""
        return Data().export(np.ascontiguousarray(value, self.dtype).tobytes(), now)

    def read(self, fields: StrictFields, name: str, now: float) -> NDArray[Any]:
        """Return a new array of numbers that are finite."""
        width = np.dtype(self.dtype).itemsize
        data = Data(self.most * width).read(fields, name, now)
        if len(data) % width or len(data) > self.most * width:
            limit = f"must have whole numbers of {width} bytes, at most {self.most}"
            raise fields.invalid(name, limit, self.most)
        return numbers(data, self.dtype, fields, name, False)


def numbers(
    data: bytes | bytearray, dtype: str, fields: StrictFields, name: str, may_be_infinite: bool
) -> NDArray[Any]:
    """Return the numbers in bytes as a new array.

    Raises:
        ProtocolError: one is not a number, or is infinite where it may not be.
    """
    array = np.frombuffer(data, dtype).copy()
    is_wrong = np.isnan(array) if may_be_infinite else ~np.isfinite(array)
    if is_wrong.any():
        raise fields.invalid(name, "must have finite numbers")
    return array
