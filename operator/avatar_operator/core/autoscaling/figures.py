"""The figures behind a decision: needed slots, existing slots, and the pods that follow."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import arrivals, capacity
from avatar_operator.core.autoscaling.capacity import STALE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.autoscaling.observation import Observation
    from avatar_operator.core.resources.autoscaling import Autoscaling

PROMOTION_S: Final = 2.0
"""Time until a pod of the reserve is promoted: a state line, a plan, a write and a watch event."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures that a decision used; the status shows them."""

    sessions: int
    waiting: int
    headroom: int
    """Free slots to keep."""
    arrivals_per_s: float
    start_s: float
    """Mean time that a pod takes to start, in seconds."""
    capacity: int
    """Effective slots of all pods, starting ones included."""
    pods: int
    wanted: int
    """Recommended pods, before any limit."""
    silent: int
    """Ready pods and gateways whose latest state is stale or missing."""
    serving: int
    """The part of `wanted` that is not in the reserve."""

    @property
    def slots(self) -> int:
        """The needed slots."""
        return self.sessions + self.waiting + self.headroom


def calculate(
    policy: Autoscaling,
    observation: Observation,
    rate: float,
    starts_s: Sequence[float],
    overdue_s: float,
) -> Figures:
    """Return the figures of an observation; `rate` is in callers per second.

    The headroom is the largest of `freeSessions.min`, `freeSessions.percent` of the sessions, and
    the callers that arrive while a pod starts: the one that causes the start, and the 95th
    percentile of a Poisson count whose mean is itself uncertain, because the start time varies.
    Callers whose sessions the limits of the tenant would refuse are not expected to arrive.
    """
    pods, offers, demand = observation.pods, observation.offers, observation.demand
    sessions = sum(pod.sessions for pod in pods)
    start = capacity.estimate_start(starts_s, capacity.measured_start_s(offers))
    minimum = max(policy.free_min, ceil(sessions * policy.free_percent / 100))
    occupied = sessions + demand.waiting
    arriving = arrivals.headroom(rate * start.mean_s, rate**2 * start.variance)
    headroom = max(minimum, observation.admitted(arriving, occupied))
    slots = [capacity.effective_slots(pod, overdue_s) for pod in pods]
    cumulative = capacity.cumulative_slots(pods, slots)
    wanted = serving = capacity.pods_for(occupied + headroom, cumulative, offers)
    if observation.has_reserve(policy):
        # A reserve takes callers after PROMOTION_S, so the others need headroom only for that time.
        arriving = arrivals.headroom(rate * PROMOTION_S)
        prompt = max(minimum, observation.admitted(arriving, occupied))
        serving = capacity.pods_for(occupied + prompt, cumulative, offers)
        serving = max(policy.min_replicas, serving)
        kept = observation.reserve_to_keep(policy)
        wanted = max(wanted, serving + kept) if kept else serving
        headroom = headroom if kept else prompt
    silent = sum(1 for pod in pods if pod.ready and pod.state_age_s > STALE_S)
    return Figures(
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
