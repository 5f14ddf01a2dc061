"""Writes the status of every AvatarTenant, and the Events about changes of its conditions.

It runs when gateways report other figures, when pods of tenants or tenants change, and when this
replica starts to lead. A status is written only if it differs from the last one; figures alone
are written at most once in `NUMBERS_S` for each tenant.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from avatar_operator.controllers import events
from avatar_operator.controllers.status_loop import StatusLoop
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.claims import read_claim
from avatar_operator.core.manifests.objects import TenantReference
from avatar_operator.core.status import tenant_events, tenant_status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_operator.controllers.claims import Claims
    from avatar_operator.controllers.tenant_quotas import TenantQuotas
    from avatar_operator.core.cache.entries import TenantBody
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.status.service_status import Notice
    from avatar_operator.kube import client
    from avatar_operator.streams.gateways import GatewayStates

DUTY: Final = 10  # a long check is followed by a pause of this many times its duration
NUMBERS_S: Final = 5.0  # between two writes of figures of one tenant
YIELD_EVERY: Final = 50  # tenants between two yields to the event loop

_log = logging.getLogger(__name__)


class TenantController:
    """Writes the status of AvatarTenants."""

    def __init__(
        self,
        api: client.KubernetesClient,
        store: Store,
        gateways: GatewayStates,
        quotas: TenantQuotas,
        leads: Callable[[], bool],
        claims: Claims,
        observe: Callable[[Kind, Body], object],
    ) -> None:
        """Responses of the API server go to `observe`."""
        self._api = api
        self._store = store
        self._gateways = gateways
        self._quotas = quotas
        self._claims = claims
        self._observe = observe
        self._written_at: dict[str, float] = {}  # by UID of the tenant
        self._histories: dict[str, tenant_events.EventHistory] = {}  # by UID of the tenant
        self._loop = StatusLoop("tenant", self._check_all, leads, claims, DUTY)

    def wake(self) -> None:
        """Check all tenants: a tenant, its use or the leadership changed."""
        self._loop.wake()

    async def run(self) -> None:
        """Write each status that changed, until cancelled."""
        await self._loop.run()

    async def _check_all(self) -> None:
        bodies = tuple(self._store.tenants.bodies.values())
        self._written_at = {
            body.uid: self._written_at[body.uid] for body in bodies if body.uid in self._written_at
        }
        uids = {body.uid for body in bodies}
        self._histories = {uid: each for uid, each in self._histories.items() if uid in uids}
        self._loop.keep(uids)
        for number, body in enumerate(bodies):
            if not number % YIELD_EVERY:
                await asyncio.sleep(0)
            if self._loop.may_start(body.uid):
                self._check(body)

    def _check(self, body: TenantBody) -> None:
        loop, now = asyncio.get_running_loop(), time.time()
        tenant = self._store.tenants.get(body.name)
        if body.fault or tenant is None:
            status = tenant_status.build_invalid(body.fault, body.generation, body.status, now)
        else:
            use = self._use(body.name)
            status = tenant_status.build(tenant, use, body.generation, body.status, now)
        holder = read_claim(body.status)
        if {**status, "operator": holder} == {**body.status, "operator": holder}:
            if holder == self._claims.own and (notices := self._notices(body, status, now)):
                self._loop.start(body.uid, self._post(body, notices, now))
            return
        if not tenant_status.is_urgent(body.status, status):
            wait_s = self._written_at.get(body.uid, float("-inf")) + NUMBERS_S - loop.time()
            if wait_s > 0:
                self._loop.wake_after(wait_s)
                return
        self._loop.start(body.uid, self._write(body, status, now))

    async def _write(self, body: TenantBody, status: Body, now: float) -> None:
        send = partial(self._api.apply_tenant_status, body.name, body.uid, body.version)
        response = await self._loop.apply(body.name, body.status, status, send)
        if response is None:
            return
        self._written_at[body.uid] = asyncio.get_running_loop().time()
        self._observe(Kind.TENANTS, response)
        await self._post(body, self._notices(body, status, now), now)

    def _notices(self, body: TenantBody, status: Body, now: float) -> Sequence[Notice]:
        """Return the Events of a status that is written: those of a change, and those held back."""
        history = self._histories.get(body.uid, tenant_events.EventHistory())
        decision = tenant_events.decide(body.status, status, history, now)
        self._histories[body.uid] = decision.history
        if decision.wait_s is not None:
            self._loop.wake_after(decision.wait_s)
        return decision.notices

    async def _post(self, body: TenantBody, notices: Sequence[Notice], now: float) -> None:
        await events.emit(self._api, TenantReference(body.name, body.uid), notices, now)

    def _use(self, name: str) -> tenant_status.TenantUse:
        use = self._quotas.use(name)
        return tenant_status.TenantUse(
            reports=self._gateways.tenant(name),
            know_each_other=self._gateways.know_each_other(),
            usable=len(self._store.tenants.usable(name)),
            owned=len(self._store.tenants.owned(name)),
            gpus=use.gpus,
            cost=use.cost if self._store.class_costs() else None,
            limited=use.limited,
        )
