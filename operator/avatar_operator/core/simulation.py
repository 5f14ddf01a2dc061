"""Runs a service over a trace in virtual time: the operator's own planning in a made world.

The world keeps its own count of sessions, GPUs and slots, and notes whenever a
rule of the product is broken. Nothing in it looks at a clock, and chance comes
from the source that is passed in: the same seed gives the same run.
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import IntEnum
from math import ceil, exp, inf, log
from typing import Final, Protocol

from avatar_operator.core import (
    batch,
    capacity,
    inventory,
    manifests,
    model,
    planning,
    scaling,
    sizing,
)
from avatar_operator.core.pools import rank
from avatar_operator.core.traces import Draw, Session
from avatar_operator.errors import InputError

PUSH_S: Final = 0.12  # from a change on a pod to the plan that knows it
REHEARD_S: Final = 0.3  # a new operator has opened all streams
EPOCH_S: Final = 1_700_000_000.0  # where virtual time begins on the clock that pods are dated by
LATE_S: Final = 300.0  # after the last session ended, the world runs on for so long


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, as rates of a Poisson process for each pod or the operator."""

    crashes_per_hour: float = 0.0  # of each pod; its sessions are lost, it starts again
    silences_per_hour: float = 0.0  # of each pod's stream
    gateway_silences_per_hour: float = 0.0
    silence_s: float = 20.0  # on average
    restarts_per_hour: float = 0.0  # of the operator, which forgets everything
    restart_s: float = 5.0
    api_fault_ratio: float = 0.0  # of the writes


@dataclass(frozen=True, slots=True)
class Settings:
    """The world that a service runs in."""

    gpus: Mapping[str, int]  # by class
    start_s: float = 20.0  # median of the time that a pod takes to start
    start_spread: float = 0.25  # sigma of its log-normal distribution
    patience_s: float = 60.0  # for which a caller waits for a slot
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the sessions, and what it cost."""

    sessions: int
    ended_by_operator: int
    lost_with_pods: int  # a pod crashed under them
    refused: int  # nobody waits longer than the patience
    waited: int  # found no free slot at once
    wait_p99_s: float
    gpu_hours: float
    reversals: int  # changes of direction of the pods wanted
    reaction_p99_s: float  # from a shortage of slots to the making of pods
    max_pods: int
    plans: int
    violations: tuple[str, ...]
    course: tuple["Moment", ...]

    @property
    def at_once_ratio(self) -> float:
        """The part of the callers who found a free slot."""
        return 1 - self.waited / max(1, self.sessions)


@dataclass(frozen=True, slots=True)
class Moment:
    """The world at one time, for a plot."""

    at_s: float
    sessions: int
    waiting: int
    slots: int
    pods: int
    desired: int


@dataclass(slots=True)
class Box:
    """A pod of the made world."""

    name: str
    uid: str
    gpu_class: str
    slots: int
    batch_size: int
    spec_hash: str
    created_s: float
    ready: bool = False
    draining: bool = False
    reserve: bool = False
    version: int = 1
    sessions: set[int] = field(default_factory=set)
    seen: model.PodState | None = None  # what the operator heard last
    seen_s: float = 0.0
    silent_until_s: float = 0.0

    @property
    def free(self) -> int:
        """Slots for callers."""
        return self.slots - len(self.sessions) if self.ready and not self.draining else 0


class Scaler(Protocol):
    """Another way to choose a number of pods, to compare with; it protects no session."""

    every_s: float

    def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
        """Return how many pods to have."""


_MUST: Final = 1  # of a plan that no earlier one replaces


class What(IntEnum):
    """The kinds of events; at equal times the earlier in this list comes first."""

    END = 0
    READY = 1
    CRASH = 2
    SILENCE = 3
    RESTART = 4
    ARRIVE = 5
    GIVE_UP = 6
    PLAN = 7


def run(
    service: model.Service,
    profiles: Sequence[model.GPUProfile],
    trace: Sequence[Session],
    settings: Settings,
    draw: Draw,
    rival: Scaler | None = None,
) -> Result:
    """Return what becomes of a trace."""
    world = World(service, profiles, trace, settings, draw, rival)
    return world.run()


def optimum_gpu_hours(
    trace: Sequence[Session], per_pod: int, headroom: Callable[[int], int] | None = None
) -> float:
    """Return the GPU-hours that nobody can go below.

    At each moment as few pods as hold the sessions there are, known beforehand,
    started in no time, with sessions that move between pods for free; with
    `headroom`, so many free slots are kept besides.
    """
    changes = [(session.arrival_s, 1) for session in trace]
    changes += [(session.arrival_s + session.duration_s, -1) for session in trace]
    total = 0.0
    live = 0
    before = 0.0
    for at, change in sorted(changes):
        slots = live + (headroom(live) if headroom else 0)
        total += (at - before) * ceil(slots / per_pod)
        live += change
        before = at
    return total / 3600


class World:
    """The owner of all that happens in one run."""

    def __init__(
        self,
        service: model.Service,
        profiles: Sequence[model.GPUProfile],
        trace: Sequence[Session],
        settings: Settings,
        draw: Draw,
        rival: Scaler | None = None,
    ) -> None:
        self._service = service
        self._profiles = tuple(p for p in profiles if settings.gpus.get(p.name, 0))
        self._trace = trace
        self._settings = settings
        self._draw = draw
        self._rival = rival
        self._rules = planning.Rules("image")
        self._nodes = tuple(
            _node(profile, settings.gpus[profile.name]) for profile in self._profiles
        )
        self._costs = {profile.name: profile.cost_per_hour for profile in self._profiles}
        self._now = 0.0
        self._events: list[tuple[float, What, int, str]] = []
        self._boxes: dict[str, Box] = {}
        self._leaving: dict[str, Box] = {}  # deleted with sessions, which never should be
        self._queue: deque[int] = deque()
        self._made = 0
        self._arrived = 0
        self._waits: list[float] = []
        self._lost = self._cut = self._refused = self._ended = self._placed = 0
        self._gpu_s = 0.0
        self._max_pods = 0
        self._desired: int | None = None
        self._direction = 0
        self._reversals = 0
        self._short_since: float | None = None
        self._reactions: list[float] = []
        self._plans = 0
        self._plan_at = inf
        self._history: scaling.History | None = None
        self._down_until = 0.0
        self._deaf_until = 0.0
        self._demand = scaling.Demand(gateways=1)
        self._gateway_silent_until = 0.0
        self._gateway_heard_s = 0.0
        self._violations: list[str] = []
        self._course: list[Moment] = []
        self._end_s = max(s.arrival_s + s.duration_s for s in trace) + LATE_S

    def run(self) -> Result:
        """Let everything happen, in order."""
        for index, session in enumerate(self._trace):
            self._push(session.arrival_s, What.ARRIVE, index)
        self._schedule_faults()
        self._plan_soon(0.0)
        self._push(self._end_s, What.PLAN, 0)
        while self._events and self._events[0][0] <= self._end_s:
            at, what, index, name = heapq.heappop(self._events)
            self._gpu_s += (at - self._now) * (len(self._boxes) + len(self._leaving))
            self._now = at
            self._happen(what, index, name)
            self._check()
        ordered = sorted(self._waits)
        return Result(
            sessions=len(self._trace),
            ended_by_operator=self._cut,
            lost_with_pods=self._lost,
            refused=self._refused,
            waited=sum(1 for wait_s in self._waits if wait_s > 0) + self._refused,
            wait_p99_s=_p99(ordered),
            gpu_hours=self._gpu_s / 3600,
            reversals=self._reversals,
            reaction_p99_s=_p99(sorted(self._reactions)),
            max_pods=self._max_pods,
            plans=self._plans,
            violations=tuple(self._violations[:20]),
            course=tuple(self._course),
        )

    # Events.

    def _happen(self, what: What, index: int, name: str) -> None:
        match what:
            case What.ARRIVE:
                self._arrived += 1
                self._queue.append(index)
                self._admit()
                if index in self._queue:
                    self._push(self._now + self._settings.patience_s, What.GIVE_UP, index)
            case What.GIVE_UP:
                if index in self._queue:
                    self._queue.remove(index)
                    self._refused += 1
            case What.END:
                box = self._boxes.get(name) or self._leaving.get(name)
                if box is not None and index in box.sessions:
                    box.sessions.discard(index)
                    self._ended += 1
                    if name in self._leaving and not box.sessions:
                        del self._leaving[name]
                    self._admit()
            case What.READY:
                box = self._boxes.get(name)
                if box is not None and box.version == index:
                    box.ready = True
                    box.version += 1
                    self._admit()
            case What.CRASH:
                self._crash()
            case What.SILENCE:
                self._silence(name)
            case What.RESTART:
                self._history = None
                self._down_until = self._now + self._settings.faults.restart_s
                self._deaf_until = self._down_until + REHEARD_S
                self._plan_soon(self._down_until - self._now)
                self._push(self._deaf_until, What.PLAN, _MUST)
            case What.PLAN:
                if index == _MUST or self._now >= self._plan_at:
                    self._plan_at = inf
                    self._plan()
                return
        self._hear()
        self._note_shortage()
        if self._rival is None:
            self._plan_soon(PUSH_S)

    def _admit(self) -> None:
        """Give waiting callers the slots that are free, in the order in which they came."""
        while self._queue:
            open_boxes = [box for box in self._boxes.values() if box.free]
            if not open_boxes:
                return
            box = max(open_boxes, key=_preference)
            index = self._queue.popleft()
            session = self._trace[index]
            self._waits.append(self._now - session.arrival_s)
            box.sessions.add(index)
            self._placed += 1
            self._push(self._now + session.duration_s, What.END, index, box.name)

    def _crash(self) -> None:
        ready = [box for box in self._boxes.values() if box.ready]
        if not ready:
            return
        box = ready[int(self._draw.random() * len(ready))]
        self._lost += len(box.sessions)
        box.sessions.clear()
        box.ready = box.draining = False
        box.version += 1
        self._start(box)

    def _silence(self, name: str) -> None:
        until = self._now + _exponential(self._settings.faults.silence_s, self._draw)
        if name == "gateway":
            self._gateway_silent_until = until
        elif self._boxes:
            boxes = list(self._boxes.values())
            boxes[int(self._draw.random() * len(boxes))].silent_until_s = until
        self._push(self._now + capacity.STALE_S + 0.01, What.PLAN, _MUST)
        self._push(until + 0.01, What.PLAN, _MUST)

    def _schedule_faults(self) -> None:
        faults = self._settings.faults
        pods = max(1, sum(self._settings.gpus.values()) // 2)
        for what, name, per_hour in (
            (What.CRASH, "", faults.crashes_per_hour * pods),
            (What.SILENCE, "pod", faults.silences_per_hour * pods),
            (What.SILENCE, "gateway", faults.gateway_silences_per_hour),
            (What.RESTART, "", faults.restarts_per_hour),
        ):
            at = 0.0
            while per_hour and (at := at + _exponential(3600 / per_hour, self._draw)) < self._end_s:
                self._push(at, what, 0, name)

    # The operator.

    def _hear(self) -> None:
        """Let every stream that is not silent say how things are."""
        for box in self._boxes.values():
            if box.ready and self._now >= box.silent_until_s:
                count = len(box.sessions)
                box.seen = model.PodState(
                    sessions=count,
                    capacity=box.slots,
                    free=box.slots - count,
                    draining=box.draining,
                    ready=True,
                    age_s=0.0,
                )
                box.seen_s = self._now
        if self._now >= self._gateway_silent_until:
            self._demand = scaling.Demand(len(self._queue), self._arrived, gateways=1)
            self._gateway_heard_s = self._now

    def _plan(self) -> None:
        if self._now < self._down_until:
            return self._plan_soon(self._down_until - self._now)
        self._plans += 1
        self._hear()  # at least a line a second comes from each
        if self._rival is not None:
            self._follow_rival(self._rival)
            return self._plan_soon(self._rival.every_s)
        observed = self._observed()
        plan = planning.plan(self._service, observed, self._rules, EPOCH_S + self._now)
        if plan.decision is not None:
            self._history = plan.decision.history
        self._want(plan.desired)
        failed = False
        for action in plan.actions:
            if self._draw.random() < self._settings.faults.api_fault_ratio:
                failed = True
            else:
                self._act(action)
        self._note_shortage()
        self._course.append(self._moment())
        if failed:
            self._plan_soon(1.0)
        if plan.wake_after_s is not None:
            self._plan_soon(max(0.05, plan.wake_after_s))
        return None

    def _observed(self) -> planning.Observed:
        deaf = self._now < self._deaf_until
        silent = self._now - self._gateway_heard_s > capacity.STALE_S
        demand = scaling.Demand(self._demand.waiting, self._demand.arrived, 1, int(silent or deaf))
        pods = tuple(self._pod(box) for box in self._boxes.values())
        return planning.Observed(
            nodes=self._nodes,
            uses=tuple(model.PodUse(f"node-{pod.gpu_class}", 1, pod.gpu_class) for pod in pods),
            profiles=self._profiles,
            pods=pods,
            states={} if deaf else self._states(),
            has_control_secret=True,
            scene=sizing.Scene(demand, self._history, self._now),
        )

    def _states(self) -> dict[str, model.PodState]:
        states = {}
        for box in self._boxes.values():
            if box.seen is not None:
                seen = box.seen
                states[box.uid] = model.PodState(
                    seen.sessions,
                    seen.capacity,
                    seen.free,
                    seen.draining,
                    True,
                    age_s=self._now - box.seen_s,
                )
        return states

    def _pod(self, box: Box) -> model.RuntimePod:
        return model.RuntimePod(
            name=box.name,
            namespace=self._service.key.namespace,
            uid=box.uid,
            resource_version=str(box.version),
            service=self._service.key.name,
            owner_uid=self._service.uid,
            gpu_class=box.gpu_class,
            spec_hash=box.spec_hash,
            batch_size=box.batch_size,
            sessions_per_pod=box.slots,
            node=f"node-{box.gpu_class}",
            ip="10.0.0.1",
            phase="Running",
            ready=box.ready,
            running=box.ready or box.version > 1,
            terminating=False,
            created_at=EPOCH_S + box.created_s,
            failed_at=None,
            trouble="",
            reserve=box.reserve,
        )

    def _act(self, action: planning.Action) -> None:
        match action:
            case planning.CreatePod(name=name, pool=pool):
                assert isinstance(pool.outcome, batch.BatchPlan)
                self._create(name, pool.gpu_class, pool.outcome)
                self._boxes[name].reserve = action.reserve
            case planning.PromotePod(name=name):
                self._boxes[name].reserve = False
            case planning.ReservePod(name=name):
                self._boxes[name].reserve = True
            case planning.DrainPod(name=name):
                self._boxes[name].draining = True
                self._plan_soon(PUSH_S)  # the pod says so
            case planning.UndrainPod(name=name):
                self._boxes[name].draining = False
                self._admit()
            case planning.DeletePod(name=name, resource_version=version):
                box = self._boxes[name]
                if version in (None, str(box.version)):
                    self._delete(box)
            case _:
                pass  # Secrets, budgets and marks change nothing here

    def _create(self, name: str, gpu_class: str, outcome: batch.BatchPlan) -> None:
        self._made += 1
        box = Box(
            name=name,
            uid=f"{name}#{self._made}",
            gpu_class=gpu_class,
            slots=outcome.sessions_per_pod,
            batch_size=outcome.batch_size,
            spec_hash=manifests.spec_hash(self._service, self._rules.image),
            created_s=self._now,
        )
        self._boxes[name] = box
        self._check_cost(name)
        self._max_pods = max(self._max_pods, len(self._boxes))
        self._start(box)
        if self._short_since is not None:
            self._reactions.append(self._now - self._short_since)
            self._short_since = None

    def _start(self, box: Box) -> None:
        spread = self._settings.start_spread
        normal = sum(self._draw.random() for _ in range(12)) - 6  # Irwin and Hall's
        wait_s = exp(log(self._settings.start_s) + spread * normal)
        self._push(self._now + wait_s, What.READY, box.version, box.name)

    def _delete(self, box: Box) -> None:
        del self._boxes[box.name]
        if box.sessions:
            self._cut += len(box.sessions)
            if self._rival is None:
                count = len(box.sessions)
                self._violations.append(f"{self._now:.1f} s: {box.name} went with {count} sessions")

    def _follow_rival(self, rival: Scaler) -> None:
        """Do what a Deployment does: the newest pods go, whoever is on them."""
        ready = sum(1 for box in self._boxes.values() if box.ready)
        gpu_class, outcome = self._best()
        sessions = sum(len(box.sessions) for box in self._boxes.values()) + len(self._queue)
        pods = len(self._boxes)
        policy = self._service.autoscaling
        low, high = (policy.min_replicas, policy.max_replicas) if policy else (1, 1)
        wanted = rival.wanted(self._now, sessions, pods, ready, outcome.sessions_per_pod)
        self._want(max(low, min(high, wanted, self._settings.gpus.get(gpu_class, 0))))
        assert self._desired is not None
        for _ in range(pods, self._desired):
            self._create(f"pod-{self._made}", gpu_class, outcome)
        by_age = sorted(self._boxes.values(), key=lambda box: (box.ready, -box.created_s))
        for box in by_age[: max(0, pods - self._desired)]:
            self._delete(box)
        self._course.append(self._moment())

    def best(self) -> batch.BatchPlan:
        """Return what a pod can do on the class that is filled first."""
        return self._best()[1]

    def _best(self) -> tuple[str, batch.BatchPlan]:
        stock = inventory.take(self._nodes, (), self._profiles, self._service.placement)
        for pool in rank(self._service, self._profiles, stock, self._rules.memory_share):
            if isinstance(pool.outcome, batch.BatchPlan):
                return pool.gpu_class, pool.outcome
        raise InputError("--service", str(self._service.key), "fits no GPU class of the profiles")

    # Accounts.

    def _want(self, desired: int) -> None:
        if self._desired is not None and desired != self._desired:
            direction = 1 if desired > self._desired else -1
            self._reversals += self._direction == -direction
            self._direction = direction
        self._desired = desired

    def _note_shortage(self) -> None:
        """Note since when there are fewer slots than the sessions and the least headroom ask."""
        policy = self._service.autoscaling
        if policy is None:
            return
        live = sum(len(box.sessions) for box in self._boxes.values())
        slots = sum(box.slots for box in self._boxes.values() if not box.draining)
        full = len(self._boxes) >= min(policy.max_replicas, sum(self._settings.gpus.values()))
        needed = live + len(self._queue) + (policy.free_min if live or self._queue else 0)
        if needed <= slots or full:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = self._now

    def _check(self) -> None:
        """Note each rule of the product that is broken now."""
        for box in self._boxes.values():
            if len(box.sessions) > box.slots:
                self._violations.append(f"{self._now:.1f} s: {box.name} is over its capacity")
        for gpu_class, gpus in self._settings.gpus.items():
            if sum(box.gpu_class == gpu_class for box in self._boxes.values()) > gpus:
                self._violations.append(f"{self._now:.1f} s: more pods than {gpu_class} has GPUs")
        live = sum(len(box.sessions) for box in self._boxes.values())
        if self._placed != live + self._ended + self._lost + self._cut:
            self._violations.append(f"{self._now:.1f} s: sessions do not add up")

    def _check_cost(self, name: str) -> None:
        """Note it if a pod was made that may not be paid; those that are there may cost more."""
        policy = self._service.autoscaling
        if policy is None or policy.max_cost_per_hour is None or self._rival is not None:
            return
        cost = sum(
            (self._costs.get(box.gpu_class) or 0 for box in self._boxes.values()), Decimal(0)
        )
        if cost > policy.max_cost_per_hour:
            self._violations.append(f"{self._now:.1f} s: with {name} the pods cost {cost}")

    def _moment(self) -> Moment:
        boxes = self._boxes.values()
        return Moment(
            at_s=self._now,
            sessions=sum(len(box.sessions) for box in boxes),
            waiting=len(self._queue),
            slots=sum(box.slots for box in boxes if box.ready),
            pods=len(boxes),
            desired=self._desired or 0,
        )

    def _push(self, at: float, what: What, index: int, name: str = "") -> None:
        heapq.heappush(self._events, (at, what, index, name))

    def _plan_soon(self, after_s: float) -> None:
        """Plan after a time, unless it is planned earlier anyway."""
        at = self._now + after_s
        if at < self._plan_at:
            self._plan_at = at
            self._push(at, What.PLAN, 0)


def _preference(box: Box) -> tuple[bool, float, str]:
    """Order pods as gateways do: the fullest first, the reserve last."""
    return not box.reserve, len(box.sessions) / box.slots, box.name


def _node(profile: model.GPUProfile, gpus: int) -> model.Node:
    product = next((name.replace("*", "") for name in profile.products), "")
    memory = (profile.memory_min_mib + profile.memory_max_mib) // 2
    return model.Node(
        name=f"node-{profile.name}",
        labels={"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory)},
        gpus=gpus,
        ready=True,
        unschedulable=False,
        taints=(),
    )


def _p99(ordered: Sequence[float]) -> float:
    return ordered[ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


def _exponential(mean: float, draw: Draw) -> float:
    return -mean * log(1 - draw.random())
