"""Decides how many pods to add, and where they come from: a shared reserve or a GPU class."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_contracts.backoff import doubled
from avatar_operator import names as names_of
from avatar_operator.core.gpus.placement import assign_classes
from avatar_operator.core.gpus.pools import eligible, total_cost
from avatar_operator.core.planning import rollout
from avatar_operator.core.planning.actions import AdoptPod, CreatePod
from avatar_operator.core.planning.scale_down import KEPT_FAILURES
from avatar_operator.core.resources.placement import Placement, WhenFull
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.attempts import Allowance
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.planning.shared_reserve import ClaimablePod
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState

BACK_OFF_S: Final = 5.0
"""Base of the back-off: the second failure in a row waits twice this, each further one doubles."""


class NewPods(NamedTuple):
    """Where the missing pods come from."""

    adopted: tuple[ClaimablePod, ...] = ()
    chosen: tuple[Pool, ...] = ()
    """The GPU class of each pod to create."""
    missing: int = 0
    """Pods for which no GPU was found."""
    held: int = 0
    """Pods that would not use a GPU yet, because the spec failed or is not proven."""
    closed: frozenset[str] = frozenset()
    """Classes that are not tried now, because they rejected a pod of the spec."""
    over_quota: int = 0
    """Pods that the quota of the tenant does not allow."""


def count_missing(
    fleet: Fleet, desired: int, states: Mapping[str, PodState], *, halted: bool
) -> int:
    """Return how many pods to add: those that are missing, and the surge during a rollout."""
    serving = sum(
        pod.ready and not (pod.uid in states and states[pod.uid].draining) for pod in fleet.outdated
    )
    maximum = desired + (0 if halted or not serving else rollout.surge(desired))
    return max(0, min(desired, maximum - serving) - len(fleet.current))


def back_off_s(fleet: Fleet, spec_hash: str, now: float) -> float:
    """Return how many seconds to wait before pods that failed repeatedly are replaced."""
    failures = [pod.failed_at or 0.0 for pod in fleet.ended if pod.spec_hash == spec_hash]
    if len(failures) < 2:
        return 0.0
    wait_s = doubled(BACK_OFF_S, inf, min(len(failures), KEPT_FAILURES))
    return max(0.0, max(failures) + wait_s - now)


def place(
    service: Service,
    fleet: Fleet,
    pools: Sequence[Pool],
    adopted: tuple[ClaimablePod, ...],
    count: int,
    spec_hash: str,
    allowed: Allowance,
) -> NewPods:
    """Choose the GPU classes of `count` pods to create, as far as they are allowed.

    Pods that the maximum cost does not allow are left out, but are not `missing`: a free GPU
    would not bring them.
    """
    existing = fleet.current + tuple(each.pod for each in adopted)
    placement = _effective_placement(service, fleet, spec_hash)
    serving = eligible(pools, placement)
    closed = bool(serving) and all(pool.gpu_class in allowed.closed for pool in serving)
    chosen = assign_classes(allowed.pools, min(count, allowed.count), placement, existing)
    missing = 0 if closed else min(count, allowed.count) - len(chosen)
    held = count - missing - len(chosen)
    paid = _within_max_cost(service, fleet, pools, [*(each.pool for each in adopted), *chosen])
    chosen = tuple(compress(chosen, paid[len(adopted) :]))
    return NewPods(tuple(compress(adopted, paid)), chosen, missing, held, allowed.closed)


def creations(
    service: Service, fleet: Fleet, new: NewPods, spec_hash: str, used_names: Collection[str]
) -> tuple[CreatePod, ...]:
    """Return one action for each pod to create; `used_names` are names of existing pods."""
    names = set(used_names)
    existing = len(fleet.current) + len(new.adopted)
    because = Reason.SCALING_UP
    if fleet.outdated:
        because = Reason.ROLLING_OUT
    elif fleet.ended or fleet.lost:
        because = Reason.REPLACING
    created: list[CreatePod] = []
    for pool in new.chosen:
        name = _free_name(service.key.name, spec_hash, names)
        names.add(name)
        free = pool.stock.free - sum(other.gpu_class == pool.gpu_class for other in created)
        reason = f"{existing + len(created)} of {existing + len(new.chosen)} pods "
        reason += f"exist, {pool.gpu_class} has {free} of {pool.stock.total} GPUs free"
        created.append(CreatePod(name, pool, because, reason))
    return tuple(created)


def adoptions(
    service: Service, fleet: Fleet, adopted: Sequence[ClaimablePod]
) -> tuple[AdoptPod, ...]:
    """Return one action for each pod to adopt."""
    existing = len(fleet.current)
    return tuple(
        AdoptPod(
            each.pod.name,
            each.pod.uid,
            each.pod.resource_version,
            each.pod.gpu_class,
            each.pod.origin.name,
            f"{existing + index} of {existing + len(adopted)} pods exist; {each.pod.service} "
            f"owns the reserve that {service.key.name} shares",
            each.pod.owner_uid,
            each.pod.control_secret or names_of.control_secret(each.pod.origin.name),
        )
        for index, each in enumerate(adopted)
    )


def _within_max_cost(
    service: Service, fleet: Fleet, pools: Sequence[Pool], chosen: Sequence[Pool]
) -> Sequence[bool]:
    """Return for each new pod whether `maxCostPerHour` allows it.

    The scaling decision bounds the number of pods by cost too, but it does not choose the classes.
    """
    if service.autoscaling is None or service.autoscaling.max_cost_per_hour is None:
        return [True] * len(chosen)
    existing = total_cost(fleet.live + fleet.leaving, pools)
    left = service.autoscaling.max_cost_per_hour - existing
    paid = []
    for pool in chosen:
        cost = pool.cost_per_hour
        paid.append(cost is not None and cost <= left)
        left -= cost if cost is not None and paid[-1] else 0
    return paid


def _effective_placement(service: Service, fleet: Fleet, spec_hash: str) -> Placement:
    """Return the placement of new pods: while an outdated pod can make room, no node is awaited.

    A rollout would otherwise never end where no node can be added.
    """
    makes_room = any(pod.spec_hash != spec_hash or pod.drain_asked for pod in fleet.outdated)
    if makes_room and service.placement.when_full is WhenFull.CREATE_PENDING:
        return replace(service.placement, when_full=WhenFull.FALL_THROUGH)
    return service.placement


def _free_name(service: str, spec_hash: str, used: Collection[str]) -> str:
    """Return the same name for the same cluster, so that two operators cannot create two pods."""
    ordinal = 0
    while (name := f"{service}-{spec_hash[:5]}-{ordinal}") in used:
        ordinal += 1
    return name
