"""What a gateway reported in the last seconds, in case the shared state loses it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avatar_gateway.core.usage import Claim, Record

RESENT_S: Final = 10.0
"""Age of closed records that are reported again after the server of the state has started.

A server that writes its log once a second may have lost the last two seconds.
"""
MAX_RESENT: Final = 20_000


class Resent:
    """What was reported in the last seconds, in case the shared state loses it."""

    def __init__(self) -> None:
        self._records: deque[tuple[float, Record]] = deque(maxlen=MAX_RESENT)
        self._claims: deque[tuple[float, Claim]] = deque(maxlen=MAX_RESENT)

    def add(self, now: float, records: Iterable[Record], claims: Iterable[Claim]) -> None:
        """Remember closed records and claims that were reported."""
        self._records.extend((now, each) for each in records)
        self._claims.extend((now, each) for each in claims)
        for queue in (self._records, self._claims):
            while queue and queue[0][0] < now - RESENT_S:
                queue.popleft()

    def since(self, at: float) -> tuple[list[Record], list[Claim]]:
        """Return what was reported since a time."""
        records = [each for when, each in self._records if when >= at]
        return records, [each for when, each in self._claims if when >= at]
