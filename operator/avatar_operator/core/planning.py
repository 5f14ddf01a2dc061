"""Decides which pods to create, drain and delete, from what is wanted and what is observed.

Nothing is remembered between two plans: the next step follows from what is
seen. A pod leaves in three plans: it is drained, its sessions end by
themselves, and once it says so it is deleted.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from avatar_operator.core import (
    batch,
    inventory,
    manifests,
    model,
    removals,
    reserve,
    rollout,
    sizing,
)
from avatar_operator.core.actions import (
    Action,
    ApplyBudget,
    ApplyControlSecret,
    CreatePod,
    DeletePod,
    DrainPod,
    PromotePod,
    ReservePod,
    UndrainPod,
)
from avatar_operator.core.fleet import Fleet, sort_fleet
from avatar_operator.core.placement import allot
from avatar_operator.core.pools import Pool, rank
from avatar_operator.core.protection import protect
from avatar_operator.core.removals import FRESH_S, KEPT_FAILURES, farewell
from avatar_operator.core.scaling import Decision
from avatar_operator.core.sizing import Scene
from avatar_operator.names import Reason

__all__ = [  # the shell reads what it carries out from here
    "FRESH_S",
    "KEPT_FAILURES",
    "Action",
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
    memory_share: float = batch.MEMORY_SHARE
    limits: rollout.Limits = field(default_factory=rollout.Limits)  # of a rollout


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a plan is made from, besides the service itself."""

    nodes: tuple[model.Node, ...]
    uses: tuple[model.PodUse, ...]  # of every pod in the cluster
    profiles: tuple[model.GPUProfile, ...]
    pods: tuple[model.RuntimePod, ...]  # of this service
    states: Mapping[str, model.PodState]  # by UID of the pod
    has_control_secret: bool
    census: inventory.Census | None = None  # kept from plan to plan, it saves time
    scene: Scene | None = None  # what the number of pods is decided from; None: min replicas
    has_budget: bool = True
    halted: rollout.Halt | None = None  # what the status remembers of this very spec


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
    answer: sizing.Answer | None = None  # None: the number of pods is given
    halted: rollout.Halt | None = None

    @property
    def decision(self) -> Decision | None:
        """What was decided of the number of pods, None if it is given."""
        return None if self.answer is None else self.answer.decision


def plan(service: model.Service, observed: Observed, rules: Rules, now: float) -> Plan:
    """Return the actions that bring the service one step nearer to what is wanted.

    `now` is in seconds since 1970, like the times in the pods.
    """
    states = observed.states
    census = observed.census or inventory.Census()
    stock = inventory.take(
        observed.nodes, observed.uses, observed.profiles, service.placement, census
    )
    hosts = census.named(observed.nodes, {pod.node for pod in observed.pods})
    pools = rank(service, observed.profiles, stock, rules.memory_share)
    spec_hash = manifests.spec_hash(service, rules.image)
    fleet = sort_fleet(service, observed.pods, hosts, spec_hash)
    asked = sizing.ask(service, fleet.live, fleet.leaving, pools, states, observed.scene, now)
    answer = None if asked is None else sizing.answer(asked)
    desired = service.desired_replicas if answer is None else answer.decision.pods
    held = 0 if answer is None else answer.decision.reserve
    halted = _halted(fleet, spec_hash, observed, rules.limits, now)
    wanted = _wanted(fleet, desired, states, halted=halted is not None)
    hold_s = _hold_s(fleet, spec_hash, now) if wanted else 0.0
    if service.paused:
        wanted, hold_s = 0, 0.0
    chosen = (
        () if hold_s else allot(pools, wanted, _placement(service, fleet, spec_hash), fleet.current)
    )
    missing = 0 if hold_s else wanted - len(chosen)
    creates = _creates(service, fleet, _paid(service, fleet, pools, chosen), spec_hash, observed)
    leaving = removals.surplus(fleet, pools, states, desired=desired, reserve=held)
    replaceable = removals.replaceable(fleet, spec_hash, hosts, halted=halted is not None)
    blocked = missing > 0
    leaving += removals.replaced(replaceable, fleet, desired, pools, states, blocked=blocked)
    steps, waiting_s = removals.steps(leaving, states)
    going = {pod.uid for pod, _ in leaving}
    staying = [pod for pod in fleet.live if pod.uid not in going]
    roles = reserve.cast(staying, creates, states, desired=desired, reserve=held)
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
            *removals.resumes(fleet, leaving, states),
            *roles.changes,
            *roles.creates,
            *steps,
            *removals.burials(fleet, desired, spec_hash),
        )
    sized_s = None if answer is None else answer.decision.wake_after_s
    rolling_s = ROLLING_S if fleet.outdated and not service.paused else None
    waits = [s for s in (hold_s or None, sized_s, waiting_s, marks_s, rolling_s) if s is not None]
    return Plan(
        desired=desired,
        answer=answer,
        pools=pools,
        inventory=stock,
        fleet=fleet,
        missing=missing,
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


def _wanted(
    fleet: Fleet, desired: int, states: Mapping[str, model.PodState], *, halted: bool
) -> int:
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


def _paid(
    service: model.Service, fleet: Fleet, pools: Sequence[Pool], chosen: Sequence[Pool]
) -> Sequence[Pool]:
    """Return the pods to create that may be paid; the decision has no say in their classes."""
    if service.autoscaling is None or service.autoscaling.max_cost_per_hour is None:
        return chosen
    costs = {pool.gpu_class: pool.cost_per_hour for pool in pools}
    there = (costs.get(pod.gpu_class) or Decimal(0) for pod in fleet.live + fleet.leaving)
    left = service.autoscaling.max_cost_per_hour - sum(there, Decimal(0))
    paid = []
    for pool in chosen:
        if pool.cost_per_hour is not None and pool.cost_per_hour <= left:
            paid.append(pool)
            left -= pool.cost_per_hour
    return paid


def _creates(
    service: model.Service,
    fleet: Fleet,
    chosen: Sequence[Pool],
    spec_hash: str,
    observed: Observed,
) -> tuple[CreatePod, ...]:
    """Create the pods that are missing, each on the class chosen for it."""
    taken = {pod.name for pod in observed.pods}
    because = Reason.SCALING_UP
    if fleet.outdated:
        because = Reason.ROLLING_OUT
    elif fleet.ended or fleet.lost:
        because = Reason.REPLACING
    created: list[CreatePod] = []
    for pool in chosen:
        name = _free_name(service.key.name, spec_hash, taken)
        taken.add(name)
        free = pool.stock.free - sum(other.pool is pool for other in created)
        reason = f"{len(fleet.current) + len(created)} of {len(fleet.current) + len(chosen)} pods "
        reason += f"are there, {pool.gpu_class} has {free} free of {pool.stock.total}"
        created.append(CreatePod(name, pool, because, reason))
    return tuple(created)


def _placement(service: model.Service, fleet: Fleet, spec_hash: str) -> model.Placement:
    """Return where new pods may go: while one has to make room for another, no node is waited for.

    A rollout would else wait for ever where no node can come.
    """
    yields = any(pod.spec_hash != spec_hash or pod.drain_asked for pod in fleet.outdated)
    if yields and service.placement.when_full is model.WhenFull.CREATE_PENDING:
        return replace(service.placement, when_full=model.WhenFull.FALL_THROUGH)
    return service.placement


def _free_name(service: str, spec_hash: str, taken: Collection[str]) -> str:
    """Return the same name for the same cluster, so that two operators cannot create two pods."""
    ordinal = 0
    while (name := f"{service}-{spec_hash[:5]}-{ordinal}") in taken:
        ordinal += 1
    return name
