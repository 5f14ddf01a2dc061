"""Keeps what was used last on the device, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


class ByteCache(Generic[Key, Value]):
    """Values by key, the least recently used dropped first; one thread alone uses it."""

    def __init__(self, limit_bytes: int, size: Callable[[Value], int]) -> None:
        """`size` returns the bytes that a value holds; the newest value always stays."""
        self._limit = limit_bytes
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self.used_bytes = 0
        """Bytes of all values together."""

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made now if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        made = self._values[key] = make()
        self.used_bytes += self._size(made)
        while self.used_bytes > self._limit and len(self._values) > 1:
            self.used_bytes -= self._size(self._values.popitem(last=False)[1])
        return made

    def clear(self) -> None:
        """Forget everything; memory is free when nobody else holds the values."""
        self._values.clear()
        self.used_bytes = 0
