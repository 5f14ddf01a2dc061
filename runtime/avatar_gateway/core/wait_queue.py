"""The line of callers who wait for a slot of one service: who came first is served first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST: Final = 1000
"""Callers in one line; past it nobody would be served in time anyway."""
GRANTS: Final = 20
"""The last slots given to waiting callers, from which the time left is estimated."""
WORTH: Final = frozenset({"no_capacity", "not_ready", "draining"})
"""Refusals that waiting may help against."""


@dataclass(frozen=True, slots=True)
class Line:
    """Callers in the order in which they came, and when the last of them got a slot."""

    tickets: tuple[int, ...] = ()
    grants: tuple[float, ...] = ()
    """Seconds on a monotonic clock, oldest first."""

    @property
    def is_full(self) -> bool:
        """Return whether nobody more may wait."""
        return len(self.tickets) >= MOST

    def with_caller(self, ticket: int) -> Line:
        """Return the line with one more at its end."""
        return Line((*self.tickets, ticket), self.grants)

    def without(self, ticket: int) -> Line:
        """Return the line without a caller who gave up."""
        return Line(tuple(t for t in self.tickets if t != ticket), self.grants)

    def with_grant(self, ticket: int, now: float) -> Line:
        """Return the line without a caller who got a slot."""
        return Line(self.without(ticket).tickets, (*self.grants, now)[-GRANTS:])

    def position(self, ticket: int) -> int:
        """Return the place of a caller in the line, 1 for the next one."""
        return self.tickets.index(ticket) + 1


def eta_ms(position: int, grants: Sequence[float], now: float) -> int | None:
    """Return about how long a caller has to wait still, None if nothing tells.

    As many slots a second come as came lately; the time since the last one counts
    too, so that a line that stands still does not promise anything.
    """
    if len(grants) < 2 or now <= grants[0]:
        return None
    each_s = (now - grants[0]) / len(grants)
    return round(position * each_s * 1000)
