"""The state of a single gateway, which shares it with no other one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_gateway.core.leases import Lease, LeaseTable, QuotaExceeded
from avatar_gateway.shared.state import Finished, Overview

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_gateway.core.tenants import TenantLimits

MAX_COUNTERS: Final = 100_000
"""Counters of uses. With more, the one that ends first is forgotten."""


class MemoryState:
    """Implements `SharedState` in the memory of the process."""

    name = "none"

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the epoch."""
        self._clock = clock
        self._leases = LeaseTable()
        self._counters: dict[str, tuple[int, float]] = {}

    async def acquire(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """See `SharedState`."""
        return self._leases.acquire(lease, limits, 0, self._now_ms())

    async def bind(self, lease: Lease, session_id: str) -> bool:
        """See `SharedState`."""
        return self._leases.bind(lease, session_id, self._now_ms())

    async def take_over(self, lease: Lease) -> None:
        """See `SharedState`."""
        self._leases.take_over(lease, self._now_ms())

    async def renew(self, leases: Sequence[Lease]) -> Sequence[str]:
        """See `SharedState`."""
        return self._leases.renew(leases, self._now_ms())

    async def finish(self, finished: Sequence[Finished]) -> None:
        """See `SharedState`."""
        for each in finished:
            end = self._leases.suspend if each.is_suspended else self._leases.release
            end(each.lease, self._now_ms())

    async def overview(self, gateway: str) -> Overview:
        """See `SharedState`."""
        now_ms = self._now_ms()
        names = self._leases.tenants(now_ms)
        return Overview(1, {name: self._leases.usage(name, now_ms) for name in names})

    async def count_use(self, counter: str, limit: int, ttl_s: float) -> bool:
        """See `SharedState`."""
        now = self._clock()
        used, until = self._counters.get(counter, (0, 0.0))
        if until <= now:
            used, until = 0, now + ttl_s
        if used >= limit:
            return False
        self._counters[counter] = used + 1, until
        if len(self._counters) > MAX_COUNTERS:
            self._forget_counters(now)
        return True

    async def close(self) -> None:
        """See `SharedState`."""

    def _forget_counters(self, now: float) -> None:
        ended = [key for key, (_, until) in self._counters.items() if until <= now]
        for key in ended or [min(self._counters, key=lambda key: self._counters[key][1])]:
            del self._counters[key]

    def _now_ms(self) -> float:
        return self._clock() * 1000
