"""Keeps the demand for each service that every gateway reports, and the age of the report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from avatar_contracts import state
from avatar_operator.core.autoscaling import capacity, observation
from avatar_operator.core.resources.gateway import Demand, Tally, parse_demand
from avatar_operator.core.resources.tenant_report import (
    TenantReport,
    TenantReports,
    parse_tenants,
)
from avatar_operator.streams import client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_operator.core.resources.service import ServiceKey
    from avatar_operator.streams.endpoint import Endpoint


@dataclass(slots=True)
class _Gateway:
    received_at: float  # of the loop's clock; before the first report, when it was followed
    demand: Demand | None = None  # None before the first report
    tenants: TenantReports = field(default_factory=TenantReports)


class GatewayStates:
    """The reports of all gateways, by UID of the pod."""

    def __init__(
        self, on_change: Callable[[ServiceKey], None], on_tenants: Callable[[], None]
    ) -> None:
        """`on_change` gets the key of each service whose demand changed.

        `on_tenants` is called when a gateway reports other figures of a tenant.
        """
        self._on_change = on_change
        self._on_tenants = on_tenants
        self._streams = client.StateStreams(
            self._on_report, self._on_repeat, rate=state.GATEWAY_RATE
        )
        self._gateways: dict[str, _Gateway] = {}
        self._tally = Tally()

    def follow(self, uid: str, endpoint: Endpoint) -> None:
        """Read the stream of a gateway from now on; a new address discards its report."""
        if self._streams.follow(uid, endpoint):
            self._gateways[uid] = _Gateway(asyncio.get_running_loop().time())

    def unfollow(self, uid: str) -> None:
        """Stop reading the stream of a gateway; its callers no longer count."""
        self._streams.unfollow(uid)
        gateway = self._gateways.pop(uid, None)
        if gateway is not None:
            self._report_changes(gateway.demand or {}, {})
            self._on_tenants()

    def demand(self, key: ServiceKey) -> observation.Demand:
        """Return the demand for a service, summed over all gateways."""
        reports = [gateway.demand or {} for gateway in self._gateways.values()]
        return observation.Demand(
            waiting=sum(report[key].waiting for report in reports if key in report),
            arrived=self._tally.arrived.get(key, 0),
            gateways=len(self._gateways),
            silent=len(self.stale()),
        )

    def tenant(self, name: str) -> tuple[TenantReport, ...]:
        """Return what each gateway reports of a tenant; those that do not know it are left out."""
        reports = (gateway.tenants.tenants.get(name) for gateway in self._gateways.values())
        return tuple(report for report in reports if report is not None)

    def know_each_other(self) -> bool:
        """Return whether every gateway knows the sessions of the others."""
        return all(gateway.tenants.knows_others for gateway in self._gateways.values())

    def stale(self) -> frozenset[str]:
        """Return the UIDs of the gateways whose last report is too old to be used."""
        now = asyncio.get_running_loop().time()
        return frozenset(
            uid for uid, g in self._gateways.items() if now - g.received_at > capacity.STALE_S
        )

    async def close(self) -> None:
        """Close all streams."""
        await self._streams.close()

    def _on_report(self, uid: str, document: Mapping[str, object]) -> None:
        demand = parse_demand(document)
        gateway = self._gateways[uid]
        before, gateway.demand = gateway.demand, demand
        gateway.received_at = asyncio.get_running_loop().time()
        self._tally = self._tally.with_report(before, demand)
        self._report_changes(before or {}, demand)
        tenants = parse_tenants(document)
        if tenants != gateway.tenants:
            gateway.tenants = tenants
            self._on_tenants()

    def _on_repeat(self, uid: str) -> None:
        self._gateways[uid].received_at = asyncio.get_running_loop().time()

    def _report_changes(self, before: Demand, after: Demand) -> None:
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                self._on_change(key)
