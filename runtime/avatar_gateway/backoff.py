"""Pauses between tries, longer each time and never in step with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Backoff:
    """Doubling pauses between two bounds, each cut by chance to at least its half."""

    def __init__(self, least_s: float, most_s: float, chance: Callable[[], float]) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._chance = chance
        self._next_s = least_s

    def next_s(self) -> float:
        """Return the next pause in seconds."""
        pause_s = self._next_s * (0.5 + self._chance() / 2)
        self._next_s = min(2 * self._next_s, self._most_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the shortest pause, after a success."""
        self._next_s = self._least_s
