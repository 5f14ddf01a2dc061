"""The reserve that services share: which service owns it, and which pods others may adopt.

Services of one namespace that set `sharedReserve`, and whose pods are interchangeable, have one
reserve. It is as large as the largest reserve among them, and its pods belong to the service that
asks for the largest one, the owner. The other services are claimants: they adopt pods of the
reserve instead of creating new ones. Nothing is remembered: the owner follows from the specs, and
the service of a pod from its labels.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from avatar_operator.core.autoscaling import schedules
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.autoscaling.observation import Share
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.gpus.pools import eligible
from avatar_operator.core.manifests.pod import hash_spec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.placement import Placement
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service, ServiceKey
    from avatar_operator.core.resources.state import PodState


@dataclass(frozen=True, slots=True)
class ReserveMember:
    """A service that shares its reserve."""

    key: ServiceKey
    uid: str
    kind: str
    """Equal for services whose pods are interchangeable."""
    policy: Autoscaling
    excluded: bool
    """Whether the service is paused or frozen: it then keeps only its own reserve."""

    @property
    def max_reserve(self) -> int:
        """The largest reserve of the policy and its schedules; it keeps the owner constant."""
        scheduled = (schedule.reserve or 0 for schedule in self.policy.schedules)
        return max([self.policy.reserve, *scheduled])


@dataclass(frozen=True, slots=True)
class ReserveGroup:
    """The shared reserve of a group of services at a time."""

    owner: ReserveMember
    pods: int
    """Size of the reserve."""
    until: float | None
    """Next change by a schedule, in seconds since 1970; None if there is none."""


@dataclass(frozen=True, slots=True)
class SharedReserve:
    """A shared reserve from the view of one of its services."""

    group: ReserveGroup
    pods: tuple[RuntimePod, ...] = ()
    """Pods of the reserve; empty for the owner itself."""
    states: Mapping[str, PodState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimablePod:
    """A pod of the reserve that may be adopted, and the pool that it counts for."""

    pod: RuntimePod
    pool: Pool


def as_member(service: Service) -> ReserveMember | None:
    """Return the service as a member of a shared reserve, None if it shares none."""
    policy = service.autoscaling
    if policy is None or not policy.shared_reserve:
        return None
    excluded = service.paused or policy.freeze
    return ReserveMember(service.key, service.uid, _kind(service), policy, excluded)


def form_group(own: ReserveMember, others: Iterable[ReserveMember], wall: float) -> ReserveGroup:
    """Return the group of a service and those others that it can share with.

    `wall` is in seconds since 1970.
    """
    fitting = (o for o in others if o.kind == own.kind and o.key.namespace == own.key.namespace)
    members = [own]
    if not own.excluded:
        members += [other for other in fitting if not other.excluded]
    effective = [schedules.resolve(each.policy, wall) for each in members]
    return ReserveGroup(
        owner=min(members, key=lambda each: (-each.max_reserve, each.key)),
        pods=max(each.policy.reserve for each in effective),
        until=min((each.until for each in effective if each.until is not None), default=None),
    )


def share(shared: SharedReserve, service: Service) -> Share:
    """Return the service's part in a shared reserve, for its scaling decision."""
    return Share(shared.group.pods, is_owner=shared.group.owner.uid == service.uid)


def claimable_pods(
    shared: SharedReserve,
    pools: Sequence[Pool],
    placement: Placement,
    spec_hash: str,
    usable: Collection[str],
) -> tuple[ClaimablePod, ...]:
    """Return the pods that a service may adopt, in the order of its GPU classes.

    A pod must be ready, empty according to a fresh state, and equal to a new pod of the service.
    `usable` are the names of the nodes that accept pods.
    """
    serving = eligible(pools, placement)
    idle = [
        pod
        for pod in sorted(shared.pods, key=lambda pod: pod.name)
        if pod.owner_uid == shared.group.owner.uid
        and pod.spec_hash == spec_hash
        and pod.node in usable
        and _is_idle(pod, shared.states.get(pod.uid))
    ]
    return tuple(ClaimablePod(pod, pool) for pool in serving for pod in idle if _fits(pod, pool))


def count_by_class(claimable: Iterable[ClaimablePod]) -> Mapping[str, int]:
    """Return the number of claimable pods of each GPU class."""
    return Counter(each.pool.gpu_class for each in claimable)


class ReserveGroups:
    """The services that share a reserve, by namespace; most namespaces have none."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, ReserveMember]] = {}

    def put(self, uid: str, namespace: str, member: ReserveMember | None) -> tuple[str, ...]:
        """Store a service (None: it shares nothing), and return the UIDs of affected services."""
        members = self._members.get(namespace, {})
        before = members.pop(uid, None)
        if member is not None:
            self._members.setdefault(namespace, members)[uid] = member
        elif not members:
            self._members.pop(namespace, None)
        if before == member:
            return ()
        kinds = {each.kind for each in (before, member) if each is not None}
        return tuple(
            other for other, each in members.items() if each.kind in kinds and other != uid
        )

    def group(self, uid: str, namespace: str, wall: float) -> ReserveGroup | None:
        """Return the group of a service, None if it shares no reserve.

        `wall` is in seconds since 1970.
        """
        members = self._members.get(namespace, {})
        own = members.get(uid)
        if own is None:
            return None
        return form_group(own, (other for other in members.values() if other is not own), wall)

    def claimants(self, uid: str, namespace: str) -> tuple[str, ...]:
        """Return the UIDs of the services that may adopt a pod of this one's reserve."""
        members = self._members.get(namespace, {})
        own = members.get(uid)
        return tuple(u for u, each in members.items() if own and u != uid and each.kind == own.kind)


def _kind(service: Service) -> str:
    """Return a hash of everything that determines a pod and the nodes that it may run on.

    The GPU class is left out, because it is compared pod by pod. The default image is left out,
    because it is the same for all services.
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


def _fits(pod: RuntimePod, pool: Pool) -> bool:
    """Return whether a pod is equal to a new pod of the pool."""
    assert isinstance(pool.outcome, batch_size.BatchPlan)
    plan = pool.outcome
    return (pod.gpu_class, pod.batch_size, pod.sessions_per_pod) == (
        pool.gpu_class,
        plan.batch_size,
        plan.sessions_per_pod,
    )
