"""How many callers of each service count as demand, by the limits of their tenants.

The operator creates pods for callers that wait and for the arrivals that it expects. A tenant can
use no more slots than its limits permit, so a flood of its callers must not create pods for more.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts.documents import parse
from avatar_contracts.state import HIGHEST_COUNT
from avatar_gateway.core.tenants import Tenant, TenantLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from avatar_gateway.core.tenants import Principal

ARRIVAL_WINDOW_S: Final = 60.0
"""In this time, about that of the start of a pod, as many arrivals of a tenant count as it may have
sessions. More arrivals need no more slots: sessions have to end before."""
MAX_WAITING: Final = 5000
"""Tenants and services whose waiting callers the other gateways get."""


def permitted(
    waiting: Mapping[str, int], live: Mapping[str, int], limits: TenantLimits
) -> Mapping[str, int]:
    """Return how many of the waiting callers of a tenant its limits permit to start, by service.

    If `limits.sessions` does not permit all, the services get equal parts as far as they need them.
    """
    counts = dict(waiting)
    if (each := limits.sessions_per_service) is not None:
        counts = {
            name: min(count, max(0, each - live.get(name, 0))) for name, count in counts.items()
        }
    if limits.sessions is None:
        return counts
    left, found = max(0, limits.sessions - sum(live.values())), dict[str, int]()
    ascending = sorted(counts, key=lambda name: (counts[name], name))
    for number, name in enumerate(ascending):
        found[name] = min(counts[name], left // (len(ascending) - number))
        left -= found[name]
    return found


def encode(waiting: Mapping[str, Mapping[str, int]]) -> str:
    """Return what the other gateways get of `DemandLimiter.waiting`, at most `MAX_WAITING`."""
    counts = [
        [tenant, service, min(HIGHEST_COUNT, callers)]
        for tenant, services in waiting.items()
        for service, callers in services.items()
    ]
    return json.dumps(counts[:MAX_WAITING], separators=(",", ":"))


def decode(texts: Iterable[str]) -> Mapping[str, Mapping[str, int]]:
    """Return the sums of what other gateways have encoded; what is no such text counts nothing."""
    found: dict[str, Counter[str]] = {}
    for text in texts:
        try:
            counts = parse(text)
        except ValueError:
            continue
        for each in counts if isinstance(counts, list) else []:
            match each:
                case [str(tenant), str(service), int(callers)] if 0 <= callers <= HIGHEST_COUNT:
                    found.setdefault(tenant, Counter())[service] += callers
    return found


@dataclass(slots=True)
class _Arrivals:
    """A token bucket: `limit` arrivals at once, and then that many in `ARRIVAL_WINDOW_S`."""

    tokens: float
    at: float

    def take(self, limit: int, now: float) -> bool:
        gained = limit * (now - self.at) / ARRIVAL_WINDOW_S
        self.tokens, self.at = min(float(limit), self.tokens + gained), now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass(slots=True)
class _TenantDemand:
    """What one tenant has at this gateway."""

    limits: TenantLimits
    waiting: dict[str, int] = field(default_factory=dict)
    """Callers that wait for a slot, by service."""
    ranked: dict[str, int | None] = field(default_factory=dict)
    """How many of them can count by their order over all gateways; None for all."""
    held: set[str] = field(default_factory=set)
    """The services whose callers wait only for the quota of the tenant."""
    live: Counter[str] = field(default_factory=Counter)
    counted: dict[str, int] = field(default_factory=dict)
    arrivals: dict[str, _Arrivals] = field(default_factory=dict)
    """By service; the empty name stands for all together."""

    @property
    def able(self) -> Mapping[str, int]:
        """The waiting callers that do not wait only for the quota of the tenant."""
        return {name: count for name, count in self.waiting.items() if name not in self.held}


class DemandLimiter:
    """What counts of the demand at one gateway. The callers of the platform all count."""

    def __init__(
        self,
        on_change: Callable[[str, int], None],
        usage: Callable[[str], Mapping[str, int]] = lambda _tenant: {},
        elsewhere: Callable[[str], Mapping[str, int]] = lambda _tenant: {},
    ) -> None:
        """`on_change` gets a service and its waiting callers that count, after each change.

        `usage` returns the sessions of a tenant at all gateways, by service, as far as it is known.
        `elsewhere` returns its callers that wait at other gateways (their `waiting`).
        """
        self._on_change = on_change
        self._usage = usage
        self._elsewhere = elsewhere
        self._tenants: dict[str, _TenantDemand] = {}
        self._counted: Counter[str] = Counter()

    def refresh(self) -> None:
        """Count the callers of all tenants again, after the usage has changed."""
        for name in list(self._tenants):
            self._count(name, self._tenants[name])

    def allowance(self, principal: Principal, service: str) -> int | None:
        """Return how many more sessions of a service a tenant may have; None for no limit.

        Its callers that wait for other services, at all gateways, have their part of the rest.
        """
        name, tenant = principal.tenant_name, self._of(principal)
        if tenant.limits.sessions is None and tenant.limits.sessions_per_service is None:
            return None
        waiting = self._elsewhere(name).get(service, 0) + tenant.waiting.get(service, 0)
        everywhere = {**self._waiting_everywhere(name), service: waiting}
        return permitted(everywhere, self._live(name), tenant.limits)[service]

    def waiting(self) -> Mapping[str, Mapping[str, int]]:
        """Return the callers that wait here by tenant and service, for the other gateways.

        Tenants without a limit of all their sessions are left out.
        """
        return {
            name: tenant.able
            for name, tenant in self._tenants.items()
            if tenant.limits.sessions is not None and tenant.able
        }

    def set_waiting(
        self,
        principal: Principal,
        service: str,
        callers: int,
        *,
        ranked: int | None = None,
        by_quota: bool = False,
    ) -> None:
        """Set how many callers of a tenant wait.

        `ranked` is how many of them are, in an order over all gateways, among the first that
        `allowance` permits. `by_quota` says that only the quota of the tenant makes them wait.
        """
        tenant = self._of(principal)
        tenant.waiting[service], tenant.ranked[service] = callers, ranked
        if not callers:
            del tenant.waiting[service], tenant.ranked[service]
        (tenant.held.add if by_quota and callers else tenant.held.discard)(service)
        self._count(principal.tenant_name, tenant)

    @contextmanager
    def session(self, principal: Principal, service: str) -> Iterator[None]:
        """Count a session while the context is open."""
        self._change_live(principal, service, 1)
        try:
            yield
        finally:
            self._change_live(principal, service, -1)

    def counts_arrival(self, principal: Principal, service: str, now: float) -> bool:
        """Return whether an arrival counts, and take it from what its tenant may have."""
        tenant = self._of(principal)
        limits = {"": tenant.limits.sessions, service: tenant.limits.sessions_per_service}
        known = {name: limit for name, limit in limits.items() if limit is not None}
        return all(
            tenant.arrivals.setdefault(name, _Arrivals(limit, now)).take(limit, now)
            for name, limit in known.items()
        )

    def _change_live(self, principal: Principal, service: str, change: int) -> None:
        tenant = self._of(principal)
        tenant.live[service] += change
        if not tenant.live[service]:
            del tenant.live[service]
        self._count(principal.tenant_name, tenant)

    def _of(self, principal: Principal) -> _TenantDemand:
        limits = (principal.tenant or Tenant("")).limits
        tenant = self._tenants.setdefault(principal.tenant_name, _TenantDemand(limits))
        tenant.limits = limits
        return tenant

    def _live(self, name: str) -> Mapping[str, int]:
        own, known = self._tenants[name].live, self._usage(name)
        return {key: max(own[key], known.get(key, 0)) for key in own.keys() | known.keys()}

    def _waiting_everywhere(self, name: str) -> Mapping[str, int]:
        return Counter(self._tenants[name].able) + Counter(self._elsewhere(name))

    def _count(self, tenant_name: str, tenant: _TenantDemand) -> None:
        if tenant.waiting or tenant.counted:
            self._count_waiting(tenant_name, tenant)
        if not tenant.waiting and not tenant.live and not tenant.arrivals:
            del self._tenants[tenant_name]

    def _count_waiting(self, tenant_name: str, tenant: _TenantDemand) -> None:
        able, live = tenant.able, self._live(tenant_name)
        total = permitted(self._waiting_everywhere(tenant_name), live, tenant.limits)
        before, tenant.counted = tenant.counted, {}
        for name, callers in able.items():
            ranked = tenant.ranked[name]
            counted = callers if ranked is None else min(callers, ranked)
            tenant.counted[name] = min(counted, total[name])
        for name in before.keys() | tenant.counted.keys():
            change = tenant.counted.get(name, 0) - before.get(name, 0)
            if change:
                self._counted[name] += change
                self._on_change(name, self._counted[name])
            if not self._counted[name]:
                del self._counted[name]
