"""Capacity: how many slots pods give, and how many pods a number of slots needs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, inf
from statistics import mean, variance
from typing import TYPE_CHECKING, Final

from avatar_contracts.state import STALE_S as STALE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

MAX_VRAM_RATIO: Final = 0.9  # of the device's memory
MAX_DEADLINE_MISS_RATIO: Final = 0.01  # of the frames
MAX_LOAD_FACTOR: Final = 4.0  # a pod under pressure reduces its batch to a quarter, not further

DEFAULT_START_S: Final = 30.0  # assumed start time until a pod has started
MIN_STARTS: Final = 5  # fewer starts do not give a usable variance

OVERDUE: Final = (2.0, 15.0)
"""A pod is overdue after this factor times the longest start, and after at least these seconds.

The longest of few starts is a poor estimate of the 99th percentile.
"""


@dataclass(frozen=True, slots=True)
class Pod:
    """A runtime pod that takes sessions or is starting."""

    uid: str
    slots: int
    """Sessions that the pod can take while it meets its objectives."""
    sessions: int
    """Live sessions in the latest state."""
    ready: bool
    draining: bool
    age_s: float
    """Seconds since the pod was created."""
    state_age_s: float
    """Seconds since the latest state; infinite if there is none."""
    load_factor: float = 1.0
    """1 if the pod meets its objectives, 2 at twice the load that it can take."""
    reserve: bool = False
    """Whether gateways use the pod only when all others are full."""
    cost: Decimal | None = None
    """Cost per hour; None if it is unknown."""

    @property
    def starting(self) -> bool:
        """Whether the pod is not ready, or is ready but has not sent a state yet."""
        return not self.ready or self.state_age_s == inf


@dataclass(frozen=True, slots=True)
class Offer:
    """A GPU class on which further pods can run."""

    gpu_class: str
    slots: int
    """Slots of one pod."""
    free: int
    """Free GPUs."""
    cost: Decimal | None = None
    """Cost of one pod per hour; None if it is unknown."""
    start_s: float | None = None
    """90th percentile of the measured starts on the class; None if none was measured."""


def load_factor(
    *,
    vram_ratio: float,
    deadline_miss_ratio: float,
    frame_p95_ms: float | None,
    latency_budget_ms: float,
    batch_share: float = 1.0,
) -> float:
    """Return by which factor a pod exceeds its objectives: 1 to `MAX_LOAD_FACTOR`.

    `batch_share` is the fraction of its batch size that the pod still uses under memory pressure.
    """
    factors = (
        vram_ratio / MAX_VRAM_RATIO,
        deadline_miss_ratio / MAX_DEADLINE_MISS_RATIO,
        (frame_p95_ms or 0.0) / latency_budget_ms,
        1 / max(batch_share, 1 / MAX_LOAD_FACTOR),
    )
    return min(MAX_LOAD_FACTOR, max(1.0, *factors))


def effective_slots(pod: Pod, overdue_s: float) -> int:
    """Return how many slots a pod gives, now or when it has started.

    A pod that takes longer than `overdue_s` to start, or to send its first state, gives none.
    """
    if pod.starting and pod.age_s < overdue_s:
        return pod.slots
    if not pod.ready:
        return 0
    if pod.state_age_s > STALE_S:
        return pod.sessions  # its sessions continue, but its free slots are unknown
    if pod.load_factor <= 1.0:
        return pod.slots
    return max(1, int(pod.slots / pod.load_factor))


@dataclass(frozen=True, slots=True)
class StartEstimate:
    """How long the next pod takes to start."""

    mean_s: float
    variance: float
    """Variance of one start, in s²."""


def measured_start_s(offers: Sequence[Offer]) -> float | None:
    """Return the measured start time of the class on which the next pod will run, None if none."""
    following = next((offer for offer in offers if offer.free > 0), None)
    return None if following is None else following.start_s


def estimate_start(starts_s: Sequence[float], measured_s: float | None = None) -> StartEstimate:
    """Estimate the next start from the last ones of the service.

    Of fewer than `MIN_STARTS` the longest is used, or `measured_s` if that is longer: the 90th
    percentile on the class, whose pods are of all services. Without any, it is the default.
    """
    if len(starts_s) >= MIN_STARTS:
        return StartEstimate(mean(starts_s), variance(starts_s))
    return StartEstimate(_longest_start(starts_s, measured_s), 0.0)


def overdue_s(
    pods: Sequence[Pod], starts_s: Sequence[float], measured_s: float | None = None
) -> float:
    """Return the age in seconds from which a pod that has not started gives no slots.

    It is infinite while no pod is ready, because further pods would not start either.
    """
    if not any(pod.ready for pod in pods):
        return inf
    factor, minimum_s = OVERDUE
    return max(minimum_s, factor * _longest_start(starts_s, measured_s))


def _longest_start(starts_s: Sequence[float], measured_s: float | None) -> float:
    known = [*starts_s, *(() if measured_s is None else (measured_s,))]
    return max(known, default=DEFAULT_START_S)


def cumulative_slots(pods: Sequence[Pod], slots: Sequence[int]) -> list[int]:
    """Return the slots of the first pod to keep, of the first two, and so on.

    `slots` are the effective slots of `pods`, in the same order.
    """
    if len(set(slots)) == 1:  # the order makes no difference
        return [*accumulate(slots)]
    priorities = map(scale_down_priority, pods)
    ordered = sorted(zip(priorities, slots, strict=True), reverse=True)
    return [*accumulate(given for _, given in ordered)]


def pods_for(needed: int, cumulative: Sequence[int], offers: Iterable[Offer]) -> int:
    """Return how many pods give `needed` slots: existing pods first, then new ones.

    `cumulative` is what `cumulative_slots` returns for the existing pods.
    """
    if needed <= 0:
        return 0
    if cumulative and needed <= cumulative[-1]:
        return bisect_left(cumulative, needed) + 1
    short = needed - (cumulative[-1] if cumulative else 0)
    largest = max((after - before for before, after in pairwise((0, *cumulative))), default=0)
    return len(cumulative) + _new_pods(offers, largest, short)


def scale_down_priority(pod: Pod) -> tuple[bool, bool, int, bool]:
    """Return the sort key by which pods are removed, lowest first, as planning does it."""
    return not pod.draining, pod.ready, pod.sessions, not pod.reserve


def _new_pods(offers: Iterable[Offer], largest: int, short: int) -> int:
    """Return how many new pods give `short` slots, class by class while GPUs are free.

    Beyond all free GPUs, pods of the first class are counted.
    """
    pods = 0
    each = 0
    for offer in offers:
        each = each or offer.slots
        count = min(offer.free, ceil(short / offer.slots))
        pods += count
        short -= count * offer.slots
        if short <= 0:
            return pods
    return pods + ceil(short / (each or largest or 1))
