"""One budget for the buffers of all connections of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable


class MemoryBudget:
    """Counts the bytes that each connection buffers.

    While all of them together exceed the limit, a connection with more than an equal share has to
    wait. The others are not disturbed, and a connection below its share can always continue.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._sizes: dict[Hashable, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Return the bytes that all connections buffer."""
        return self._total

    def update(self, connection: Hashable, size: int) -> None:
        """Set the bytes that a connection buffers now."""
        self._total += size - self._sizes.get(connection, 0)
        self._sizes[connection] = size

    def remove(self, connection: Hashable) -> None:
        """Remove a connection that ended."""
        self._total -= self._sizes.pop(connection, 0)

    def must_wait(self, connection: Hashable) -> bool:
        """Return whether a connection must not buffer more now."""
        if self._total <= self._limit:
            return False
        return self._sizes.get(connection, 0) > self._limit / len(self._sizes)
