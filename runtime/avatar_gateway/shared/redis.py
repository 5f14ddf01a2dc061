"""The state that several gateways share in Redis or Valkey: one script for each decision."""

from __future__ import annotations

import asyncio
from itertools import groupby, islice
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, TypeVar

from avatar_gateway import errors
from avatar_gateway.core import demand
from avatar_gateway.core.leases import TTL_MS, Lease, QuotaExceeded, Usage
from avatar_gateway.core.tenants import AtMonthlyLimit
from avatar_gateway.core.usage import FIGURES, HIGHEST, NONE, Account, HourTotal, Record
from avatar_gateway.shared.connection import MAX_CALLS, load_script
from avatar_gateway.shared.state import CLAIM_AGE_MS, Finished, Overview

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from avatar_contracts.state import SharedStateName
    from avatar_gateway.core.tenants import TenantLimits
    from avatar_gateway.core.usage import Claim
    from avatar_gateway.shared.connection import Connection, Script

GATEWAY_TTL_MS: Final = 10_000
"""A gateway that has not reported for so long does not count as a replica."""
DATA_TTL_MS: Final = TTL_MS - 10_000
"""How long the id of the data lives after a gateway has read it.

It ends before the leases: a gateway renews them every 2 s, and probes a server that was away every
5 s. A server that no gateway has reached for so long, or that has loaded an older copy of its data,
has another id afterwards.
"""
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

_REPORT_USAGE, _CLAIM_USAGE, _CLOSE_ABANDONED = map(
    load_script, ("report_usage", "claim_usage", "close_abandoned")
)
_DATA_ID: Final = "data-id"
_LOST: Final = "lost"
_Item = TypeVar("_Item")

_ACQUIRE, _BIND, _TAKE_OVER, _RENEW, _FINISH, _OVERVIEW, _COUNT_USE = map(
    load_script, ("acquire", "bind", "take_over", "renew", "finish", "overview", "count_use")
)


class RedisState:
    """Implements `SharedState` in Redis. The time of leases is that of the server."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._data_id = ""
        """Of the data that this gateway has counted on; empty if it has read none yet."""

    @property
    def name(self) -> SharedStateName:
        """See `SharedState`."""
        return "ok" if self.connection.is_up else "unavailable"

    async def server_id(self) -> str:
        """See `SharedState`."""
        found = await self.connection.command("INFO", "server")
        return str(found.get("run_id", ""))

    async def acquire(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """See `SharedState`."""
        is_refused = limits.at_monthly_limit is AtMonthlyLimit.REFUSE
        found = await self.connection.run(
            _ACQUIRE,
            [*_keys(lease.tenant), f"months:{lease.tenant}", _DATA_ID],
            [
                *(lease.tenant, lease.id, lease.owner, lease.service, TTL_MS),
                *(_limit(limits.sessions), _limit(limits.sessions_per_service)),
                _limit(limits.minutes_per_month if is_refused else None),
                self._data_id,
            ],
        )
        if found and found[0] == _LOST:
            raise errors.SharedStateUnavailable("it has lost its data")
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
        await self._run_all(
            (
                _RENEW,
                tenant,
                [word for each in batch for word in (each.id, each.owner, each.service)],
            )
            for tenant, batch in _batches((each.tenant, each) for each in leases)
        )

    async def finish(self, finished: Sequence[Finished]) -> None:
        """See `SharedState`."""
        await self._run_all(
            (
                _FINISH,
                tenant,
                [
                    word
                    for each in batch
                    for word in (each.lease.id, each.lease.owner, int(each.is_suspended))
                ],
            )
            for tenant, batch in _batches((each.lease.tenant, each) for each in finished)
        )

    async def _run_all(self, calls: Iterable[tuple[Script, str, Sequence[object]]]) -> None:
        """Run a script for each of several tenants, some of them in one round trip."""
        for some in batched(calls, MAX_CALLS):
            await asyncio.gather(
                *(
                    self.connection.run(script, _keys(tenant), [tenant, TTL_MS, *values])
                    for script, tenant, values in some
                )
            )

    async def overview(
        self, gateway: str, waiting: Mapping[str, Mapping[str, int]] | None = None
    ) -> Overview:
        """See `SharedState`."""
        prefix, new_id, own = self.connection.prefix, token_hex(8), demand.encode(waiting or {})
        values = (prefix, gateway, GATEWAY_TTL_MS, MAX_TENANTS, new_id, DATA_TTL_MS, own)
        keys = ["gateways", "tenants", _DATA_ID, "waiting"]
        replicas, data_id, others, *rest = await self.connection.run(_OVERVIEW, keys, values)
        self._data_id = data_id
        tenants = {}
        for at in range(0, len(rest), 4):
            name, sessions, month_ms, counts = rest[at : at + 4]
            by_service = {key: int(count) for key, count in zip(*[iter(counts)] * 2, strict=True)}
            tenants[name] = Usage(int(sessions), by_service, int(month_ms))
        return Overview(int(replicas), tenants, data_id, demand.decode(others))

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

    async def claim_usage(self, claims: Sequence[Claim], now_ms: float) -> None:
        """See `SharedState`."""
        for at in range(0, len(claims), RECORD_BATCH):
            values: list[object] = [self.connection.prefix, len(FIGURES), CLAIM_AGE_MS]
            for each in claims[at : at + RECORD_BATCH]:
                account = each.account
                values += [each.record, f"{account.tenant} {account.service} {account.gpu_class}"]
                values += [each.details, round(now_ms - each.at_ms)]
                values += [min(HIGHEST, max(0, figure)) for figure in each.figures]
            await self.connection.run(_CLAIM_USAGE, ["open-records"], values)

    async def close_abandoned(self) -> Sequence[Record]:
        """See `SharedState`."""
        values = (self.connection.prefix, len(FIGURES), ABANDONED_MS, RECORD_BATCH)
        keys = ["open-records", "tenants"]
        found = await self.connection.run(_CLOSE_ABANDONED, keys, values)
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


def batched(items: Iterable[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Return the items in groups of at most `size`."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


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
