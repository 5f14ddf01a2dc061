"""Decides how many requests may be on their way to a server, from how long it takes to answer.

As TCP does it (additive increase, multiplicative decrease, RFC 5681): what a busy
server is asked beyond what it can do only waits there, until it is given up and
asked again. The Lease, which does not wait here, would be lost with the rest.
"""

from dataclasses import dataclass, replace
from typing import Final

MOST: Final = 32
"""An API server with 2 cores applies 156 objects a second one by one and 525 with 50 in flight
(measured, docs/benchmarks/operator.md); more than these would only queue there."""

LEAST: Final = 4  # even a server that answers nothing is tried by some
SLOW_S: Final = 1.0  # a server with time to spare answers in some hundredths of it


@dataclass(frozen=True, slots=True)
class Flow:
    """The limit, and when it was cut last."""

    limit: float = MOST
    cut_at: float = float("-inf")  # of the same clock as `now`

    def after(self, seconds: float, now: float) -> "Flow":
        """Return the flow after an answer that took so long, or was given up after so long.

        Requests that were on their way together are slow together: they cut it once.
        """
        if seconds < SLOW_S:
            return replace(self, limit=min(MOST, self.limit + 1 / self.limit))
        if now - seconds < self.cut_at:
            return self  # it was asked before the cut
        return Flow(max(LEAST, self.limit / 2), now)
