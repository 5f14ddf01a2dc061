"""The state that several gateways share in Redis or Valkey: one script for each decision."""

from __future__ import annotations

from itertools import groupby
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway.core.leases import TTL_MS, Lease, QuotaExceeded, Usage
from avatar_gateway.core.tenants import AtMonthlyLimit
from avatar_gateway.core.usage import FIGURES, HIGHEST, NONE, Account, HourTotal, Record
from avatar_gateway.shared.connection import load_script
from avatar_gateway.shared.state import Finished, Overview

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from avatar_contracts.state import SharedStateName
    from avatar_gateway.core.tenants import TenantLimits
    from avatar_gateway.shared.connection import Connection

GATEWAY_TTL_MS: Final = 10_000
"""A gateway that has not reported for so long does not count as a replica."""
MAX_TENANTS: Final = 5000
"""Tenants of an overview: those with the newest leases."""
BATCH: Final = 500
"""Leases in one call, so that the server is never busy for long."""

RECORD_BATCH: Final = 100
"""Records in one call."""
KEPT_HOURS: Final = 400 * 24
"""How long the totals of an hour are kept."""
ABANDONED_MS: Final = 60_000
"""A record that nobody has reported for so long belongs to a gateway that has died."""

_REPORT_USAGE, _CLOSE_ABANDONED = map(load_script, ("report_usage", "close_abandoned"))
_ACQUIRE, _BIND, _TAKE_OVER, _RENEW, _FINISH, _OVERVIEW, _COUNT_USE = map(
    load_script, ("acquire", "bind", "take_over", "renew", "finish", "overview", "count_use")
)


class RedisState:
    """Implements `SharedState` in Redis. The time of leases is that of the server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def name(self) -> SharedStateName:
        """See `SharedState`."""
        return "ok" if self.connection.is_up else "unavailable"

    async def acquire(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """See `SharedState`."""
        is_refused = limits.at_monthly_limit is AtMonthlyLimit.REFUSE
        found = await self.connection.run(
            _ACQUIRE,
            [*_keys(lease.tenant), f"months:{lease.tenant}"],
            [
                *(lease.tenant, lease.id, lease.owner, lease.service, TTL_MS),
                *(_limit(limits.sessions), _limit(limits.sessions_per_service)),
                _limit(limits.minutes_per_month if is_refused else None),
            ],
        )
        return QuotaExceeded(found[0], int(found[1]), int(found[2])) if found else None

    async def bind(self, lease: Lease, session_id: str) -> bool:
        """See `SharedState`."""
        values = (lease.id, lease.owner, session_id)
        return bool(await self.connection.run(_BIND, _keys(lease.tenant), values))

    async def take_over(self, lease: Lease) -> None:
        """See `SharedState`."""
        values = (lease.tenant, lease.id, lease.owner, lease.service, TTL_MS)
        await self.connection.run(_TAKE_OVER, _keys(lease.tenant), values)

    async def renew(self, leases: Sequence[Lease]) -> None:
        """See `SharedState`."""
        for tenant, batch in _batches((each.tenant, each) for each in leases):
            values = [word for each in batch for word in (each.id, each.owner, each.service)]
            await self.connection.run(_RENEW, _keys(tenant), [tenant, TTL_MS, *values])

    async def finish(self, finished: Sequence[Finished]) -> None:
        """See `SharedState`."""
        for tenant, batch in _batches((each.lease.tenant, each) for each in finished):
            values = [
                word
                for each in batch
                for word in (each.lease.id, each.lease.owner, int(each.is_suspended))
            ]
            await self.connection.run(_FINISH, _keys(tenant), [tenant, TTL_MS, *values])

    async def overview(self, gateway: str) -> Overview:
        """See `SharedState`."""
        values = (self.connection.prefix, gateway, GATEWAY_TTL_MS, MAX_TENANTS, token_hex(8))
        keys = ["gateways", "tenants", "data-id"]
        replicas, data_id, *rest = await self.connection.run(_OVERVIEW, keys, values)
        tenants = {}
        for at in range(0, len(rest), 4):
            name, sessions, month_ms, counts = rest[at : at + 4]
            by_service = {key: int(count) for key, count in zip(*[iter(counts)] * 2, strict=True)}
            tenants[name] = Usage(int(sessions), by_service, int(month_ms))
        return Overview(int(replicas), tenants, data_id)

    async def report_usage(self, records: Sequence[Record]) -> None:
        """See `SharedState`."""
        for at in range(0, len(records), RECORD_BATCH):
            values: list[object] = [self.connection.prefix, len(FIGURES)]
            for each in records[at : at + RECORD_BATCH]:
                account = each.account
                values += [each.id, account.tenant, account.service, account.gpu_class]
                values += [int(each.is_closed), each.details]
                values += [min(HIGHEST, max(0, figure)) for figure in each.figures]
            await self.connection.run(_REPORT_USAGE, ["open-records", "tenants"], values)

    async def close_abandoned(self) -> Sequence[Record]:
        """See `SharedState`."""
        values = (self.connection.prefix, ABANDONED_MS, RECORD_BATCH)
        found = await self.connection.run(_CLOSE_ABANDONED, ["open-records"], values)
        return [
            Record(key, _account(account), tuple(map(int, figures.split())), True, details)
            for key, account, figures, details in zip(*[iter(found)] * 4, strict=True)
        ]

    async def usage(self, since: int, until: int) -> Sequence[HourTotal]:
        """See `SharedState`."""
        totals: dict[tuple[int, Account], list[int]] = {}
        for hour in range(max(since, until - KEPT_HOURS), until):
            key = f"{self.connection.prefix}usage:{hour}"
            found = await self.connection.command("HGETALL", key)
            for name, value in found.items():
                account, _, index = name.rpartition(" ")
                figures = totals.setdefault((hour, _account(account)), list(NONE))
                figures[int(index) - 1] = int(value)
        return [HourTotal(hour, account, tuple(each)) for (hour, account), each in totals.items()]

    async def count_use(self, counter: str, limit: int, ttl_s: float) -> bool:
        """See `SharedState`."""
        values = (limit, max(1, round(ttl_s * 1000)))
        return bool(await self.connection.run(_COUNT_USE, [f"uses:{counter}"], values))

    async def close(self) -> None:
        """See `SharedState`."""
        await self.connection.close()


def _keys(tenant: str) -> Sequence[str]:
    return [f"leases:{tenant}", f"holders:{tenant}", f"counts:{tenant}", "tenants"]


def _account(text: str) -> Account:
    tenant, service, gpu_class = text.split(" ")
    return Account(tenant, service, gpu_class)


def _limit(value: int | None) -> int:
    return -1 if value is None else value


def _batches(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Return the items of each tenant, `BATCH` at a time."""
    ordered = sorted(items, key=lambda item: item[0])
    for tenant, group in groupby(ordered, key=lambda item: item[0]):
        found = [item for _, item in group]
        for at in range(0, len(found), BATCH):
            yield tenant, found[at : at + BATCH]
