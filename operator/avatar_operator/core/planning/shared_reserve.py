"""Decides who keeps a reserve that services share, and which of its pods another one takes over.

Services of one namespace that set `sharedReserve`, and whose pods could stand in
for each other, have one reserve: as large as the largest that one of them asks
for, and kept by that one. The others take its pods over where they would create
some. Nothing is remembered: who keeps it follows from the specs, and whose a pod
is from its labels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from avatar_operator.core.autoscaling import scaling, schedules
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.resources.service import Placement, Service, ServiceKey, WhenFull

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState


@dataclass(frozen=True, slots=True)
class Member:
    """A service that shares its reserve."""

    key: ServiceKey
    uid: str
    kind: str  # equal where the pods could stand in for each other
    policy: Autoscaling
    apart: bool  # paused or frozen: it neither keeps for others nor takes

    @property
    def asks(self) -> int:
        """The largest reserve that it ever asks for, so that the keeper stays the same all day."""
        scheduled = (schedule.reserve or 0 for schedule in self.policy.schedules)
        return max([self.policy.reserve, *scheduled])


@dataclass(frozen=True, slots=True)
class Group:
    """The reserve of services that share one, as it is wanted at a moment."""

    keeper: Member
    pods: int
    until: float | None  # seconds since 1970 of the next change by a schedule, None: there is none


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared reserve as one of its services sees it."""

    group: Group
    pods: tuple[RuntimePod, ...] = ()  # of the reserve; none for the keeper itself
    states: Mapping[str, PodState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loan:
    """A pod of the reserve that may be taken over, as one of a pool."""

    pod: RuntimePod
    pool: Pool


def member(service: Service) -> Member | None:
    """Return a service as one that shares its reserve, None if it does not."""
    policy = service.autoscaling
    if policy is None or not policy.shared_reserve:
        return None
    apart = service.paused or policy.freeze
    return Member(service.key, service.uid, _kind(service), policy, apart)


def group(own: Member, others: Iterable[Member], wall: float) -> Group:
    """Return the reserve that a service has with those others that it can share with.

    `wall` is in seconds since 1970.
    """
    fitting = (o for o in others if o.kind == own.kind and o.key.namespace == own.key.namespace)
    members = [own] if own.apart else [own, *(other for other in fitting if not other.apart)]
    now = [schedules.in_force(each.policy, wall) for each in members]
    return Group(
        keeper=min(members, key=lambda each: (-each.asks, each.key)),
        pods=max(each.policy.reserve for each in now),
        until=min((each.until for each in now if each.until is not None), default=None),
    )


def share(shared: Shared, service: Service) -> scaling.Share:
    """Return what a service's own number of pods has to do with a shared reserve."""
    return scaling.Share(shared.group.pods, keeps=shared.group.keeper.uid == service.uid)


def loans(
    shared: Shared,
    pools: Sequence[Pool],
    placement: Placement,
    spec_hash: str,
    usable: Collection[str],
) -> tuple[Loan, ...]:
    """Return the pods that a service may take over, those of the class to fill first in front.

    Only pods that are loaded, empty by their own fresh word, and just as the
    service's own would be. `usable` are the names of nodes that take pods.
    """
    serving = [pool for pool in pools if pool.serves]
    if placement.when_full is WhenFull.WAIT:
        serving = serving[:1]
    idle = [
        pod
        for pod in sorted(shared.pods, key=lambda pod: pod.name)
        if pod.owner_uid == shared.group.keeper.uid
        and pod.spec_hash == spec_hash
        and pod.node in usable
        and _is_idle(pod, shared.states.get(pod.uid))
    ]
    return tuple(Loan(pod, pool) for pool in serving for pod in idle if _is_one_of(pod, pool))


class Circles:
    """The services that share a reserve, by namespace: most namespaces have none."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, Member]] = {}

    def put(self, uid: str, namespace: str, now: Member | None) -> tuple[str, ...]:
        """Take in a service as it is now (None: it shares nothing), and return whom it concerns."""
        circle = self._members.get(namespace, {})
        before = circle.pop(uid, None)
        if now is not None:
            self._members.setdefault(namespace, circle)[uid] = now
        elif not circle:
            self._members.pop(namespace, None)
        if before == now:
            return ()
        kinds = {each.kind for each in (before, now) if each is not None}
        return tuple(other for other, each in circle.items() if each.kind in kinds and other != uid)

    def group(self, uid: str, namespace: str, wall: float) -> Group | None:
        """Return the reserve that a service shares, None if it shares none."""
        circle = self._members.get(namespace, {})
        own = circle.get(uid)
        if own is None:
            return None
        return group(own, (other for other in circle.values() if other is not own), wall)

    def takers(self, uid: str, namespace: str) -> tuple[str, ...]:
        """Return the UIDs of the services that may take over a pod of this one's reserve."""
        circle = self._members.get(namespace, {})
        own = circle.get(uid)
        return tuple(u for u, each in circle.items() if own and u != uid and each.kind == own.kind)


def _kind(service: Service) -> str:
    """Name what makes a pod what it is, and the nodes that it may be on.

    The GPU class is left out: it is compared pod by pod. So is the image of a
    service that names none: it is the same for all of them.
    """
    placement = service.placement
    tolerations = [asdict(each) for each in placement.tolerations]
    parts = (hash_spec(service, ""), placement.node_selector, tolerations)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _is_idle(pod: RuntimePod, state: PodState | None) -> bool:
    return (
        pod.reserve
        and pod.ready
        and not (pod.terminating or pod.ended or pod.drain_asked)
        and state is not None
        and state.age_s < STALE_S
        and state.ready
        and not (state.sessions or state.draining)
    )


def _is_one_of(pod: RuntimePod, pool: Pool) -> bool:
    """Return whether a pod is just as a new one of the pool would be."""
    assert isinstance(pool.outcome, batch_size.BatchPlan)
    plan = pool.outcome
    return (pod.gpu_class, pod.batch_size, pod.sessions_per_pod) == (
        pool.gpu_class,
        plan.batch_size,
        plan.sessions_per_pod,
    )
