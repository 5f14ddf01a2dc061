"""Decides which pods to create, drain and delete, from what is wanted and what is observed.

Nothing is remembered between two plans: the next step follows from what is
seen. A pod leaves in three plans: it is drained, its sessions end by
themselves, and once it says so it is deleted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import compress
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import inputs
from avatar_operator.core.gpus import batch_size, inventory
from avatar_operator.core.gpus.placement import allot
from avatar_operator.core.gpus.pools import Pool, rank
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import rollout, scale_down, shared_reserve, warm_pool
from avatar_operator.core.planning.actions import (
    Action,
    AdoptPod,
    ApplyBudget,
    ApplyControlSecret,
    CreatePod,
    DeletePod,
    DrainPod,
    PromotePod,
    ReservePod,
    UndrainPod,
)
from avatar_operator.core.planning.disruption import protect
from avatar_operator.core.planning.fleet import Fleet, sort_fleet
from avatar_operator.core.planning.scale_down import FRESH_S, KEPT_FAILURES, farewell
from avatar_operator.core.resources.service import Placement, Service, WhenFull
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from avatar_operator.core.autoscaling.inputs import Scene
    from avatar_operator.core.autoscaling.scaling import Decision
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.pod import PodUse, RuntimePod
    from avatar_operator.core.resources.state import PodState

__all__ = [  # the shell reads what it carries out from here
    "FRESH_S",
    "KEPT_FAILURES",
    "Action",
    "AdoptPod",
    "ApplyBudget",
    "ApplyControlSecret",
    "CreatePod",
    "DeletePod",
    "DrainPod",
    "Fleet",
    "Observed",
    "Plan",
    "PromotePod",
    "ReservePod",
    "Rules",
    "UndrainPod",
    "farewell",
    "plan",
]

ROLLING_S: Final = 1.0
"""How often a rollout is looked at again: latencies change without any news."""

BACK_OFF_S: Final = 5.0
"""The second failure in a row waits twice this for its replacement, each further one doubles."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator was told at its start."""

    image: str  # of the runtime, unless the service names one
    memory_share: float = batch_size.MEMORY_SHARE
    limits: rollout.Limits = field(default_factory=rollout.Limits)  # of a rollout


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a plan is made from, besides the service itself."""

    nodes: tuple[Node, ...]
    uses: tuple[PodUse, ...]  # of every pod in the cluster
    profiles: tuple[GPUProfile, ...]
    pods: tuple[RuntimePod, ...]  # of this service
    states: Mapping[str, PodState]  # by UID of the pod
    has_control_secret: bool
    census: inventory.Census | None = None  # kept from plan to plan, it saves time
    scene: Scene | None = None  # what the number of pods is decided from; None: min replicas
    has_budget: bool = True
    halted: rollout.Halt | None = None  # what the status remembers of this very spec
    shared: shared_reserve.Shared | None = None  # None: the service shares no reserve
    names_elsewhere: Collection[str] = ()  # of pods made for this service that another took over


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and what it was decided from."""

    desired: int
    pools: tuple[Pool, ...]
    inventory: inventory.Inventory
    fleet: Fleet
    missing: int  # pods that no GPU was found for
    actions: tuple[Action, ...]
    wake_after_s: float | None  # plan again then, even if nothing is heard
    answer: inputs.Answer | None = None  # None: the number of pods is given
    halted: rollout.Halt | None = None

    @property
    def coming(self) -> tuple[CreatePod | AdoptPod, ...]:
        """The pods that the service will have besides those that it has."""
        return tuple(each for each in self.actions if isinstance(each, CreatePod | AdoptPod))

    @property
    def decision(self) -> Decision | None:
        """What was decided of the number of pods, None if it is given."""
        return None if self.answer is None else self.answer.decision


@dataclass(frozen=True, slots=True)
class _Coming:
    """How the pods come that are missing."""

    taken: tuple[shared_reserve.Loan, ...] = ()  # taken over from a reserve
    chosen: tuple[Pool, ...] = ()  # the class of each that is created
    missing: int = 0  # those that no GPU was found for


def plan(service: Service, observed: Observed, rules: Rules, now: float) -> Plan:
    """Return the actions that bring the service one step nearer to what is wanted.

    `now` is in seconds since 1970, like the times in the pods.
    """
    states = observed.states
    census = observed.census or inventory.Census()
    stock = inventory.take(
        observed.nodes, observed.uses, observed.profiles, service.placement, census
    )
    lent_pods = observed.shared.pods if observed.shared is not None else ()
    hosts = census.named(observed.nodes, {pod.node for pod in (*observed.pods, *lent_pods)})
    pools = rank(service, observed.profiles, stock, rules.memory_share)
    spec_hash = hash_spec(service, rules.image)
    fleet = sort_fleet(service, observed.pods, hosts, spec_hash)
    loans = _loans(service, observed.shared, pools, spec_hash, fleet, hosts)
    scene = _scene(observed, service, loans)
    asked = inputs.ask(service, fleet.live, fleet.leaving, pools, states, scene, now)
    answer = None if asked is None else inputs.answer(asked)
    desired = service.desired_replicas if answer is None else answer.decision.pods
    held = 0 if answer is None else answer.decision.reserve
    halted = _halted(fleet, spec_hash, observed, rules.limits, now)
    wanted = _wanted(fleet, desired, states, halted=halted is not None)
    hold_s = _hold_s(fleet, spec_hash, now) if wanted else 0.0
    if service.paused:
        wanted, hold_s = 0, 0.0
    coming = _Coming() if hold_s else _come(service, fleet, pools, loans, wanted, spec_hash)
    creates = _creates(service, fleet, coming, spec_hash, observed)
    leaving = scale_down.surplus(fleet, pools, states, desired=desired, reserve=held)
    replaceable = scale_down.replaceable(fleet, spec_hash, hosts, halted=halted is not None)
    blocked = coming.missing > 0
    leaving += scale_down.replaced(replaceable, fleet, desired, pools, states, blocked=blocked)
    steps, waiting_s = scale_down.steps(leaving, states)
    going = {pod.uid for pod, _ in leaving}
    staying = [pod for pod in fleet.live if pod.uid not in going]
    staying += [replace(loan.pod, reserve=False) for loan in coming.taken]
    roles = warm_pool.cast(staying, creates, states, desired=desired, reserve=held)
    ready_nodes = frozenset(node.name for node in hosts if node.ready)
    marks, marks_s = protect(observed.pods, states, ready_nodes)
    deleted = {action.uid for action in steps if isinstance(action, DeletePod)}
    marks = tuple(mark for mark in marks if mark.uid not in deleted)
    actions: tuple[Action, ...] = marks
    if not service.paused:
        actions = (
            *(() if observed.has_control_secret else (ApplyControlSecret(service.key.name),)),
            *(() if observed.has_budget else (ApplyBudget(service.key.name),)),
            *marks,
            *scale_down.resumes(fleet, leaving, states),
            *roles.changes,
            *_adoptions(service, fleet, coming.taken),
            *roles.creates,
            *steps,
            *scale_down.burials(fleet, desired, spec_hash),
        )
    sized_s = None if answer is None else answer.decision.wake_after_s
    rolling_s = ROLLING_S if fleet.outdated and not service.paused else None
    shared_s = _shared_s(observed.shared, now)
    times = (hold_s or None, sized_s, waiting_s, marks_s, rolling_s, shared_s)
    waits = [seconds for seconds in times if seconds is not None]
    return Plan(
        desired=desired,
        answer=answer,
        pools=pools,
        inventory=stock,
        fleet=fleet,
        missing=coming.missing,
        actions=actions,
        wake_after_s=min(waits, default=None),
        halted=halted,
    )


def _halted(
    fleet: Fleet, spec_hash: str, observed: Observed, limits: rollout.Limits, now: float
) -> rollout.Halt | None:
    old = [pod for pod in fleet.outdated if pod.spec_hash != spec_hash]
    if old and observed.halted is not None:
        return observed.halted
    ended = [pod for pod in fleet.ended if pod.spec_hash == spec_hash]
    return rollout.judge(fleet.current, ended, old, observed.states, limits, now)


def _wanted(fleet: Fleet, desired: int, states: Mapping[str, PodState], *, halted: bool) -> int:
    """Return how many pods to create: what is missing, and during a rollout the surge."""
    serving = sum(
        pod.ready and not (pod.uid in states and states[pod.uid].draining) for pod in fleet.outdated
    )
    most = desired + (0 if halted or not serving else rollout.surge(desired))
    return max(0, min(desired, most - serving) - len(fleet.current))


def _hold_s(fleet: Fleet, spec_hash: str, now: float) -> float:
    """Return how long to wait before pods that failed again and again are replaced."""
    failures = [pod.failed_at or 0.0 for pod in fleet.ended if pod.spec_hash == spec_hash]
    if len(failures) < 2:
        return 0.0
    back_off_s: float = BACK_OFF_S * 2 ** (min(len(failures), KEPT_FAILURES) - 1)
    return max(0.0, max(failures) + back_off_s - now)


def _come(
    service: Service,
    fleet: Fleet,
    pools: Sequence[Pool],
    loans: Sequence[shared_reserve.Loan],
    wanted: int,
    spec_hash: str,
) -> _Coming:
    """Take over what is lent, since it is loaded already, and choose classes for the others."""
    taken = tuple(loans[:wanted])
    there = fleet.current + tuple(loan.pod for loan in taken)
    chosen = allot(pools, wanted - len(taken), _placement(service, fleet, spec_hash), there)
    missing = wanted - len(taken) - len(chosen)
    paid = _paid(service, fleet, pools, [*(loan.pool for loan in taken), *chosen])
    chosen = tuple(compress(chosen, paid[len(taken) :]))
    return _Coming(tuple(compress(taken, paid)), chosen, missing)


def _paid(
    service: Service, fleet: Fleet, pools: Sequence[Pool], chosen: Sequence[Pool]
) -> Sequence[bool]:
    """Say of each pod to come whether it may be paid; the decision has no say in their classes."""
    if service.autoscaling is None or service.autoscaling.max_cost_per_hour is None:
        return [True] * len(chosen)
    costs = {pool.gpu_class: pool.cost_per_hour for pool in pools}
    there = (costs.get(pod.gpu_class) or Decimal(0) for pod in fleet.live + fleet.leaving)
    left = service.autoscaling.max_cost_per_hour - sum(there, Decimal(0))
    paid = []
    for pool in chosen:
        cost = pool.cost_per_hour
        paid.append(cost is not None and cost <= left)
        left -= cost if cost is not None and paid[-1] else 0
    return paid


def _creates(
    service: Service,
    fleet: Fleet,
    coming: _Coming,
    spec_hash: str,
    observed: Observed,
) -> tuple[CreatePod, ...]:
    """Create the pods that are missing, each on the class chosen for it."""
    named = {pod.name for pod in observed.pods} | set(observed.names_elsewhere)
    there = len(fleet.current) + len(coming.taken)
    because = Reason.SCALING_UP
    if fleet.outdated:
        because = Reason.ROLLING_OUT
    elif fleet.ended or fleet.lost:
        because = Reason.REPLACING
    created: list[CreatePod] = []
    for pool in coming.chosen:
        name = _free_name(service.key.name, spec_hash, named)
        named.add(name)
        free = pool.stock.free - sum(other.pool is pool for other in created)
        reason = f"{there + len(created)} of {there + len(coming.chosen)} pods "
        reason += f"are there, {pool.gpu_class} has {free} free of {pool.stock.total}"
        created.append(CreatePod(name, pool, because, reason))
    return tuple(created)


def _loans(
    service: Service,
    shared: shared_reserve.Shared | None,
    pools: Sequence[Pool],
    spec_hash: str,
    fleet: Fleet,
    hosts: Sequence[Node],
) -> tuple[shared_reserve.Loan, ...]:
    """Return the pods that may be taken over; while pods are replaced, none.

    A rollout has pods that serve already, and the reserve is for callers.
    """
    if shared is None or service.paused or fleet.outdated:
        return ()
    usable = {node.name for node in hosts if node.ready and not node.unschedulable}
    return shared_reserve.loans(shared, pools, service.placement, spec_hash, usable)


def _scene(
    observed: Observed, service: Service, loans: Sequence[shared_reserve.Loan]
) -> Scene | None:
    if observed.scene is None or observed.shared is None:
        return observed.scene
    lent = Counter(loan.pool.gpu_class for loan in loans)
    return replace(observed.scene, share=shared_reserve.share(observed.shared, service), lent=lent)


def _adoptions(
    service: Service, fleet: Fleet, taken: Sequence[shared_reserve.Loan]
) -> tuple[AdoptPod, ...]:
    there = len(fleet.current)
    return tuple(
        AdoptPod(
            loan.pod.name,
            loan.pod.uid,
            loan.pod.resource_version,
            loan.pod.gpu_class,
            loan.pod.origin.name,
            f"{there + index} of {there + len(taken)} pods are there, "
            f"{loan.pod.service} keeps it in reserve for {service.key.name} too",
        )
        for index, loan in enumerate(taken)
    )


def _shared_s(shared: shared_reserve.Shared | None, now: float) -> float | None:
    """Return when a schedule changes how large a shared reserve is."""
    if shared is None or shared.group.until is None:
        return None
    return max(0.0, shared.group.until - now)


def _placement(service: Service, fleet: Fleet, spec_hash: str) -> Placement:
    """Return where new pods may go: while one has to make room for another, no node is waited for.

    A rollout would else wait for ever where no node can come.
    """
    yields = any(pod.spec_hash != spec_hash or pod.drain_asked for pod in fleet.outdated)
    if yields and service.placement.when_full is WhenFull.CREATE_PENDING:
        return replace(service.placement, when_full=WhenFull.FALL_THROUGH)
    return service.placement


def _free_name(service: str, spec_hash: str, taken: Collection[str]) -> str:
    """Return the same name for the same cluster, so that two operators cannot create two pods."""
    ordinal = 0
    while (name := f"{service}-{spec_hash[:5]}-{ordinal}") in taken:
        ordinal += 1
    return name
