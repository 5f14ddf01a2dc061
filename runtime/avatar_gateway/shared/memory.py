"""The state of a single gateway, which shares it with no other one."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from avatar_gateway.core.leases import Lease, LeaseTable, QuotaExceeded
from avatar_gateway.core.usage import Ledger
from avatar_gateway.core.use_counts import LocalUseCounts
from avatar_gateway.shared.state import CLAIM_AGE_MS, RECORD_KEPT_MS, Finished, Overview

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_contracts.state import SharedStateName
    from avatar_gateway.core.tenants import TenantLimits
    from avatar_gateway.core.usage import Claim, HourTotal, Record


KEPT_MS: Final = 3_600_000
"""How long closed records are kept, so that a repeated report counts once."""


class MemoryState:
    """Implements `SharedState` in the memory of the process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the epoch."""
        self._clock = clock
        self._leases = LeaseTable()
        self._ledger = Ledger()
        self._uses = LocalUseCounts(clock)
        self._direct: OrderedDict[str, float] = OrderedDict()
        """Direct sessions that were counted, and when, milliseconds since the epoch."""
        self._unlogged: list[Record] = []

    @property
    def name(self) -> SharedStateName:
        """See `SharedState`."""
        return "none"

    async def server_id(self) -> str:
        """See `SharedState`."""
        return ""

    async def acquire(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """See `SharedState`."""
        month_ms = self._month_ms(lease.tenant)
        return self._leases.acquire(lease, limits, month_ms, self._now_ms())

    async def bind(self, lease: Lease, session_id: str) -> bool:
        """See `SharedState`."""
        return self._leases.bind(lease, session_id, self._now_ms())

    async def take_over(self, lease: Lease) -> None:
        """See `SharedState`."""
        self._leases.take_over(lease, self._now_ms())

    async def renew(self, leases: Sequence[Lease]) -> None:
        """See `SharedState`."""
        self._leases.renew(leases, self._now_ms())

    async def finish(self, finished: Sequence[Finished]) -> None:
        """See `SharedState`."""
        for each in finished:
            end = self._leases.suspend if each.is_suspended else self._leases.release
            end(each.lease, self._now_ms())

    async def overview(
        self, gateway: str, waiting: Mapping[str, Mapping[str, int]] | None = None
    ) -> Overview:
        """See `SharedState`."""
        now_ms = self._now_ms()
        used = {tenant for tenant, month in self._ledger.months if month == self._month()}
        names = {*self._leases.tenants(now_ms), *used}
        return Overview(
            1, {name: self._leases.usage(name, now_ms, self._month_ms(name)) for name in names}
        )

    async def report_usage(self, records: Sequence[Record]) -> None:
        """See `SharedState`."""
        self._ledger.report(records, self._now_ms(), self._month())
        self._ledger.forget(self._now_ms() - KEPT_MS)

    async def claim_usage(self, claims: Sequence[Claim], now_ms: float) -> None:
        """See `SharedState`; what another gateway had is not counted here."""
        while self._direct and next(iter(self._direct.values())) < now_ms - RECORD_KEPT_MS:
            self._direct.popitem(last=False)
        for each in claims:
            is_new = each.record not in self._direct and now_ms - each.at_ms < CLAIM_AGE_MS
            if each.is_direct and is_new:
                self._direct[each.record] = now_ms
                self._unlogged.append(each.as_record())
                await self.report_usage([each.as_record()])

    async def close_abandoned(self) -> Sequence[Record]:
        """See `SharedState`; only direct sessions leave a record here."""
        found, self._unlogged = self._unlogged, []
        return found

    async def usage(self, since: int, until: int) -> Sequence[HourTotal]:
        """See `SharedState`."""
        return self._ledger.usage(since, until)

    async def count_use(self, counter: str, limit: int, ttl_s: float) -> bool:
        """See `SharedState`."""
        return await self._uses.count_use(counter, limit, round(ttl_s))

    async def close(self) -> None:
        """See `SharedState`."""

    def _month(self) -> int:
        now = time.gmtime(self._clock())
        return now.tm_year * 100 + now.tm_mon

    def _month_ms(self, tenant: str) -> int:
        return self._ledger.months.get((tenant, self._month()), 0)

    def _now_ms(self) -> float:
        return self._clock() * 1000
