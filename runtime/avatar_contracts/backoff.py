"""Exponential back-off with jitter: pauses that grow, and that clients do not make in step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_DOUBLINGS: Final = 64
"""No pause is longer by then; a power without a bound would overflow."""


class Backoff:
    """Doubling pauses between two bounds, each with jitter."""

    def __init__(self, first_s: float, longest_s: float, chance: Callable[[], float]) -> None:
        """`chance` returns a random number from 0 to 1."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._chance = chance
        self._next_s = first_s

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the next pause in seconds.

        `at_least_s` is what the other side asked for: the next pauses grow from there.
        """
        pause_s = max(self._next_s, at_least_s)
        self._next_s = min(2 * pause_s, self._longest_s)
        return jittered(pause_s, self._chance())

    def reset(self) -> None:
        """Start with the first pause again, after a success."""
        self._next_s = self._first_s


def doubled(first_s: float, longest_s: float, count: int) -> float:
    """Return the pause after the `count`-th failure in a row (1 or more), without jitter."""
    return min(longest_s, first_s * 2.0 ** min(count - 1, _MAX_DOUBLINGS))


def jittered(pause_s: float, chance: float) -> float:
    """Return a pause between its half (`chance` 0) and its whole (`chance` 1)."""
    return pause_s * (1 + chance) / 2
