"""Runs a service over a trace in virtual time: the operator's own planning in a made world.

The world keeps its own count of sessions, GPUs and slots, and notes whenever a
rule of the product is broken. Nothing in it looks at a clock, and chance comes
from the source that is passed in: the same seed gives the same run.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import IntEnum
from math import ceil, exp, inf, log
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import capacity, inputs, scaling
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.gpus import batch_size, inventory
from avatar_operator.core.gpus.pools import rank
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.planning import planner
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.errors import InputError
from avatar_operator.simulator import pods
from avatar_operator.simulator.accounting import Ledger
from avatar_operator.simulator.pods import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.service import Service
    from avatar_operator.simulator.scenario import Note, Result, Scaler, Settings
    from avatar_operator.simulator.traces import Draw, Session

PUSH_S: Final = 0.12  # from a change on a pod to the plan that knows it
REHEARD_S: Final = 0.3  # a new operator has opened all streams
LEADERLESS_S: Final = 5.0  # at most, from one leader to the next
STEP_S: Final = 3600.0  # at most, of a clock
LATE_S: Final = 300.0  # after the last session ended, the world runs on for so long

_MUST: Final = 1  # of a plan that no earlier one replaces


class What(IntEnum):
    """The kinds of events; at equal times the earlier in this list comes first."""

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
    draw: Draw,
    rival: Scaler | None = None,
    note: Note | None = None,
) -> Result:
    """Return what becomes of a trace; `note` is told of each decision."""
    world = World(service, profiles, trace, settings, draw, rival, note)
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
        service: Service,
        profiles: Sequence[GPUProfile],
        trace: Sequence[Session],
        settings: Settings,
        draw: Draw,
        rival: Scaler | None = None,
        note: Note | None = None,
    ) -> None:
        self._service = service
        self._profiles = tuple(p for p in profiles if settings.gpus.get(p.name, 0))
        self._trace = trace
        self._settings = settings
        self._draw = draw
        self._rival = rival
        self._note = note
        self._options = planner.Options("image")
        self._nodes = tuple(pods.node(p, settings.gpus[p.name]) for p in self._profiles)
        costs = {profile.name: profile.cost_per_hour for profile in self._profiles}
        self._ledger = Ledger(service.autoscaling, settings.gpus, costs)
        self._now = 0.0
        self._events: list[tuple[float, What, int, str]] = []
        self._boxes: dict[str, Box] = {}
        self._queue: deque[int] = deque()
        self._made = 0
        self._arrived = 0
        self._plan_at = inf
        self._history: scaling.History | None = None
        self._down_until = 0.0
        self._deaf_until = 0.0
        self._clock_off_s = 0.0
        self._demand = Demand(gateways=1)
        self._gateway_silent_until = 0.0
        self._gateway_heard_s = 0.0
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
            self._ledger.pass_time(at - self._now, len(self._boxes))
            self._now = at
            self._happen(what, index, name)
            self._ledger.check(self._now, self._boxes.values())
        return self._ledger.result(len(self._trace))

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
                    self._ledger.refuse()
            case What.END:
                box = self._boxes.get(name)
                if box is not None and index in box.sessions:
                    box.sessions.discard(index)
                    self._ledger.end()
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
                self._replace_operator(self._settings.faults.restart_s, deaf_s=REHEARD_S)
            case What.LEAD:
                self._replace_operator(LEADERLESS_S * self._draw.random(), deaf_s=0.0)
            case What.CLOCK:
                self._clock_off_s = STEP_S * (2 * self._draw.random() - 1)
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
            box = max(open_boxes, key=lambda box: box.preference)
            index = self._queue.popleft()
            session = self._trace[index]
            self._ledger.place(self._now - session.arrival_s)
            box.sessions.add(index)
            self._push(self._now + session.duration_s, What.END, index, box.name)

    def _crash(self) -> None:
        ready = [box for box in self._boxes.values() if box.ready]
        if not ready:
            return
        box = ready[int(self._draw.random() * len(ready))]
        self._ledger.lose(len(box.sessions))
        box.sessions.clear()
        box.ready = box.draining = False
        box.version += 1
        self._start(box)

    def _silence(self, name: str) -> None:
        until = self._now + _exponential(self._settings.faults.silence_s, self._draw)
        if name == "gateway":
            self._gateway_silent_until = until
        elif self._boxes:
            known = list(self._boxes.values())
            known[int(self._draw.random() * len(known))].silent_until_s = until
        self._push(self._now + capacity.STALE_S + 0.01, What.PLAN, _MUST)
        self._push(until + 0.01, What.PLAN, _MUST)

    def _replace_operator(self, down_s: float, deaf_s: float) -> None:
        """Let nobody act for a time, and then one who remembers nothing."""
        self._history = None
        self._down_until = self._now + down_s
        self._deaf_until = self._down_until + deaf_s
        self._plan_soon(down_s)
        self._push(self._deaf_until, What.PLAN, _MUST)

    def _schedule_faults(self) -> None:
        faults = self._settings.faults
        pods = max(1, sum(self._settings.gpus.values()) // 2)
        for what, name, per_hour in (
            (What.CRASH, "", faults.crashes_per_hour * pods),
            (What.SILENCE, "pod", faults.silences_per_hour * pods),
            (What.SILENCE, "gateway", faults.gateway_silences_per_hour),
            (What.RESTART, "", faults.restarts_per_hour),
            (What.LEAD, "", faults.leader_changes_per_hour),
            (What.CLOCK, "", faults.clock_steps_per_hour),
        ):
            at = 0.0
            while per_hour and (at := at + _exponential(3600 / per_hour, self._draw)) < self._end_s:
                self._push(at, what, 0, name)

    # The operator.

    def _hear(self) -> None:
        """Let every stream that is not silent say how things are."""
        for box in self._boxes.values():
            box.hear(self._now)
        if self._now >= self._gateway_silent_until:
            self._demand = Demand(len(self._queue), self._arrived, gateways=1)
            self._gateway_heard_s = self._now

    def _plan(self) -> None:
        if self._now < self._down_until:
            return self._plan_soon(self._down_until - self._now)
        self._hear()  # at least a line a second comes from each
        if self._rival is not None:
            self._follow_rival(self._rival)
            return self._plan_soon(self._rival.every_s)
        clock = pods.EPOCH_S + self._now + self._clock_off_s
        plan = planner.plan(self._service, self._observed(), self._options, clock)
        if plan.scaling is not None:
            self._history = plan.scaling.decision.history
            if self._note is not None:
                self._note(plan.scaling)
        self._ledger.want(plan.desired)
        failed = False
        for action in plan.actions:
            if self._draw.random() < self._settings.faults.api_fault_ratio:
                failed = True
            else:
                self._act(action)
        self._note_shortage()
        self._ledger.record(self._now, self._boxes.values(), len(self._queue))
        if failed:
            self._plan_soon(1.0)
        if plan.wake_after_s is not None:
            self._plan_soon(max(0.05, plan.wake_after_s))
        return None

    def _observed(self) -> planner.Observed:
        deaf = self._now < self._deaf_until
        silent = self._now - self._gateway_heard_s > capacity.STALE_S
        demand = Demand(self._demand.waiting, self._demand.arrived, 1, int(silent or deaf))
        pods = tuple(box.pod(self._service) for box in self._boxes.values())
        states = {box.uid: box.state(self._now) for box in self._boxes.values()}
        return planner.Observed(
            nodes=self._nodes,
            uses=tuple(PodUse(pod.node, 1, pod.gpu_class) for pod in pods),
            profiles=self._profiles,
            pods=pods,
            states={} if deaf else {uid: s for uid, s in states.items() if s is not None},
            has_control_secret=True,
            scaling_context=inputs.ScalingContext(demand, self._history, self._now),
        )

    def _act(self, action: planner.Action) -> None:
        match action:
            case planner.CreatePod(name=name, pool=pool):
                assert isinstance(pool.outcome, batch_size.BatchPlan)
                self._create(name, pool.gpu_class, pool.outcome)
                self._boxes[name].reserve = action.reserve
            case planner.PromotePod(name=name):
                self._boxes[name].reserve = False
            case planner.ReservePod(name=name):
                self._boxes[name].reserve = True
            case planner.DrainPod(name=name):
                self._boxes[name].draining = True
                self._plan_soon(PUSH_S)  # the pod says so
            case planner.UndrainPod(name=name):
                self._boxes[name].draining = False
                self._admit()
            case planner.DeletePod(name=name, resource_version=version):
                box = self._boxes[name]
                if version in (None, str(box.version)):
                    self._delete(box)
            case _:
                pass  # Secrets, budgets and marks change nothing here

    def _create(self, name: str, gpu_class: str, outcome: batch_size.BatchPlan) -> None:
        self._made += 1
        box = Box(
            name=name,
            uid=f"{name}#{self._made}",
            gpu_class=gpu_class,
            slots=outcome.sessions_per_pod,
            batch_size=outcome.batch_size,
            spec_hash=hash_spec(self._service, self._options.image),
            created_s=self._now,
        )
        self._boxes[name] = box
        self._ledger.make(self._now, box, len(self._boxes), bounded=self._rival is None)
        self._start(box)

    def _start(self, box: Box) -> None:
        spread = self._settings.start_spread
        normal = sum(self._draw.random() for _ in range(12)) - 6  # Irwin and Hall's
        wait_s = exp(log(self._settings.start_s) + spread * normal)
        self._push(self._now + wait_s, What.READY, box.version, box.name)

    def _delete(self, box: Box) -> None:
        del self._boxes[box.name]
        self._ledger.delete(self._now, box, forbidden=self._rival is None)

    def _follow_rival(self, rival: Scaler) -> None:
        """Do what a Deployment does: the newest pods go, whoever is on them."""
        ready = sum(1 for box in self._boxes.values() if box.ready)
        gpu_class, outcome = self._best()
        sessions = sum(len(box.sessions) for box in self._boxes.values()) + len(self._queue)
        pods = len(self._boxes)
        policy = self._service.autoscaling
        low, high = (policy.min_replicas, policy.max_replicas) if policy else (1, 1)
        wanted = rival.wanted(self._now, sessions, pods, ready, outcome.sessions_per_pod)
        desired = max(low, min(high, wanted, self._settings.gpus.get(gpu_class, 0)))
        self._ledger.want(desired)
        for _ in range(pods, desired):
            self._create(f"pod-{self._made}", gpu_class, outcome)
        by_age = sorted(self._boxes.values(), key=lambda box: (box.ready, -box.created_s))
        for box in by_age[: max(0, pods - desired)]:
            self._delete(box)
        self._ledger.record(self._now, self._boxes.values(), len(self._queue))

    def best(self) -> batch_size.BatchPlan:
        """Return what a pod can do on the class that is filled first."""
        return self._best()[1]

    def _best(self) -> tuple[str, batch_size.BatchPlan]:
        stock = inventory.count_free(self._nodes, (), self._profiles, self._service.placement)
        for pool in rank(self._service, self._profiles, stock, self._options.memory_share):
            if isinstance(pool.outcome, batch_size.BatchPlan):
                return pool.gpu_class, pool.outcome
        raise InputError("--service", str(self._service.key), "fits no GPU class of the profiles")

    def _note_shortage(self) -> None:
        self._ledger.note_shortage(self._now, self._boxes.values(), len(self._queue))

    def _push(self, at: float, what: What, index: int, name: str = "") -> None:
        heapq.heappush(self._events, (at, what, index, name))

    def _plan_soon(self, after_s: float) -> None:
        """Plan after a time, unless it is planned earlier anyway."""
        at = self._now + after_s
        if at < self._plan_at:
            self._plan_at = at
            self._push(at, What.PLAN, 0)


def _exponential(mean: float, draw: Draw) -> float:
    return -mean * log(1 - draw.random())
