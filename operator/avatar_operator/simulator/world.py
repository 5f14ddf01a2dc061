"""Runs a service over a trace in virtual time: the operator's planner in a simulated cluster.

The simulated cluster counts sessions, GPUs and slots itself, and records each violated rule. It
uses no clock, and random numbers come from the given source: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import IntEnum
from math import ceil, exp, inf, log
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import capacity, inputs, scaling, start_times
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.gpus import batch_size, inventory
from avatar_operator.core.gpus.pools import rank
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.errors import InputError
from avatar_operator.simulator import pods
from avatar_operator.simulator.accounting import SimulationStats
from avatar_operator.simulator.pods import SimulatedPod

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.service import Service
    from avatar_operator.simulator.scenario import OnDecision, Result, Scaler, Settings
    from avatar_operator.simulator.traces import RandomSource, Session

PUSH_S: Final = 0.12  # from a change on a pod to the plan that uses it
RECONNECT_S: Final = 0.3  # until a new operator has opened all streams
LEADERLESS_S: Final = 5.0  # maximum time from one leader to the next
STEP_S: Final = 3600.0  # maximum step of the clock
LATE_S: Final = 300.0  # the simulation continues this long after the last session

_MUST: Final = 1  # index of a plan that must happen, even after an earlier one


class EventKind(IntEnum):
    """The kinds of events; at equal times, the lower value is handled first."""

    END = 0
    READY = 1
    CRASH = 2
    SILENCE = 3
    RESTART = 4
    LEAD = 5
    CLOCK = 6
    ARRIVE = 7
    GIVE_UP = 8
    PLAN = 9


def run(
    service: Service,
    profiles: Sequence[GPUProfile],
    trace: Sequence[Session],
    settings: Settings,
    draw: RandomSource,
    baseline: Scaler | None = None,
    on_decision: OnDecision | None = None,
) -> Result:
    """Return the result of a trace; `on_decision` is called with each decision."""
    world = SimulatedCluster(service, profiles, trace, settings, draw, baseline, on_decision)
    return world.run()


def optimum_gpu_hours(
    trace: Sequence[Session], per_pod: int, headroom: Callable[[int], int] | None = None
) -> float:
    """Return the lower bound of the GPU-hours.

    At each time there are just enough pods for the sessions. They are known in advance, pods start
    at once, and sessions move between pods without cost. `headroom` returns how many free slots are
    kept for a number of sessions.
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


class SimulatedCluster:
    """Handles the events of one run in virtual time."""

    def __init__(
        self,
        service: Service,
        profiles: Sequence[GPUProfile],
        trace: Sequence[Session],
        settings: Settings,
        draw: RandomSource,
        baseline: Scaler | None = None,
        on_decision: OnDecision | None = None,
    ) -> None:
        self._service = service
        self._profiles = tuple(p for p in profiles if settings.gpus.get(p.name, 0))
        self._trace = trace
        self._settings = settings
        self._draw = draw
        self._baseline = baseline
        self._on_decision = on_decision
        self._options = planner.Options("image")
        self._nodes = tuple(pods.node(p, settings.gpus[p.name]) for p in self._profiles)
        costs = {profile.name: profile.cost_per_hour for profile in self._profiles}
        self._stats = SimulationStats(service.autoscaling, settings.gpus, costs)
        self._now = 0.0
        self._events: list[tuple[float, EventKind, int, str]] = []
        self._pods: dict[str, SimulatedPod] = {}
        self._queue: deque[int] = deque()
        self._made = 0
        self._arrived = 0
        self._plan_at = inf
        self._history: scaling.History | None = None
        self._starts: dict[str, start_times.ClassStarts] = {}  # the status has them
        self._down_until = 0.0
        self._cut_off_until = 0.0
        self._clock_off_s = 0.0
        self._demand = Demand(gateways=1)
        self._gateway_silent_until = 0.0
        self._gateway_heard_s = 0.0
        self._end_s = max(s.arrival_s + s.duration_s for s in trace) + LATE_S

    def run(self) -> Result:
        """Handle all events in order, and return the result."""
        for index, session in enumerate(self._trace):
            self._push(session.arrival_s, EventKind.ARRIVE, index)
        self._schedule_faults()
        self._plan_soon(0.0)
        self._push(self._end_s, EventKind.PLAN, 0)
        while self._events and self._events[0][0] <= self._end_s:
            at, what, index, name = heapq.heappop(self._events)
            self._stats.pass_time(at - self._now, len(self._pods))
            self._now = at
            self._handle(what, index, name)
            self._stats.check(self._now, self._pods.values())
        return self._stats.result(len(self._trace))

    # Events

    def _handle(self, what: EventKind, index: int, name: str) -> None:
        match what:
            case EventKind.ARRIVE:
                self._arrived += 1
                self._queue.append(index)
                self._admit()
                if index in self._queue:
                    self._push(self._now + self._settings.patience_s, EventKind.GIVE_UP, index)
            case EventKind.GIVE_UP:
                if index in self._queue:
                    self._queue.remove(index)
                    self._stats.refuse()
            case EventKind.END:
                pod = self._pods.get(name)
                if pod is not None and index in pod.sessions:
                    pod.sessions.discard(index)
                    self._stats.end()
                    self._admit()
            case EventKind.READY:
                pod = self._pods.get(name)
                if pod is not None and pod.version == index:
                    pod.ready = True
                    if pod.version == 1:  # not after a crash
                        self._note_start(pod)
                    pod.version += 1
                    self._admit()
            case EventKind.CRASH:
                self._crash()
            case EventKind.SILENCE:
                self._silence(name)
            case EventKind.RESTART:
                self._replace_operator(self._settings.faults.restart_s, cut_off_s=RECONNECT_S)
            case EventKind.LEAD:
                self._replace_operator(LEADERLESS_S * self._draw.random(), cut_off_s=0.0)
            case EventKind.CLOCK:
                self._clock_off_s = STEP_S * (2 * self._draw.random() - 1)
            case EventKind.PLAN:
                if index == _MUST or self._now >= self._plan_at:
                    self._plan_at = inf
                    self._plan()
                return
        self._send_states()
        self._note_shortage()
        if self._baseline is None:
            self._plan_soon(PUSH_S)

    def _admit(self) -> None:
        """Give the free slots to the waiting callers, in order of arrival."""
        while self._queue:
            open_pods = [pod for pod in self._pods.values() if pod.free]
            if not open_pods:
                return
            pod = max(open_pods, key=lambda pod: pod.preference)
            index = self._queue.popleft()
            session = self._trace[index]
            self._stats.place(self._now - session.arrival_s)
            pod.sessions.add(index)
            self._push(self._now + session.duration_s, EventKind.END, index, pod.name)

    def _crash(self) -> None:
        ready = [pod for pod in self._pods.values() if pod.ready]
        if not ready:
            return
        pod = ready[int(self._draw.random() * len(ready))]
        self._stats.lose(len(pod.sessions))
        pod.sessions.clear()
        pod.ready = pod.draining = False
        pod.version += 1
        self._start(pod)

    def _silence(self, name: str) -> None:
        until = self._now + _exponential(self._settings.faults.silence_s, self._draw)
        if name == "gateway":
            self._gateway_silent_until = until
        elif self._pods:
            known = list(self._pods.values())
            known[int(self._draw.random() * len(known))].silent_until_s = until
        self._push(self._now + capacity.STALE_S + 0.01, EventKind.PLAN, _MUST)
        self._push(until + 0.01, EventKind.PLAN, _MUST)

    def _replace_operator(self, down_s: float, cut_off_s: float) -> None:
        """Stop the operator for a time, and then start one without a history."""
        self._history = None
        self._down_until = self._now + down_s
        self._cut_off_until = self._down_until + cut_off_s
        self._plan_soon(down_s)
        self._push(self._cut_off_until, EventKind.PLAN, _MUST)

    def _schedule_faults(self) -> None:
        faults = self._settings.faults
        pods = max(1, sum(self._settings.gpus.values()) // 2)
        for what, name, per_hour in (
            (EventKind.CRASH, "", faults.crashes_per_hour * pods),
            (EventKind.SILENCE, "pod", faults.silences_per_hour * pods),
            (EventKind.SILENCE, "gateway", faults.gateway_silences_per_hour),
            (EventKind.RESTART, "", faults.restarts_per_hour),
            (EventKind.LEAD, "", faults.leader_changes_per_hour),
            (EventKind.CLOCK, "", faults.clock_steps_per_hour),
        ):
            at = 0.0
            while per_hour and (at := at + _exponential(3600 / per_hour, self._draw)) < self._end_s:
                self._push(at, what, 0, name)

    # Operator

    def _send_states(self) -> None:
        """Send the states of all streams that are not silent."""
        for pod in self._pods.values():
            pod.send_state(self._now)
        if self._now >= self._gateway_silent_until:
            self._demand = Demand(len(self._queue), self._arrived, gateways=1)
            self._gateway_heard_s = self._now

    def _plan(self) -> None:
        if self._now < self._down_until:
            return self._plan_soon(self._down_until - self._now)
        self._send_states()  # each stream sends at least one line per second
        if self._baseline is not None:
            self._follow_baseline(self._baseline)
            return self._plan_soon(self._baseline.every_s)
        clock = pods.EPOCH_S + self._now + self._clock_off_s
        plan = planner.plan(self._service, self._observed(), self._options, clock)
        if plan.scaling is not None:
            self._history = plan.scaling.decision.history
            if self._on_decision is not None:
                self._on_decision(plan.scaling)
        self._stats.want(plan.desired)
        failed = False
        for action in plan.actions:
            if self._draw.random() < self._settings.faults.api_fault_ratio:
                failed = True
            else:
                self._act(action)
        self._note_shortage()
        self._stats.record(self._now, self._pods.values(), len(self._queue))
        if failed:
            self._plan_soon(1.0)
        if plan.wake_after_s is not None:
            self._plan_soon(max(0.05, plan.wake_after_s))
        return None

    def _observed(self) -> planner.Observed:
        cut_off = self._now < self._cut_off_until
        silent = self._now - self._gateway_heard_s > capacity.STALE_S
        demand = Demand(self._demand.waiting, self._demand.arrived, 1, int(silent or cut_off))
        pods = tuple(pod.as_runtime_pod(self._service) for pod in self._pods.values())
        states = {pod.uid: pod.state(self._now) for pod in self._pods.values()}
        return planner.Observed(
            nodes=self._nodes,
            uses=tuple(PodUse(pod.node, 1, pod.gpu_class) for pod in pods),
            profiles=self._profiles,
            pods=pods,
            states={} if cut_off else {uid: s for uid, s in states.items() if s is not None},
            has_control_secret=True,
            scaling_context=inputs.ScalingContext(
                demand,
                self._history,
                self._now,
                start_s=start_times.p90_by_class(self._starts),
            ),
        )

    def _act(self, action: planner.Action) -> None:
        match action:
            case planner.CreatePod(name=name, pool=pool):
                assert isinstance(pool.outcome, batch_size.BatchPlan)
                self._create(name, pool.gpu_class, pool.outcome)
                self._pods[name].reserve = action.reserve
            case planner.PromotePod(name=name):
                self._pods[name].reserve = False
            case planner.ReservePod(name=name):
                self._pods[name].reserve = True
            case planner.DrainPod(name=name):
                self._pods[name].draining = True
                self._plan_soon(PUSH_S)  # the pod sends its state
            case planner.UndrainPod(name=name):
                self._pods[name].draining = False
                self._admit()
            case planner.DeletePod(name=name, resource_version=version):
                pod = self._pods[name]
                if version in (None, str(pod.version)):
                    self._delete(pod)
            case _:
                pass  # Secrets, PodDisruptionBudgets and protection have no effect here

    def _create(self, name: str, gpu_class: str, outcome: batch_size.BatchPlan) -> None:
        self._made += 1
        pod = SimulatedPod(
            name=name,
            uid=f"{name}#{self._made}",
            gpu_class=gpu_class,
            slots=outcome.sessions_per_pod,
            batch_size=outcome.batch_size,
            spec_hash=hash_spec(self._service, self._options.image),
            created_s=self._now,
        )
        self._pods[name] = pod
        self._stats.make(self._now, pod, len(self._pods), bounded=self._baseline is None)
        self._start(pod)

    def _start(self, pod: SimulatedPod) -> None:
        spread = self._settings.start_spread
        normal = sum(self._draw.random() for _ in range(12)) - 6  # Irwin and Hall's
        wait_s = exp(log(self._settings.start_s) + spread * normal)
        self._push(self._now + wait_s, EventKind.READY, pod.version, pod.name)

    def _delete(self, pod: SimulatedPod) -> None:
        del self._pods[pod.name]
        self._stats.delete(self._now, pod, forbidden=self._baseline is None)

    def _follow_baseline(self, baseline: Scaler) -> None:
        """Scale as a Deployment does: the newest pods are deleted, even with sessions."""
        ready = sum(1 for pod in self._pods.values() if pod.ready)
        gpu_class, outcome = self._best()
        sessions = sum(len(pod.sessions) for pod in self._pods.values()) + len(self._queue)
        pods = len(self._pods)
        policy = self._service.autoscaling
        low, high = (policy.min_replicas, policy.max_replicas) if policy else (1, 1)
        wanted = baseline.wanted(self._now, sessions, pods, ready, outcome.sessions_per_pod)
        desired = max(low, min(high, wanted, self._settings.gpus.get(gpu_class, 0)))
        self._stats.want(desired)
        for _ in range(pods, desired):
            self._create(f"pod-{self._made}", gpu_class, outcome)
        by_age = sorted(self._pods.values(), key=lambda pod: (pod.ready, -pod.created_s))
        for pod in by_age[: max(0, pods - desired)]:
            self._delete(pod)
        self._stats.record(self._now, self._pods.values(), len(self._queue))

    def best(self) -> batch_size.BatchPlan:
        """Return the batch plan of the GPU class that is filled first."""
        return self._best()[1]

    def _best(self) -> tuple[str, batch_size.BatchPlan]:
        stock = inventory.count_free(self._nodes, (), self._profiles, self._service.placement)
        for pool in rank(self._service, self._profiles, stock, self._options.memory_share):
            if isinstance(pool.outcome, batch_size.BatchPlan):
                return pool.gpu_class, pool.outcome
        raise InputError(
            "--service", str(self._service.key), "matches no GPU class of the profiles"
        )

    def _note_start(self, pod: SimulatedPod) -> None:
        start = start_times.PodStart(pod.name, pod.gpu_class, {"total": self._now - pod.created_s})
        self._starts = start_times.merged(self._starts, [start])

    def _note_shortage(self) -> None:
        self._stats.note_shortage(self._now, self._pods.values(), len(self._queue))

    def _push(self, at: float, what: EventKind, index: int, name: str = "") -> None:
        heapq.heappush(self._events, (at, what, index, name))

    def _plan_soon(self, after_s: float) -> None:
        """Schedule a plan, unless an earlier one is scheduled."""
        at = self._now + after_s
        if at < self._plan_at:
            self._plan_at = at
            self._push(at, EventKind.PLAN, 0)


def _exponential(mean: float, draw: RandomSource) -> float:
    return -mean * log(1 - draw.random())
