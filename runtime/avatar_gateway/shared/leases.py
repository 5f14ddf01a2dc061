"""The leases of the sessions of this gateway.

The shared state decides while it answers. While it is away, this gateway stays within its share:
what it had, and an equal part of what was left (`core.leases.share`). When the state is back, the
gateway adds its leases again, and stays within its share until the others had time to do so, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from avatar_gateway import errors
from avatar_gateway.core import leases as core
from avatar_gateway.core.leases import Lease, LeaseTable, QuotaExceeded, Usage
from avatar_gateway.core.tenants import TenantLimits
from avatar_gateway.shared.state import Finished, Overview

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_contracts.state import SharedStateName
    from avatar_gateway.core.tenants import Tenant
    from avatar_gateway.shared.state import SharedState

_log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 2.0
"""How often leases are renewed and the overview is read."""
GRACE_S: Final = 8.0
"""How long a gateway stays within its share after the shared state is back.

Every gateway probes it at least every 5 s, and adds its leases within some seconds then.
"""
MAX_BOUND: Final = 32
"""Leases that are named in one round trip."""
MAX_FINISHED: Final = 10_000
"""Ended leases that are remembered while the shared state is away; the others expire."""


REFUSED_S: Final = 30.0
"""How long the state document names a limit after it has refused a session."""
MAX_REFUSED: Final = 5000
"""Tenants whose last refusal is remembered."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was known at one time. Counts of different times would add up to more than a limit."""

    own: Mapping[str, Usage] = field(default_factory=dict)
    """What this gateway had."""
    overview: Overview = field(default_factory=Overview)
    """What all gateways had."""
    at_loss: Mapping[str, Usage] = field(default_factory=dict)
    """What this gateway had when it lost the shared state after that."""


@dataclass(slots=True, eq=False)
class HeldLease:
    """The lease of one connection. No method waits for the shared state."""

    lease: Lease
    leases: Leases
    session_id: str = ""
    """The name that the lease is about to get."""
    is_direct: bool = False
    """Whether a pod reports its session, so that every gateway renews the lease."""

    def bind(self, session_id: str | None) -> None:
        """Name the lease by its session, so that another gateway can take it over."""
        if session_id:
            self.session_id = session_id
            self.leases.bind(self)

    def release(self) -> None:
        """Give the lease up. Nothing happens if it was released or suspended before."""
        self.leases.finish(self, is_suspended=False)

    def suspend(self) -> None:
        """Keep the lease for as long as a pod waits for the caller to come back."""
        self.leases.finish(self, is_suspended=True)


class Leases:
    """Acquires, renews and gives up leases in the shared state, and counts its own ones."""

    def __init__(self, state: SharedState, gateway: str, now: Callable[[], float]) -> None:
        """`gateway` is unique for each process; `now` returns seconds on a monotonic clock."""
        self.state = state
        self.waiting: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        """Returns the callers that wait here, by tenant and service, for the other gateways."""
        self._gateway = gateway
        self._now = now
        self._held: dict[str, HeldLease] = {}
        self._own = LeaseTable()
        self._asking: dict[str, Lease] = {}
        """Leases that are counted here and that the shared state has not granted yet."""
        self._unbound: list[HeldLease] = []
        self._finished: list[tuple[HeldLease, bool]] = []
        self._refused: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._known = _Known()
        self._alone: _Known | None = None
        self._alone_until = 0.0
        self._in_turn = asyncio.Lock()
        self._wake = asyncio.Event()

    @property
    def overview(self) -> Overview:
        """Return what all gateways had when that was read last."""
        return self._known.overview

    @property
    def is_alone(self) -> bool:
        """Return whether this gateway stays within its share."""
        return self._alone is not None and self._now() < self._alone_until

    def usage(self, tenant: str) -> Usage:
        """Return what this gateway has of a tenant; sessions whose caller is away count."""
        return self._own.usage(tenant, self._now_ms())

    @property
    def state_name(self) -> SharedStateName:
        """Return whether the gateways count together: a server that refuses to is unavailable."""
        is_away = self._alone is not None and self._alone_until == float("inf")
        return "unavailable" if is_away else self.state.name

    async def acquire(self, tenant: Tenant, service: str) -> HeldLease:
        """Count a new session of a tenant.

        Raises:
            Rejection: a limit of the tenant is reached, or its use is not known.
        """
        held = self._new(secrets.token_hex(12), tenant.name, service)
        await self._grant(held, tenant)
        self._held[held.lease.owner] = held
        return held

    async def offer(self, tenant: Tenant, service: str, record: str) -> HeldLease:
        """Count a session that its client opens at a pod itself; `record` is unique.

        The lease expires unless the pod reports the session (`adopt`); `withdraw` ends it before.

        Raises:
            Rejection: a limit of the tenant is reached, or its use is not known.
        """
        held = HeldLease(Lease(record, tenant.name, service, record), self, is_direct=True)
        await self._grant(held, tenant)
        return held

    def withdraw(self, held: HeldLease) -> None:
        """Give up a lease that `offer` has granted, because nobody gets its session."""
        self._undo(held)

    def adopt(self, tenant: str, service: str, record: str, session_id: str) -> HeldLease:
        """Renew the lease of an offered session that a pod has.

        All gateways that hear the pod do that. The lease has the name of the session then, as that
        of a session that a gateway carries, so that a client that resumes it is not counted twice.
        """
        offered = Lease(record, tenant, service, record)
        held = HeldLease(replace(offered, id=session_id), self, session_id, is_direct=True)
        self._held[record] = held
        self.bind(HeldLease(offered, self, session_id, is_direct=True))
        return held

    def forget(self, held: HeldLease) -> None:
        """Renew a lease no more, so that it expires if no other gateway does."""
        self._held.pop(held.lease.owner, None)

    async def _grant(self, held: HeldLease, tenant: Tenant) -> None:
        try:
            refusal = await self._acquire(held.lease, tenant.limits)
            if refusal is not None and (self._finished or self._in_turn.locked()):
                # What ended here a moment ago still counts there.
                await self._report_changes()
                refusal = await self._acquire(held.lease, tenant.limits)
        except BaseException:
            self._undo(held)
            raise
        if refusal is not None:
            if self._alone is not None:  # a call without an answer may have granted it
                self._finished.append((held, False))
            self._own.release(held.lease, self._now_ms())
            self._note_refusal(tenant.name, refusal.which)
            raise _rejection(refusal, is_alone=self.is_alone)

    def limited_by(self, tenant: str) -> str:
        """Return the limit that refused a session in the last seconds; empty if none did."""
        which, at = self._refused.get(tenant, ("", 0.0))
        return which if which and self._now() - at < REFUSED_S else ""

    def seconds_this_month(self, tenant: str) -> int:
        """Return the time of sessions at all gateways in this calendar month (UTC)."""
        return self.overview.tenants.get(tenant, Usage()).month_ms // 1000

    async def take_over(self, tenant: Tenant, service: str, session_id: str) -> HeldLease:
        """Count the connection of a session that a pod has already; no limit refuses it."""
        held = self._new(session_id, tenant.name, service)
        self._own.take_over(held.lease, self._now_ms())
        try:
            await self.state.take_over(held.lease)
        except errors.SharedStateUnavailable as error:
            self._lose(error)  # `report` adds it when the state is back
        except BaseException:
            self._undo(held)
            raise
        self._held[held.lease.owner] = held
        return held

    def bind(self, held: HeldLease) -> None:
        """Let `run` name a lease by its session."""
        self._unbound.append(held)
        self._wake.set()

    def finish(self, held: HeldLease, *, is_suspended: bool) -> None:
        """Let `run` give up a lease; only the first call for a connection has an effect."""
        if self._held.pop(held.lease.owner, None) is None:
            return
        end = self._own.suspend if is_suspended else self._own.release
        end(held.lease, self._now_ms())
        self._finished.append((held, is_suspended))
        self._wake.set()

    async def run(self) -> None:
        """Report to the shared state until cancelled: at once what changes, the rest regularly."""
        next_at = self._now()
        while True:
            is_due = self._now() >= next_at
            if is_due:
                next_at = self._now() + HEARTBEAT_S
            self._wake.clear()
            try:
                await (self.report() if is_due else self._report_changes())
            except Exception:
                # Whatever the server answers, the sessions of this gateway go on.
                _log.exception("leases not reported")
                await asyncio.sleep(HEARTBEAT_S)
            timeout_s = max(0.0, next_at - self._now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()

    async def report(self) -> None:
        """Report everything and read the overview. What fails is noted, and done the next time."""
        async with self._in_turn:
            try:
                await self._exchange(renews=True)
                overview = await self.state.overview(self._gateway, self.waiting())
                own = self._count_own()  # after that: what the overview counts is not new
            except errors.SharedStateUnavailable as error:
                self._lose(error)
                return
        if overview.data_id and self._known.overview.data_id not in ("", overview.data_id):
            self._lose(errors.SharedStateUnavailable("it has lost its data"))
        self._known = _Known(own, overview)
        before = self._alone
        if before is None:
            return
        if before.overview.data_id == overview.data_id != "":
            self._alone = None  # the server has kept its data, and has all leases of this gateway
        elif self._alone_until == float("inf"):
            self._alone_until = self._now() + GRACE_S
        elif not self.is_alone:
            self._alone = None
        if self._alone is None:
            _log.info("sessions of all gateways count together again")

    async def _report_changes(self) -> None:
        """Name and give up leases. What fails is repeated when the state is back."""
        async with self._in_turn:
            try:
                await self._exchange(renews=self._alone is not None)
            except errors.SharedStateUnavailable as error:
                self._lose(error)

    async def _exchange(self, *, renews: bool) -> None:
        """Report leases; what was granted while the state was away comes before what ended then."""
        await self._bind_all()
        if renews:
            leases = [each.lease for each in self._held.values()]
            await self.state.renew(leases)
            now_ms, held = self._now_ms(), list(self._held.values())
            self._own.renew((each.lease for each in held if not each.is_direct), now_ms)
            # Only the gateway that has offered a direct session counts it as its own.
            self._own.extend((each.lease for each in held if each.is_direct), now_ms)
        finished, self._finished = self._finished, []
        try:
            await self.state.finish([Finished(held.lease, away) for held, away in finished])
        except BaseException:
            self._finished = [*finished, *self._finished][-MAX_FINISHED:]
            raise

    async def _bind_all(self) -> None:
        while self._unbound:
            # In one round trip; a connection whose session gets another name has the latest one.
            some = list(dict.fromkeys(self._unbound))[:MAX_BOUND]
            names = [each.session_id for each in some]
            found = await asyncio.gather(
                *(self.state.bind(each.lease, each.session_id) for each in some),
                return_exceptions=True,
            )
            for held, name, bound in zip(some, names, found, strict=True):
                if isinstance(bound, BaseException):
                    raise bound
                if bound:
                    self._own.bind(held.lease, name, self._now_ms())
                    held.lease = replace(held.lease, id=name)
                if held.session_id == name:
                    self._unbound = [each for each in self._unbound if each is not held]

    async def _acquire(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """Ask the shared state, and the share of this gateway while it is alone."""
        refusal = self._acquire_alone(lease, limits)
        if refusal is not None:
            return refusal
        self._asking[lease.owner] = lease
        try:
            return await self.state.acquire(lease, limits)
        except errors.SharedStateUnavailable as error:
            self._lose(error)
            self._own.release(lease, self._now_ms())
            return self._acquire_alone(lease, limits)
        finally:
            self._asking.pop(lease.owner, None)

    def _acquire_alone(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """Count a lease of this gateway; its limit is the share, or none if it is not alone."""
        month_ms, mine = 0, TenantLimits()
        if self._alone is not None and self.is_alone:
            known, name = self._alone, lease.tenant
            total = known.overview.tenants.get(name, Usage())
            own, replicas = known.own.get(name, Usage()), known.overview.replicas
            month_ms = total.month_ms
            at_loss = known.at_loss.get(name, Usage())
            mine = core.limits_alone(limits, own, total, lease.service, replicas, at_loss)
        return self._own.acquire(lease, mine, month_ms, self._now_ms())

    def _note_refusal(self, tenant: str, which: str) -> None:
        self._refused[tenant] = which, self._now()
        self._refused.move_to_end(tenant)
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def _lose(self, error: errors.SharedStateUnavailable) -> None:
        """Note what is known, at the first failure; a later one makes the time alone longer."""
        self._alone_until = float("inf")
        if self._alone is not None:
            return
        self._alone = replace(self._known, at_loss=self._count_own())
        _log.warning("shared state away, sessions stay within the last known share: %s", error)

    def _count_own(self) -> Mapping[str, Usage]:
        """Return what this gateway has, without the leases that may still be refused."""
        now_ms = self._now_ms()
        found = {name: self._own.usage(name, now_ms) for name in self._own.tenants(now_ms)}
        for lease in self._asking.values():
            if (usage := found.get(lease.tenant)) is not None:
                found[lease.tenant] = core.without_one(usage, lease.service)
        return found

    def _new(self, lease_id: str, tenant: str, service: str) -> HeldLease:
        return HeldLease(Lease(lease_id, tenant, service, secrets.token_hex(8)), self)

    def _undo(self, held: HeldLease) -> None:
        """Give up what may have been granted: whether it was is not known."""
        self._held[held.lease.owner] = held
        self.finish(held, is_suspended=False)

    def _now_ms(self) -> float:
        return self._now() * 1000


def _rejection(refusal: QuotaExceeded, *, is_alone: bool) -> errors.Rejection:
    name, used, limit = refusal.which, refusal.used, refusal.limit
    text = f"the tenant uses {used} of limits.{name}, {limit}"
    if is_alone:
        text = (
            f"this gateway uses {used} of its share of limits.{name}, {limit}, while the shared "
            "state is unavailable"
        )
    return errors.Rejection("quota_exceeded", text, param=name, value=used, limit=limit)
