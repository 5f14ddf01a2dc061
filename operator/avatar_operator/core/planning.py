"""Decides which pods to create, drain and delete, from what is wanted and what is observed.

Nothing is remembered between two plans: the next step follows from what is
seen. A pod leaves in three plans: it is drained, its sessions end by
themselves, and once it says so it is deleted.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from avatar_operator.core import batch, inventory, manifests, model, rollout, wording
from avatar_operator.core.placement import allot
from avatar_operator.core.pools import Pool, rank
from avatar_operator.core.protection import ProtectPod, ReleasePod, protect
from avatar_operator.core.scaling import Decision
from avatar_operator.core.sizing import Scene, size
from avatar_operator.names import Reason

FRESH_S: Final = 1.0
"""A state older than this proves no emptiness: a pod sends at least one a second."""

KEPT_FAILURES: Final = 5
"""Failed pods that stay to be looked at, and from which the back-off is read."""

ROLLING_S: Final = 1.0
"""How often a rollout is looked at again: latencies change without any news."""

BACK_OFF_S: Final = 5.0
"""The second failure in a row waits twice this for its replacement, each further one doubles."""


@dataclass(frozen=True, slots=True)
class ApplyControlSecret:
    """Write the Secret with the admin token of the service's pods."""

    name: str
    reason: str = "pods read their admin token from it"
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class ApplyBudget:
    """Write the PodDisruptionBudget over the service's pods with sessions."""

    name: str
    reason: str = "pods with sessions are not to be evicted"
    gpu_class: str | None = None


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Create a pod on a GPU class."""

    name: str
    pool: Pool
    because: Reason
    reason: str

    @property
    def gpu_class(self) -> str:
        """The class that the pod is pinned to."""
        return self.pool.gpu_class


@dataclass(frozen=True, slots=True)
class DrainPod:
    """Let a pod accept no more sessions; those it has go on."""

    name: str
    uid: str
    gpu_class: str
    because: Reason
    reason: str


@dataclass(frozen=True, slots=True)
class UndrainPod:
    """Let a draining pod accept sessions again."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete exactly this pod, and only in exactly this version if one is given."""

    name: str
    uid: str
    resource_version: str | None
    gpu_class: str
    because: Reason
    reason: str


Action = (
    ApplyControlSecret
    | ApplyBudget
    | ProtectPod
    | ReleasePod
    | CreatePod
    | DrainPod
    | UndrainPod
    | DeletePod
)


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
class Fleet:
    """The pods of a service by what they are worth to it."""

    current: tuple[model.RuntimePod, ...]  # as the spec wants them
    outdated: tuple[model.RuntimePod, ...]  # to be replaced: see `_outdated`
    lost: tuple[model.RuntimePod, ...]  # on a node that is gone or not ready
    leaving: tuple[model.RuntimePod, ...]  # deleted, waiting for their last sessions
    ended: tuple[model.RuntimePod, ...]  # failed or finished, will never run again

    @property
    def live(self) -> tuple[model.RuntimePod, ...]:
        """Pods that take or may soon take sessions."""
        return self.current + self.outdated


@dataclass(frozen=True, slots=True)
class Replacement:
    """Why an outdated pod may go."""

    because: Reason
    makes_room: bool  # whether a new pod could take its GPU


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
    decision: Decision | None = None  # None: the number of pods is given
    halted: rollout.Halt | None = None


def plan(service: model.Service, observed: Observed, rules: Rules, now: float) -> Plan:
    """Return the actions that bring the service one step nearer to what is wanted.

    `now` is in seconds since 1970, like the times in the pods.
    """
    census = observed.census or inventory.Census()
    stock = inventory.take(
        observed.nodes, observed.uses, observed.profiles, service.placement, census
    )
    hosts = census.named(observed.nodes, {pod.node for pod in observed.pods})
    pools = rank(service, observed.profiles, stock, rules.memory_share)
    spec_hash = manifests.spec_hash(service, rules.image)
    fleet = sort_fleet(service, observed.pods, hosts, spec_hash)
    decision = size(service, fleet.live, pools, observed.states, observed.scene, now)
    desired = service.desired_replicas if decision is None else decision.pods
    sized_s = None if decision is None else decision.wake_after_s
    halted = _halted(fleet, spec_hash, observed, rules.limits, now)
    wanted = _wanted(fleet, desired, observed.states, halted=halted is not None)
    hold_s = _hold_s(fleet, spec_hash, now) if wanted else 0.0
    if service.paused:
        wanted, hold_s = 0, 0.0
    creates = () if hold_s else _creates(service, fleet, pools, spec_hash, wanted, observed)
    missing = 0 if hold_s else wanted - len(creates)
    leaving = _surplus(fleet, desired, pools, observed.states)
    replaceable = _replaceable(fleet, spec_hash, hosts, halted=halted is not None)
    leaving += _replaced(replaceable, fleet, desired, pools, observed, blocked=missing > 0)
    removals, waiting_s = _removals(leaving, observed.states)
    ready_nodes = frozenset(node.name for node in hosts if node.ready)
    marks, marks_s = protect(observed.pods, observed.states, ready_nodes)
    deleted = {action.uid for action in removals if isinstance(action, DeletePod)}
    marks = tuple(mark for mark in marks if mark.uid not in deleted)
    actions: tuple[Action, ...] = marks
    if not service.paused:
        actions = (
            *(() if observed.has_control_secret else (ApplyControlSecret(service.key.name),)),
            *(() if observed.has_budget else (ApplyBudget(service.key.name),)),
            *marks,
            *_resumes(fleet, leaving, observed.states),
            *creates,
            *removals,
            *_burials(fleet, desired, spec_hash),
        )
    rolling_s = ROLLING_S if fleet.outdated and not service.paused else None
    waits = [s for s in (hold_s or None, sized_s, waiting_s, marks_s, rolling_s) if s is not None]
    return Plan(
        desired=desired,
        decision=decision,
        pools=pools,
        inventory=stock,
        fleet=fleet,
        missing=missing,
        actions=actions,
        wake_after_s=min(waits, default=None),
        halted=halted,
    )


def farewell(pods: Iterable[model.RuntimePod]) -> tuple[DeletePod, ...]:
    """Return what becomes of the pods of a service that was deleted.

    The garbage collector may not delete those with sessions, so we do. Each then
    drains in its own time: its preStop hook waits for the sessions, up to the
    service's drain timeout.
    """
    return tuple(
        DeletePod(
            pod.name, pod.uid, None, pod.gpu_class, Reason.SERVICE_GONE, "its service was deleted"
        )
        for pod in sorted(pods, key=lambda pod: pod.name)
        if not pod.terminating
    )


def sort_fleet(
    service: model.Service,
    pods: Iterable[model.RuntimePod],
    nodes: Iterable[model.Node],
    spec_hash: str,
) -> Fleet:
    """Sort pods by what they are worth, each into exactly one group, by name."""
    by_name = {node.name: node for node in nodes}
    groups: dict[str, list[model.RuntimePod]] = {
        name: [] for name in ("current", "outdated", "lost", "leaving", "ended")
    }
    for pod in sorted(pods, key=lambda pod: pod.name):
        if pod.terminating or pod.owner_uid != service.uid:  # the garbage collector takes orphans
            group = "leaving"
        elif pod.ended:
            group = "ended"
        elif pod.node and not (pod.node in by_name and by_name[pod.node].ready):
            group = "lost"
        elif _outdated(service, pod, by_name.get(pod.node), spec_hash):
            group = "outdated"
        else:
            group = "current"
        groups[group].append(pod)
    return Fleet(**{name: tuple(found) for name, found in groups.items()})


def _outdated(
    service: model.Service, pod: model.RuntimePod, node: model.Node | None, spec_hash: str
) -> bool:
    """Return whether a pod is to be replaced by another one."""
    return (
        pod.spec_hash != spec_hash
        or not _allows(service.placement, pod.gpu_class)
        or pod.drain_asked
        or _is_cordoned(node)
    )


def _is_cordoned(node: model.Node | None) -> bool:
    return node is not None and node.unschedulable


def _allows(placement: model.Placement, gpu_class: str) -> bool:
    return not placement.gpu_classes or gpu_class in placement.gpu_classes


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


def _creates(
    service: model.Service,
    fleet: Fleet,
    pools: Sequence[Pool],
    spec_hash: str,
    wanted: int,
    observed: Observed,
) -> tuple[CreatePod, ...]:
    """Create the pods that are missing, as far as GPUs are free."""
    taken = {pod.name for pod in observed.pods}
    because = Reason.SCALING_UP
    if fleet.outdated:
        because = Reason.ROLLING_OUT
    elif fleet.ended or fleet.lost:
        because = Reason.REPLACING
    created: list[CreatePod] = []
    for pool in allot(pools, wanted, _placement(service, fleet, spec_hash), fleet.current):
        name = _free_name(service.key.name, spec_hash, taken)
        taken.add(name)
        free = pool.stock.free - sum(other.pool is pool for other in created)
        reason = f"{len(fleet.current) + len(created)} of {len(fleet.current) + wanted} pods are "
        reason += f"there, {pool.gpu_class} has {free} free of {pool.stock.total}"
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


def _surplus(
    fleet: Fleet, desired: int, pools: Sequence[Pool], states: Mapping[str, model.PodState]
) -> tuple[tuple[model.RuntimePod, Reason], ...]:
    """Choose among current pods those that go, the least costly for sessions first."""
    ranks = {pool.gpu_class: rank for rank, pool in enumerate(pools)}
    by_cost = sorted(
        fleet.current,
        key=lambda pod: (*_cost(pod, states), -ranks.get(pod.gpu_class, 0), pod.name),
    )
    count = max(0, len(fleet.current) - desired)
    return tuple((pod, Reason.SCALING_DOWN) for pod in by_cost[:count])


def _replaceable(
    fleet: Fleet, spec_hash: str, nodes: Iterable[model.Node], *, halted: bool
) -> Mapping[str, Replacement]:
    """Say of each outdated pod that may go now why it does, and whether its GPU comes free."""
    cordoned = {node.name for node in nodes if node.unschedulable}
    found: dict[str, Replacement] = {}
    for pod in fleet.outdated:
        if pod.drain_asked:
            found[pod.uid] = Replacement(Reason.DRAIN_ASKED, makes_room=True)
        elif pod.node in cordoned:
            found[pod.uid] = Replacement(Reason.NODE_LEAVING, makes_room=False)
        elif not halted:
            found[pod.uid] = Replacement(Reason.ROLLING_OUT, makes_room=True)
    return found


def _replaced(
    replaceable: Mapping[str, Replacement],
    fleet: Fleet,
    desired: int,
    pools: Sequence[Pool],
    observed: Observed,
    *,
    blocked: bool,
) -> tuple[tuple[model.RuntimePod, Reason], ...]:
    """Choose outdated pods that go: one for each current pod that has become ready.

    Without a spare GPU nothing new can come first, so one old pod makes room,
    if a new one could run on its class, and none is making room already.
    """
    ready = sum(1 for pod in fleet.current if pod.ready)
    kept = max(0, desired - ready)
    by_cost = sorted(fleet.outdated, key=lambda pod: (*_cost(pod, observed.states), pod.name))
    candidates = [pod for pod in by_cost if pod.uid in replaceable]
    going = candidates[: max(0, len(by_cost) - kept)]
    if blocked and not going and ready == len(fleet.current) and not fleet.leaving:
        serving = {pool.gpu_class for pool in pools if pool.serves}
        going = [
            pod
            for pod in candidates
            if pod.gpu_class in serving and replaceable[pod.uid].makes_room
        ][:1]
    return tuple((pod, replaceable[pod.uid].because) for pod in going)


def _cost(
    pod: model.RuntimePod, states: Mapping[str, model.PodState]
) -> tuple[bool, bool, bool, float]:
    """Order pods by what their going costs; one that is draining already goes on draining."""
    state = states.get(pod.uid)
    sessions = inf if state is None else float(state.sessions)
    return not (state is not None and state.draining), pod.running, pod.ready, sessions


def _removals(
    leaving: Iterable[tuple[model.RuntimePod, Reason]], states: Mapping[str, model.PodState]
) -> tuple[tuple[Action, ...], float | None]:
    """Return the next step of each pod that goes, and when to look again if one must wait."""
    steps: list[Action] = []
    wait_s: float | None = None
    for pod, because in leaving:
        state = states.get(pod.uid)
        if not pod.running:
            # The version is part of the order: a pod that starts meanwhile is another one.
            reason = "it has not started"
            version = pod.resource_version
            steps.append(DeletePod(pod.name, pod.uid, version, pod.gpu_class, because, reason))
        elif state is None:
            wait_s = FRESH_S  # nothing is known of its sessions: they may be live
        elif not state.draining:
            reason = f"it has {wording.count(state.sessions, 'session')}"
            steps.append(DrainPod(pod.name, pod.uid, pod.gpu_class, because, reason))
        elif state.sessions == 0 and state.age_s < FRESH_S:
            reason = "it is drained and has no session"
            steps.append(DeletePod(pod.name, pod.uid, None, pod.gpu_class, because, reason))
        elif state.sessions == 0:
            wait_s = FRESH_S / 4
    return tuple(steps), wait_s


def _resumes(
    fleet: Fleet,
    leaving: Iterable[tuple[model.RuntimePod, Reason]],
    states: Mapping[str, model.PodState],
) -> tuple[UndrainPod, ...]:
    """Take pods back that were draining and are needed after all."""
    going = {pod.uid for pod, _ in leaving}
    return tuple(
        UndrainPod(pod.name, pod.uid, pod.gpu_class, "it is needed again")
        for pod in fleet.live
        if pod.uid not in going and pod.uid in states and states[pod.uid].draining
    )


def _burials(fleet: Fleet, desired: int, spec_hash: str) -> tuple[DeletePod, ...]:
    """Clear away ended pods: all once the service is well, else all but the latest few."""
    ready = sum(1 for pod in fleet.current if pod.ready)
    ended = sorted(fleet.ended, key=lambda pod: (pod.failed_at or 0.0, pod.name))
    current = [pod for pod in ended if pod.spec_hash == spec_hash]
    kept = set() if ready >= desired else {pod.uid for pod in current[-KEPT_FAILURES:]}
    return tuple(
        DeletePod(pod.name, pod.uid, None, pod.gpu_class, Reason.REPLACING, f"it {pod.phase}")
        for pod in ended
        if pod.uid not in kept
    )
