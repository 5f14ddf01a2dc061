"""Decides how many pods a service should have, from who is there, who waits and who may come.

Up at once; down only when a surplus is proven for the whole hold time by data
that is fresh. What cannot be observed (callers of the last minute, wishes of
the hold time) comes in as a `History` and goes out as the next one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, inf
from typing import Final

from avatar_operator.core import arrivals, model
from avatar_operator.core.arrivals import Arrivals
from avatar_operator.core.wishes import Wishes

STALE_S: Final = 5.0
"""Five of the lines that come at least each second: who is silent for longer proves nothing."""

VRAM_MOST: Final = 0.9  # of the device's memory
MISSES_MOST: Final = 0.01  # of the frames, past their deadline
STRAIN_MOST: Final = 4.0  # a pod under pressure degrades its batch to a quarter, not further

START_S: Final = 30.0  # believed of pods until one has started
KEPT_STARTS: Final = 20
FALLING_S: Final = 5.0
"""How often a rate that falls is looked at: it lowers a wish that has to last anyway."""

OVERDUE: Final = (2.0, 15.0)
"""Of few starts the longest says little of the 99th percentile: so many times that, and seconds."""


class Why(Enum):
    """What a decision followed."""

    DEMAND = "Demand"  # more is needed
    STEADY = "Steady"  # as many as are needed
    SURPLUS_UNPROVEN = "SurplusUnproven"  # it did not last the hold time yet
    PEAK_OF_HOLD_TIME = "PeakOfHoldTime"  # down to what was needed at most
    IDLE = "Idle"  # nobody came for so long that the last pod goes
    STATE_STALE = "StateStale"  # a surplus, but somebody is not heard of
    FROZEN_STALE = "FrozenStale"  # nobody is heard of
    FROZEN = "Frozen"  # by annotation
    SCALE_IN_PAUSED = "ScaleInPaused"  # by annotation


class Limit(Enum):
    """What kept a decision from giving what is needed."""

    MAX_REPLICAS = "MaxReplicas"
    FREE_GPUS = "NoFreeGPU"


@dataclass(frozen=True, slots=True)
class Pod:
    """A runtime pod that takes sessions, or soon will."""

    uid: str
    slots: int  # when all is well
    sessions: int  # as heard last
    ready: bool
    draining: bool
    age_s: float  # since it was created
    heard_s: float  # since its state was heard, infinite if it never was
    strain: float = 1.0  # 1 within its objectives, 2 at twice the load that it could bear

    @property
    def starting(self) -> bool:
        """Whether it is not ready, or ready and not heard of for the first time yet."""
        return not self.ready or self.heard_s == inf


@dataclass(frozen=True, slots=True)
class Offer:
    """A GPU class on which further pods could run."""

    gpu_class: str
    slots: int  # of one pod
    free: int  # GPUs


@dataclass(frozen=True, slots=True)
class Demand:
    """What the gateways say of one service, together."""

    waiting: int = 0
    arrived: int = 0  # callers so far; only differences count
    gateways: int = 0
    silent: int = 0  # of them, those not heard of for longer than is believed


@dataclass(frozen=True, slots=True)
class Observation:
    """What a decision is made from."""

    pods: Sequence[Pod]
    offers: Sequence[Offer]  # the one to fill first in front
    demand: Demand


@dataclass(frozen=True, slots=True)
class Inputs:
    """The numbers that a decision followed, for people to read."""

    sessions: int
    waiting: int
    headroom: int
    arrivals_per_s: float
    start_s: float
    capacity: int  # slots that count, now or soon
    pods: int
    wanted: int  # pods, before any bound
    silent: int  # pods and gateways not heard of

    @property
    def slots(self) -> int:
        """The slots wanted."""
        return self.sessions + self.waiting + self.headroom


@dataclass(frozen=True, slots=True)
class History:
    """What the last decision remembers for the next one."""

    pods: int  # decided last
    wishes: Wishes
    arrivals: Arrivals
    starts_s: tuple[float, ...]  # of the last pods that became ready
    starting: frozenset[str]  # UIDs of pods that were not ready yet
    busy: bool  # whether somebody was there
    busy_at: float  # when somebody was there last


@dataclass(frozen=True, slots=True)
class Decision:
    """How many pods to have, why, and when to ask again if nothing is heard."""

    pods: int
    why: Why
    limit: Limit | None
    inputs: Inputs
    history: History
    wake_after_s: float | None

    @property
    def is_blind(self) -> bool:
        """Whether nobody is heard of, so that nothing can be decided."""
        return self.why is Why.FROZEN_STALE


def decide(
    policy: model.Autoscaling, observation: Observation, history: History | None, now: float
) -> Decision:
    """Return how many pods the service should have; `now` is in seconds, monotonic."""
    before = history or _begin(observation, now)
    known = _learn(observation, before, now)
    inputs = _inputs(policy, observation, known, now)
    held = known.pods
    needed, limit = _bounded(inputs.wanted, policy, observation)
    idle = _is_idle(policy, inputs, known, now)
    if idle:
        needed, limit = 0, None
    # A time of which not all is known proves no surplus, so it counts as if all were needed.
    wish = max(needed, held) if inputs.silent else needed
    wishes = known.wishes.with_wish(now, wish, policy.down_after_s)
    known = replace(known, wishes=wishes)
    pods, why = _choose(policy, observation, known, inputs, needed, idle=idle, now=now)
    return Decision(
        pods=pods,
        why=why,
        limit=limit,
        inputs=inputs,
        history=replace(known, pods=pods),
        wake_after_s=_wake_after_s(policy, observation, known, inputs, pods, now),
    )


def strain(
    *,
    vram_ratio: float,
    deadline_miss_ratio: float,
    frame_p95_ms: float | None,
    budget_ms: float,
    batch_share: float = 1.0,
) -> float:
    """Return by how much a pod misses its objectives: 1 if by nothing.

    `batch_share` is the part of its batch that the pod has not given up under pressure.
    """
    misses = (
        vram_ratio / VRAM_MOST,
        deadline_miss_ratio / MISSES_MOST,
        (frame_p95_ms or 0.0) / budget_ms,
        1 / max(batch_share, 1 / STRAIN_MOST),
    )
    return min(STRAIN_MOST, max(1.0, *misses))


def effective_slots(pod: Pod, overdue_s: float) -> int:
    """Return how many slots a pod is good for, now or as soon as it has started.

    A pod that takes longer than `overdue_s` to start, or to be heard of, is not counted on.
    """
    if pod.starting and pod.age_s < overdue_s:
        return pod.slots
    if not pod.ready:
        return 0
    if pod.heard_s > STALE_S:
        return pod.sessions  # they go on, but whether there is room is not known
    if pod.strain <= 1.0:
        return pod.slots
    return max(1, int(pod.slots / pod.strain))


def _begin(observation: Observation, now: float) -> History:
    """Return the history of an operator that has just started: what is there stays."""
    pods = len(observation.pods)
    return History(
        pods=pods,
        wishes=Wishes.begun(now, pods),
        arrivals=Arrivals.begun(now, observation.demand.arrived),
        starts_s=(),
        starting=frozenset(),
        # Nobody was seen yet, but where pods run somebody may just have left.
        busy=pods > 0,
        busy_at=-inf,
    )


def _learn(observation: Observation, before: History, now: float) -> History:
    """Return the history with what is seen of callers and of pods that started."""
    demand = observation.demand
    known = before.arrivals.with_count(now, demand.arrived)
    came = known is not before.arrivals
    starting = frozenset(pod.uid for pod in observation.pods if not pod.ready)
    starts_s = before.starts_s
    if before.starting - starting:
        started = (p.age_s for p in observation.pods if p.ready and p.uid in before.starting)
        starts_s = (*starts_s, *started)[-KEPT_STARTS:]
    busy = came or demand.waiting > 0 or any(pod.sessions for pod in observation.pods)
    return replace(
        before,
        arrivals=known,
        starts_s=starts_s,
        starting=starting,
        busy=busy,
        busy_at=now if busy or before.busy else before.busy_at,
    )


def _inputs(
    policy: model.Autoscaling, observation: Observation, known: History, now: float
) -> Inputs:
    sessions = sum(pod.sessions for pod in observation.pods)
    waiting = observation.demand.waiting
    rate = known.arrivals.per_s(now)
    start_s = _start_s(known.starts_s)
    share = ceil(sessions * policy.free_percent / 100)
    headroom = max(policy.free_min, share, arrivals.at_most(rate * start_s))
    overdue_s = _overdue_s(observation, known.starts_s)
    slots = [effective_slots(pod, overdue_s) for pod in observation.pods]
    demand = observation.demand
    silent = sum(1 for pod in observation.pods if pod.ready and pod.heard_s > STALE_S)
    return Inputs(
        sessions=sessions,
        waiting=waiting,
        headroom=headroom,
        arrivals_per_s=rate,
        start_s=start_s,
        capacity=sum(slots),
        pods=len(observation.pods),
        wanted=_wanted(observation, slots, sessions + waiting + headroom),
        silent=silent + demand.silent,
    )


def _start_s(starts_s: Sequence[float]) -> float:
    """Return the time that 9 of 10 pods need to start."""
    if not starts_s:
        return START_S
    return sorted(starts_s)[ceil(0.9 * len(starts_s)) - 1]


def _overdue_s(observation: Observation, starts_s: Sequence[float]) -> float:
    """Return after which time a pod that has not started is not counted on.

    While none of them runs, more of the same would not start either.
    """
    if not any(pod.ready for pod in observation.pods):
        return inf
    factor, least_s = OVERDUE
    return max(least_s, factor * max(starts_s, default=START_S))


def _wanted(observation: Observation, slots: Sequence[int], needed: int) -> int:
    """Return the pods that give the slots: the most valuable ones that are there, and new ones."""
    if needed == 0:
        return 0
    short = needed - sum(slots)
    if short > 0:
        return len(slots) + _new_pods(observation.offers, slots, short)
    if len(set(slots)) == 1:
        return ceil(needed / slots[0])  # where all are alike, the order does not matter
    worth = sorted(zip(map(_worth, observation.pods), slots, strict=True), reverse=True)
    kept = 0
    for _, given in worth:
        if needed <= 0:
            break
        needed -= given
        kept += 1
    return kept


def _worth(pod: Pod) -> tuple[bool, bool, int]:
    """Order pods as planning does: first those go that cost the sessions least."""
    return not pod.draining, pod.ready, pod.sessions


def _new_pods(offers: Iterable[Offer], slots: Sequence[int], short: int) -> int:
    """Return how many pods more it takes, class by class as long as GPUs are free."""
    pods = 0
    each = 0
    for offer in offers:
        each = each or offer.slots  # beyond all free GPUs, pods of the best class are wished for
        count = min(offer.free, ceil(short / offer.slots))
        pods += count
        short -= count * offer.slots
        if short <= 0:
            return pods
    return pods + ceil(short / (each or max(slots, default=0) or 1))


def _bounded(
    wanted: int, policy: model.Autoscaling, observation: Observation
) -> tuple[int, Limit | None]:
    """Return the pods within all bounds, and the bound that keeps it from what is wanted."""
    bounds = (
        (policy.max_replicas, Limit.MAX_REPLICAS),
        (len(observation.pods) + sum(offer.free for offer in observation.offers), Limit.FREE_GPUS),
    )
    most, limit = min(bounds, key=lambda bound: bound[0])
    least = policy.min_replicas
    if policy.min_replicas == 0 and policy.zero_after_s is None:
        least = 1  # without a time after which it goes, the last pod stays
    if wanted > most:
        return max(least, most), limit
    return max(least, wanted), None


def _is_idle(policy: model.Autoscaling, inputs: Inputs, known: History, now: float) -> bool:
    """Return whether the service may have no pod at all."""
    if policy.min_replicas or policy.zero_after_s is None or inputs.sessions or inputs.waiting:
        return False
    return now - known.busy_at >= policy.zero_after_s


def _choose(
    policy: model.Autoscaling,
    observation: Observation,
    known: History,
    inputs: Inputs,
    needed: int,
    *,
    idle: bool,
    now: float,
) -> tuple[int, Why]:
    low, high = policy.min_replicas, policy.max_replicas
    held = min(max(known.pods, low), high)  # the owner's bounds hold whatever else is known
    demand = observation.demand
    if policy.freeze:
        return held, Why.FROZEN
    sources = demand.gateways + sum(1 for pod in observation.pods if pod.ready)
    if inputs.silent and inputs.silent == sources:
        return held, Why.FROZEN_STALE
    if needed >= held:
        return needed, Why.DEMAND if needed > held else Why.STEADY
    if policy.pause_scale_in:
        return held, Why.SCALE_IN_PAUSED
    if inputs.silent:
        return held, Why.STATE_STALE
    if idle:
        return needed, Why.IDLE
    if not known.wishes.proves(now, policy.down_after_s):
        return held, Why.SURPLUS_UNPROVEN
    peak = max(needed, known.wishes.peak(now, policy.down_after_s))
    return min(held, peak), Why.PEAK_OF_HOLD_TIME if peak < held else Why.SURPLUS_UNPROVEN


def _wake_after_s(
    policy: model.Autoscaling,
    observation: Observation,
    known: History,
    inputs: Inputs,
    pods: int,
    now: float,
) -> float | None:
    """Return when time alone may change the decision, None if it cannot."""
    waits = []
    if inputs.arrivals_per_s > 0:
        waits.append(FALLING_S)  # the rate falls as the window moves on
    if pods > known.wishes.latest and not (policy.freeze or policy.pause_scale_in):
        waits.append(known.wishes.falls_after_s(now, policy.down_after_s))
    if policy.zero_after_s is not None and pods and not inputs.sessions:
        waits.append(known.busy_at + policy.zero_after_s - now)
    overdue_s = _overdue_s(observation, known.starts_s)
    waits += [overdue_s - p.age_s for p in observation.pods if not p.ready and p.age_s < overdue_s]
    coming = [seconds for seconds in waits if 0 < seconds < inf]
    return min(coming, default=None)
