"""How often a session is resumed, what a wrong token costs, and which connection makes room.

The right token is examined and accepted whatever strangers have sent: a limit on wrong tokens that
also stopped the right one would let a stranger lock a client out. So a guess costs a connection and
time, and the 256 random bits of the token make guesses useless.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol.rate_limit import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Sequence

BURST: Final = 20
"""How often a session may be resumed at once, and how many wrong tokens are answered at once."""
INTERVAL_S: Final = 6.0
"""Seconds until one more is admitted, far less than a session waits for its client."""
PER_MINUTE: Final = BURST + int(60 / INTERVAL_S)
"""The most in any 60 s, which an error names as its limit."""
MAX_PENDING: Final = 256
"""Connections with `?resume=` that continue no session yet, at most."""
_MAX_NAMES: Final = 256
_NAME_CHARACTERS: Final = 64


def new_bucket() -> TokenBucket:
    """Return the limit of one session."""
    return TokenBucket(BURST, INTERVAL_S)


class FailedResumes:
    """Counts failed attempts by the session that they name.

    A session that does not exist counts like one that does: nobody learns which ones exist. The
    names that were used last are kept.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def admits(self, session_id: str, now: float) -> bool:
        """Count a failure; return whether it is answered at once, or as late as a silent client."""
        name = session_id[:_NAME_CHARACTERS]
        bucket = self._buckets.setdefault(name, new_bucket())
        self._buckets.move_to_end(name)
        if len(self._buckets) > _MAX_NAMES:
            self._buckets.popitem(last=False)
        return bucket.admits(now)


def choose_displaced(callers: Sequence[str]) -> int:
    """Return which pending connection makes room for the newest one.

    It is the oldest one of the caller that has most of them.

    Args:
        callers: the callers of the connections, the oldest connection first; not empty.
    """
    counts = Counter(callers)
    most = max(counts.values())
    return next(at for at, caller in enumerate(callers) if counts[caller] == most)
