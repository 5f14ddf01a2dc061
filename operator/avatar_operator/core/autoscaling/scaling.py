"""Decides how many pods a service should have, from who is there, who waits and who may come.

Up at once; down only when a surplus is proven for the whole hold time by data
that is fresh. What cannot be observed (callers of the last minute, wishes of
the hold time) comes in as a `History` and goes out as the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import arrivals, capacity, limits
from avatar_operator.core.autoscaling.arrivals import Arrivals
from avatar_operator.core.autoscaling.capacity import STALE_S, Offer, Pod
from avatar_operator.core.autoscaling.limits import Limit, Pace
from avatar_operator.core.autoscaling.stabilization import Wishes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.resources.autoscaling import Autoscaling

PROMOTION_S: Final = 2.0
"""From a caller to a promoted pod of the reserve: a state line, a plan, a write, a watch."""

KEPT_STARTS: Final = 20
FALLING_S: Final = 5.0
"""How often a rate that falls is looked at: it lowers a wish that has to last anyway."""


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


@dataclass(frozen=True, slots=True)
class Demand:
    """What the gateways say of one service, together."""

    waiting: int = 0
    arrived: int = 0  # callers so far; only differences count
    gateways: int = 0
    silent: int = 0  # of them, those not heard of for longer than is believed


@dataclass(frozen=True, slots=True)
class Share:
    """What a service has to do with a reserve that it shares with others."""

    pods: int  # of the reserve
    keeps: bool  # whether they are pods of this very service


@dataclass(frozen=True, slots=True)
class Observation:
    """What a decision is made from."""

    pods: Sequence[Pod]
    offers: Sequence[Offer]  # the one to fill first in front
    demand: Demand
    leaving_cost: Decimal = Decimal(0)  # per hour, of pods that are deleted and have sessions yet
    share: Share | None = None  # None: the reserve is the service's own

    def kept(self, policy: Autoscaling) -> int:
        """Return the pods of a reserve that the service itself has to keep."""
        if self.share is None:
            return policy.reserve
        return self.share.pods if self.share.keeps else 0

    def is_covered(self, policy: Autoscaling) -> bool:
        """Return whether a reserve takes those who come while a pod starts."""
        return bool(policy.reserve if self.share is None else self.share.pods)


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
    serving: int  # of the pods wanted, those that are not the reserve

    @property
    def slots(self) -> int:
        """The slots wanted."""
        return self.sessions + self.waiting + self.headroom


@dataclass(frozen=True, slots=True)
class History:
    """What the last decision remembers for the next one."""

    pods: int  # decided last
    wishes: Wishes
    pace: Pace
    arrivals: Arrivals
    starts_s: tuple[float, ...]  # of the last pods that became ready
    starting: frozenset[str]  # UIDs of pods that were not ready yet
    busy: bool  # whether somebody was there
    busy_at: float  # when somebody was there last


@dataclass(frozen=True, slots=True)
class Decision:
    """How many pods to have, why, and when to ask again if nothing is heard."""

    pods: int
    reserve: int  # of them, those that take sessions last
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
    policy: Autoscaling, observation: Observation, history: History | None, now: float
) -> Decision:
    """Return how many pods the service should have; `now` is in seconds, monotonic.

    The policy's schedules are not looked at: `policy` is what they make of it.
    """
    before = history or _begin(observation, now)
    known = _learn(observation, before, now)
    overdue_s = capacity.overdue_s(observation.pods, known.starts_s)
    inputs = _inputs(policy, observation, known, overdue_s, now)
    span = limits.find(policy, observation.pods, observation.offers, observation.leaving_cost)
    needed = span.keep(inputs.wanted)
    limit = span.limit if inputs.wanted > span.most else None
    idle = _is_idle(policy, observation, inputs, known, now)
    if idle:
        needed, limit = 0, None
    # A time of which not all is known proves no surplus, so it counts as if all were needed.
    wish = max(needed, known.pods) if inputs.silent else needed
    known = replace(known, wishes=known.wishes.with_wish(now, wish, policy.down_after_s))
    known = replace(known, pods=span.hold(known.pods))
    chosen, why = _choose(policy, observation, known, inputs, needed, idle=idle, now=now)
    pods = chosen if idle else span.hold(known.pace.paced(chosen, now, policy.rate))
    known = replace(known, pods=pods, pace=known.pace.with_pods(now, pods, policy.rate))
    return Decision(
        pods=pods,
        reserve=min(observation.kept(policy), max(0, pods - inputs.serving)),
        why=why,
        limit=limit if pods >= chosen else Limit.RATE,
        inputs=inputs,
        history=known,
        wake_after_s=_wake_after_s(policy, observation, known, inputs, overdue_s, now),
    )


def _begin(observation: Observation, now: float) -> History:
    """Return the history of an operator that has just started: what is there stays."""
    pods = len(observation.pods)
    return History(
        pods=pods,
        wishes=Wishes.begun(now, pods),
        pace=Pace.begun(now, pods),
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
    policy: Autoscaling,
    observation: Observation,
    known: History,
    overdue_s: float,
    now: float,
) -> Inputs:
    pods, offers, demand = observation.pods, observation.offers, observation.demand
    sessions = sum(pod.sessions for pod in pods)
    rate = known.arrivals.per_s(now)
    start = capacity.start(known.starts_s)
    least = max(policy.free_min, ceil(sessions * policy.free_percent / 100))
    # Who comes while a pod starts: a Poisson count over a time that is not certain itself.
    headroom = max(least, arrivals.at_most(rate * start.mean_s, rate**2 * start.variance))
    slots = [capacity.effective_slots(pod, overdue_s) for pod in pods]
    here = sessions + demand.waiting
    totals = capacity.totals(pods, slots)
    wanted = serving = capacity.pods_for(here + headroom, totals, offers)
    if observation.is_covered(policy):
        # The reserve is there at once: with it, callers need not be met while a pod starts.
        prompt = max(least, arrivals.at_most(rate * PROMOTION_S))
        serving = max(policy.min_replicas, capacity.pods_for(here + prompt, totals, offers))
        kept = observation.kept(policy)
        wanted = max(wanted, serving + kept) if kept else serving
        headroom = headroom if kept else prompt
    silent = sum(1 for pod in pods if pod.ready and pod.heard_s > STALE_S)
    return Inputs(
        sessions=sessions,
        waiting=demand.waiting,
        headroom=headroom,
        arrivals_per_s=rate,
        start_s=start.mean_s,
        capacity=sum(slots),
        pods=len(pods),
        wanted=wanted,
        silent=silent + demand.silent,
        serving=serving,
    )


def _is_idle(
    policy: Autoscaling, observation: Observation, inputs: Inputs, known: History, now: float
) -> bool:
    """Return whether the service may have no pod at all."""
    if policy.zero_after_s is None or policy.min_replicas or observation.kept(policy):
        return False
    return not (inputs.sessions or inputs.waiting) and now - known.busy_at >= policy.zero_after_s


def _choose(
    policy: Autoscaling,
    observation: Observation,
    known: History,
    inputs: Inputs,
    needed: int,
    *,
    idle: bool,
    now: float,
) -> tuple[int, Why]:
    held = known.pods
    demand = observation.demand
    if policy.freeze:
        return held, Why.FROZEN
    sources = demand.gateways + sum(1 for pod in observation.pods if pod.ready)
    if inputs.silent and inputs.silent == sources:
        return held, Why.FROZEN_STALE
    if needed > held and _is_deaf(observation):
        return held, Why.STATE_STALE
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


def _is_deaf(observation: Observation) -> bool:
    """Return whether no ready pod is heard of, and no caller says that this is felt.

    That all of them fail at once is less likely than that something between them and us does.
    """
    ready = [pod for pod in observation.pods if pod.ready]
    silent = all(pod.heard_s > STALE_S for pod in ready)
    return bool(ready) and silent and not observation.demand.waiting


def _wake_after_s(
    policy: Autoscaling,
    observation: Observation,
    known: History,
    inputs: Inputs,
    overdue_s: float,
    now: float,
) -> float | None:
    """Return when time alone may change the decision, None if it cannot."""
    waits = []
    pods = known.pods
    if policy.rate is not None:
        waits.append(known.pace.frees_after_s(now, policy.rate))
    if inputs.arrivals_per_s > 0:
        waits.append(FALLING_S)  # the rate falls as the window moves on
    if pods > known.wishes.latest and not (policy.freeze or policy.pause_scale_in):
        waits.append(known.wishes.falls_after_s(now, policy.down_after_s))
    if policy.zero_after_s is not None and pods and not inputs.sessions:
        waits.append(known.busy_at + policy.zero_after_s - now)
    waits += [overdue_s - p.age_s for p in observation.pods if not p.ready and p.age_s < overdue_s]
    coming = [seconds for seconds in waits if 0 < seconds < inf]
    return min(coming, default=None)
