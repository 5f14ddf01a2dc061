"""A least-recently-used cache with a bounded total size."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """Values by key; the least recently used are evicted first. Not thread-safe."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        """`size` returns the size of a value in the unit of `limit`, for instance bytes.

        The newest value is never evicted, even if it is larger than `limit`.
        """
        self._limit = limit
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self.used = 0
        """Total size of all values."""

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value of a key; `make` it if it is not cached."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make()
        self.used += self._size(value)
        while self.used > self._limit and len(self._values) > 1:
            self.used -= self._size(self._values.popitem(last=False)[1])
        return value

    def clear(self) -> None:
        """Evict everything; the memory is free when nothing else holds the values."""
        self._values.clear()
        self.used = 0
