"""Leases: which sessions count against the limits of a tenant, over all gateways.

A session has one lease from before its pod is asked until it ends, however many gateways carry it
in between. A lease expires if nobody renews it, so that a gateway that dies frees what it held.
The scripts of `avatar_gateway.shared` decide the same in Redis; a test compares both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_gateway.core.tenants import AtMonthlyLimit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_gateway.core.tenants import TenantLimits

TTL_MS: Final = 35_000
"""How long a lease lives after it was renewed, and while its caller is away.

A pod keeps the session of a caller that is away for 30 s (`AVATAR_RESUME_TTL_S`).
"""
NOBODY: Final = ""
"""The owner of a lease whose caller is away."""

SESSIONS: Final = "sessions"
SESSIONS_PER_SERVICE: Final = "sessionsPerService"
MINUTES_PER_MONTH: Final = "minutesPerMonth"


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of one connection."""

    id: str
    """Unique in its tenant: a random id first, then that of the session, if the pod names it."""
    tenant: str
    service: str
    """`NAMESPACE/NAME`."""
    owner: str
    """Unique for each connection: an earlier connection of the session cannot end its lease."""


@dataclass(frozen=True, slots=True)
class QuotaExceeded:
    """A limit of a tenant that refuses a session."""

    which: str
    """The field of `spec.limits` of the AvatarTenant."""
    limit: int
    used: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant uses now."""

    sessions: int = 0
    by_service: Mapping[str, int] = field(default_factory=dict)
    month_ms: int = 0
    """Of its sessions in this calendar month (UTC), in milliseconds."""


@dataclass(slots=True)
class _Held:
    service: str
    owner: str
    expires_ms: float


@dataclass(slots=True)
class _TenantLeases:
    """The leases of one tenant, and how many each service has."""

    by_id: dict[str, _Held] = field(default_factory=dict)
    by_service: dict[str, int] = field(default_factory=dict)
    sweep_at_ms: float = inf
    """No lease expires before."""

    def put(self, lease: Lease, expires_ms: float) -> None:
        """Add or extend a lease; one that exists keeps its service."""
        known = self.by_id.get(lease.id)
        if known is None:
            self.by_service[lease.service] = self.by_service.get(lease.service, 0) + 1
        service = lease.service if known is None else known.service
        self.by_id[lease.id] = _Held(service, lease.owner, expires_ms)
        self.sweep_at_ms = min(self.sweep_at_ms, expires_ms)

    def remove(self, lease_id: str) -> None:
        """Remove a lease."""
        service = self.by_id.pop(lease_id).service
        self.by_service[service] -= 1
        if not self.by_service[service]:
            del self.by_service[service]

    def owned(self, lease: Lease) -> _Held | None:
        """Return what a connection still owns."""
        found = self.by_id.get(lease.id)
        return found if found is not None and found.owner == lease.owner else None

    def sweep(self, now_ms: float) -> None:
        """Remove what has expired."""
        if now_ms < self.sweep_at_ms:
            return
        for lease_id in [key for key, each in self.by_id.items() if each.expires_ms <= now_ms]:
            self.remove(lease_id)
        self.sweep_at_ms = min((each.expires_ms for each in self.by_id.values()), default=inf)


def exceeded(usage: Usage, service: str, limits: TenantLimits) -> QuotaExceeded | None:
    """Return the limit that refuses one more session of a service, if any."""
    minutes = limits.minutes_per_month
    if minutes is not None and limits.at_monthly_limit is AtMonthlyLimit.REFUSE:
        if usage.month_ms >= minutes * 60_000:
            return QuotaExceeded(MINUTES_PER_MONTH, minutes, usage.month_ms // 60_000)
    if limits.sessions is not None and usage.sessions >= limits.sessions:
        return QuotaExceeded(SESSIONS, limits.sessions, usage.sessions)
    used, most = usage.by_service.get(service, 0), limits.sessions_per_service
    if most is not None and used >= most:
        return QuotaExceeded(SESSIONS_PER_SERVICE, most, used)
    return None


def without_one(usage: Usage, service: str) -> Usage:
    """Return a usage without one session of a service."""
    by_service = dict(usage.by_service)
    by_service[service] = max(0, by_service.get(service, 0) - 1)
    return replace(usage, sessions=max(0, usage.sessions - 1), by_service=by_service)


def share(
    limit: int | None, own: int, total: int, replicas: int, at_loss: int | None = None
) -> int | None:
    """Return how many sessions this gateway may have while the shared state is away.

    Args:
        limit: the limit of the tenant, None for no limit.
        own: the sessions of this gateway when the state of all was read last.
        total: those of all gateways then.
        replicas: the number of gateways then; 0 if it was never known.
        at_loss: the sessions of this gateway when it lost the state; None for those of before.

    A gateway may have what it had at the loss, and its part of the rest, less what it has taken of
    that since. What all had at the loss was granted, so it is within the limit. The shares of all
    gateways together exceed the limit by no more than what the others have got of the rest since
    their counts were read: nothing if the limit was reached then.
    """
    if limit is None:
        return None
    had, rest = own if at_loss is None else at_loss, max(0, limit - total)
    return had + max(0, (rest // replicas if replicas else 0) - max(0, had - own))


def limits_alone(
    limits: TenantLimits,
    own: Usage,
    total: Usage,
    service: str,
    replicas: int,
    at_loss: Usage | None = None,
) -> TenantLimits:
    """Return what this gateway may use of the limits while the shared state is away.

    The arguments are those of `share`. A gateway that has never read the use of all (`replicas` is
    0) knows no minutes of the month either, so that a tenant with this limit has none.
    """
    minutes = limits.minutes_per_month if replicas or limits.minutes_per_month is None else 0
    had = own if at_loss is None else at_loss
    of_service = [each.by_service.get(service, 0) for each in (own, total, had)]
    return replace(
        limits,
        sessions=share(limits.sessions, own.sessions, total.sessions, replicas, had.sessions),
        sessions_per_service=share(
            limits.sessions_per_service, of_service[0], of_service[1], replicas, of_service[2]
        ),
        minutes_per_month=minutes,
    )


class LeaseTable:
    """All leases, with a clock from outside. Times are milliseconds of one clock."""

    def __init__(self) -> None:
        self._tenants: dict[str, _TenantLeases] = {}

    def acquire(
        self, lease: Lease, limits: TenantLimits, month_ms: int, now_ms: float
    ) -> QuotaExceeded | None:
        """Add a lease, or return the limit that refuses it. A repeated request counts once."""
        if lease.id not in self._live(lease.tenant, now_ms).by_id:
            usage = self.usage(lease.tenant, now_ms, month_ms)
            if (refusal := exceeded(usage, lease.service, limits)) is not None:
                return refusal
        self._put(lease, now_ms)
        return None

    def bind(self, lease: Lease, session_id: str, now_ms: float) -> bool:
        """Name a lease by its session; return whether it has that name now.

        Another lease may have it: what a pod says is not trusted.
        """
        held = self._live(lease.tenant, now_ms)
        named = held.by_id.get(session_id)
        if lease.id not in held.by_id:  # a repeated request has been answered
            return named is not None and named.owner == lease.owner
        if held.owned(lease) is None or named is not None:
            return False
        held.by_id[session_id] = held.by_id.pop(lease.id)
        return True

    def take_over(self, lease: Lease, now_ms: float) -> None:
        """Make the connection of `lease` the owner; no limit refuses that."""
        self._live(lease.tenant, now_ms)
        self._put(lease, now_ms)

    def renew(self, leases: Iterable[Lease], now_ms: float) -> None:
        """Extend leases, and add those that are missing or that nobody owns.

        The lease of another connection stays. That may be one that asks for a session without its
        token; when it has gone, the connection of the session has the lease again.
        """
        for lease in leases:
            found = self._live(lease.tenant, now_ms).by_id.get(lease.id)
            if found is None or found.owner in (lease.owner, NOBODY):
                self._put(lease, now_ms)

    def extend(self, leases: Iterable[Lease], now_ms: float) -> None:
        """Extend those leases that exist and have these owners."""
        for lease in leases:
            if self._live(lease.tenant, now_ms).owned(lease) is not None:
                self._put(lease, now_ms)

    def suspend(self, lease: Lease, now_ms: float) -> None:
        """Keep a lease for a caller that may come back."""
        found = self._live(lease.tenant, now_ms).owned(lease)
        if found is not None:
            found.owner, found.expires_ms = NOBODY, now_ms + TTL_MS

    def release(self, lease: Lease, now_ms: float) -> None:
        """Remove a lease if its connection still owns it."""
        held = self._live(lease.tenant, now_ms)
        if held.owned(lease) is not None:
            held.remove(lease.id)

    def usage(self, tenant: str, now_ms: float, month_ms: int = 0) -> Usage:
        """Return what a tenant uses."""
        held = self._live(tenant, now_ms)
        return Usage(len(held.by_id), dict(held.by_service), month_ms)

    def tenants(self, now_ms: float) -> list[str]:
        """Return the tenants that have leases."""
        return [name for name in list(self._tenants) if self._live(name, now_ms).by_id]

    def _live(self, tenant: str, now_ms: float) -> _TenantLeases:
        """Return the leases of a tenant, without those that expired."""
        held = self._tenants.get(tenant)
        if held is None:
            return _TenantLeases()
        held.sweep(now_ms)
        if not held.by_id:
            del self._tenants[tenant]
        return held

    def _put(self, lease: Lease, now_ms: float) -> None:
        self._tenants.setdefault(lease.tenant, _TenantLeases()).put(lease, now_ms + TTL_MS)
