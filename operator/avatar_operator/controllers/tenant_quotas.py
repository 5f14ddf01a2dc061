"""Keeps what each service of a tenant wants, and tells each plan what its tenant's quota allows.

The share of a service is computed when it is planned, from the pods that exist at that moment. When
a wish or a number of pods changes, the services of the tenant whose share changed are reconciled.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_operator.core.planning import quotas
from avatar_operator.core.planning.quotas import Member, TenantTerms
from avatar_operator.core.planning.sharing.gpu_cells import is_removable
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from avatar_operator.controllers.triggers import Triggers
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.planning.quota_wishes import Wish
    from avatar_operator.core.planning.quotas import QuotaShare
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState
    from avatar_operator.core.resources.tenant import Tenant

COLLECT_S: Final = 0.2  # tenants that are applied together are handled together
SHARE_S: Final = 0.02  # before a service with a new share is reconciled


class Use(NamedTuple):
    """What the services that belong to a tenant hold and lack."""

    gpus: int
    cost: Decimal
    limited: tuple[ServiceKey, ...]
    """The services that want more than the quota allows."""


class _Stated(NamedTuple):
    tenant: str
    wish: Wish
    held: int
    limited: bool
    """Whether the quota kept the service from a pod."""


class TenantQuotas:
    """The wishes of all services that belong to tenants."""

    def __init__(
        self,
        store: Store,
        triggers: Triggers,
        states: Callable[[Iterable[str]], Mapping[str, PodState]],
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is called when the use of a tenant may have changed."""
        self._store = store
        self._triggers = triggers
        self._states = states
        self._on_change = on_change
        self._stated: dict[str, _Stated] = {}  # by UID of the service
        self._shares: dict[str, int] = {}  # pods that each service may have, by its UID
        self._owners: dict[str, Tenant] = {}  # as the services were told, by UID
        self._left: dict[str, tuple[str, int]] = {}  # tenant and pods of deleted services
        self._pending: asyncio.TimerHandle | None = None

    def begin_term(self) -> None:
        """Forget the wishes: another replica may have led."""
        self._stated.clear()
        self._shares.clear()

    def on_tenants(self) -> None:
        """Reconcile the services whose tenant changed, a moment later."""
        if self._pending is None:
            loop = asyncio.get_running_loop()
            self._pending = loop.call_later(COLLECT_S, self._compare_owners)

    def terms(self, uid: str, reserve_owner: str | None = None) -> TenantTerms | None:
        """Return the terms of the tenant that a service belongs to, None if it belongs to none.

        `reserve_owner` is the UID of the service that owns the shared reserve.
        """
        tenant = self._store.tenants.owner(uid)
        if tenant is None:
            return None
        share = None
        if tenant.quota:
            members = self._members(tenant)
            share = self._share(uid, members, tenant)
            self._shares[uid] = share.pods
        owner = None if reserve_owner is None else self._store.tenants.owner(reserve_owner)
        return TenantTerms(
            name=tenant.name,
            weight=tenant.weight,
            priority=tenant.priority,
            gpu_classes=tenant.gpu_classes,
            share=share,
            owns_reserve=owner is not None and owner.name == tenant.name,
            most_sessions=self._most_sessions(uid, tenant),
        )

    def record(self, uid: str, terms: TenantTerms | None, wish: Wish, *, limited: bool) -> None:
        """Record what a service wants after a plan, and reconcile others whose share changed."""
        if terms is None:
            self.record_none(uid)
            return
        stated = _Stated(terms.name, wish, len(self._costs(uid)), limited)
        if self._stated.get(uid) != stated:
            self._stated[uid] = stated
            self._trigger_members(terms.name)

    def record_none(self, uid: str) -> None:
        """Record that a service wants nothing, because it is invalid, deleted or of no tenant.

        It is also called when pods of a deleted service change: they count until they are gone.
        """
        known = self._stated.pop(uid, None)
        self._shares.pop(uid, None)
        pods = self._store.pods_left(uid)
        before = self._left.pop(uid, None)
        left = (self._user_of(pods), len(pods)) if pods else None
        if left is not None:
            self._left[uid] = left
        changed = {each[0] for each in (before, left) if each is not None and before != left}
        for name in sorted((changed | {known.tenant} if known is not None else changed) - {""}):
            self._trigger_members(name)

    def _user_of(self, pods: Sequence[RuntimePod]) -> str:
        """Return the tenant for which pods of a deleted service count; empty if there is none.

        The labels of a deleted service are not known: its pods count for a tenant that alone may
        use the services of the namespace.
        """
        tenant = self._store.tenants.only_user(pods[0].namespace)
        return "" if tenant is None else tenant.name

    def use(self, name: str) -> Use:
        """Return what the services that belong to a tenant hold and lack."""
        owned = self._store.tenants.owned(name)
        costs = [cost for uid in owned for cost in self._costs(uid)]
        costs += [cost for each in self._members_left(name).values() for cost in each.costs]
        limited = (uid for uid in owned if uid in self._stated and self._stated[uid].limited)
        keys = tuple(self._store.tenants.key(uid) for uid in limited)
        return Use(len(costs), sum(costs, Decimal(0)), keys)

    def _compare_owners(self) -> None:
        self._pending = None
        owners = dict(self._store.tenants.owned_services())
        for uid in owners.keys() | self._owners.keys():
            if owners.get(uid) != self._owners.get(uid):
                self._triggers.trigger(uid, SHARE_S)
        self._owners = owners

    def _trigger_members(self, name: str) -> None:
        """Reconcile the services of a tenant whose share is not the one that they planned with."""
        self._on_change()
        tenant = self._store.tenants.get(name)
        if tenant is None or not tenant.quota:
            return
        members = self._members(tenant)
        division = quotas.divide(list(members.values()), tenant.quota)
        for index, (uid, member) in enumerate(members.items()):
            most = division.most(index, member)
            if self._shares.get(uid, most) != most or self._may_add(uid, members):
                self._triggers.trigger(uid, SHARE_S)

    def _may_add(self, uid: str, members: Mapping[str, Member]) -> bool:
        """Return whether a service that the quota limits may add a pod now."""
        stated = self._stated.get(uid)
        if stated is None or not stated.limited:
            return False
        tenant = self._store.tenants.get(stated.tenant)
        if tenant is None:
            return False
        share = self._share(uid, members, tenant)
        price = members[uid].next_cost
        affordable = share.cost_left is None or (price is not None and price <= share.cost_left)
        return share.new > 0 and affordable and share.pods > len(members[uid].costs)

    def _most_sessions(self, uid: str, tenant: Tenant) -> int | None:
        others = () if tenant.limits.sessions is None else self._store.tenants.owned(tenant.name)
        pods = [pod.uid for each in others if each != uid for pod in self._store.live_pods(each)]
        elsewhere = sum(state.sessions for state in self._states(pods).values())
        return quotas.most_sessions(tenant.limits, elsewhere)

    @staticmethod
    def _share(uid: str, members: Mapping[str, Member], tenant: Tenant) -> QuotaShare:
        return quotas.share_of(list(members).index(uid), list(members.values()), tenant.quota)

    def _members(self, tenant: Tenant) -> dict[str, Member]:
        owned = {uid: self._member(uid) for uid in self._store.tenants.owned(tenant.name)}
        return {**owned, **self._members_left(tenant.name)}

    def _members_left(self, name: str) -> dict[str, Member]:
        """Return the deleted services of a tenant whose pods are still there, and stay so."""
        found, prices = {}, self._store.class_costs()
        for uid in self._store.pods.owners():
            pods = self._store.pods_left(uid)
            if pods and self._user_of(pods) == name:
                costs = tuple(prices.get(pod.gpu_class, Decimal(0)) for pod in pods)
                key = ServiceKey(pods[0].namespace, pods[0].service)
                found[uid] = Member(key, len(pods), costs, locked=len(pods))
        return found

    def _member(self, uid: str) -> Member:
        stated = self._stated.get(uid)
        costs = self._costs(uid)
        pods = self._store.live_pods(uid)
        states = self._states(pod.uid for pod in pods)
        free = [pod for pod in pods if is_removable(pod, states)]
        prices = self._store.class_costs()
        removable = sorted(prices.get(pod.gpu_class, Decimal(0)) for pod in free)
        locked = list(costs)
        for price in removable:
            locked.remove(price)
        key = self._store.tenants.key(uid)
        if stated is None:  # not planned in this term: it keeps what it has, or gets a pod
            return Member(key, max(1, len(costs)), (*locked, *removable), len(locked))
        wish = stated.wish
        return Member(
            key=key,
            wanted=wish.wanted,
            costs=(*locked, *removable),
            locked=len(locked),
            minimum=wish.minimum,
            weight=wish.weight,
            created=wish.created,
            next_cost=wish.next_cost,
        )

    def _costs(self, uid: str) -> list[Decimal]:
        """Return the cost of each pod of a service, those about to be created included."""
        prices = self._store.class_costs()
        classes = [pod.gpu_class for pod in self._store.live_pods(uid)]
        classes += self._store.planned_classes(self._store.tenants.key(uid))
        return [prices.get(gpu_class, Decimal(0)) for gpu_class in classes]
