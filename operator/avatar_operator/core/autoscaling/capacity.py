"""Says what pods are worth to a service: how many slots they give, and how many pods it takes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil, inf
from statistics import mean, variance
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

STALE_S: Final = 3.5
"""Three of the lines that come at least each second: who is silent for longer proves nothing.

With the second until it is noticed, and the write, a service says so within 5 s.
"""

VRAM_MOST: Final = 0.9  # of the device's memory
MISSES_MOST: Final = 0.01  # of the frames, past their deadline
STRAIN_MOST: Final = 4.0  # a pod under pressure degrades its batch to a quarter, not further

START_S: Final = 30.0  # believed of pods until one has started
FEW_STARTS: Final = 5  # fewer say nothing of how much starts differ

OVERDUE: Final = (2.0, 15.0)
"""Of few starts the longest says little of the 99th percentile: so many times that, and seconds."""


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
    reserve: bool = False  # it takes sessions last
    cost: Decimal | None = None  # per hour, None if nobody says

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
    cost: Decimal | None = None  # of one pod, per hour


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


@dataclass(frozen=True, slots=True)
class Start:
    """How long pods take to start."""

    mean_s: float
    variance: float  # of a start, in s²


def start(starts_s: Sequence[float]) -> Start:
    """Return what the last starts say of the next one; of few, the longest is believed."""
    if not starts_s:
        return Start(START_S, 0.0)
    if len(starts_s) < FEW_STARTS:
        return Start(max(starts_s), 0.0)
    return Start(mean(starts_s), variance(starts_s))


def overdue_s(pods: Sequence[Pod], starts_s: Sequence[float]) -> float:
    """Return after which time a pod that has not started is not counted on.

    While none of them runs, more of the same would not start either.
    """
    if not any(pod.ready for pod in pods):
        return inf
    factor, least_s = OVERDUE
    return max(least_s, factor * max(starts_s, default=START_S))


def totals(pods: Sequence[Pod], slots: Sequence[int]) -> list[int]:
    """Return the slots of the most valuable pod, of the two most valuable ones, and so on.

    `slots` are the effective slots of `pods`.
    """
    if len(set(slots)) == 1:  # where all are alike, the order does not matter
        return [*accumulate(slots)]
    worth = sorted(zip(map(worth_of, pods), slots, strict=True), reverse=True)
    return [*accumulate(given for _, given in worth)]


def pods_for(needed: int, given: Sequence[int], offers: Iterable[Offer]) -> int:
    """Return how many pods give the slots: of those there are, whose `totals` are given, and new.

    The most valuable ones come first.
    """
    if needed <= 0:
        return 0
    if given and needed <= given[-1]:
        return bisect_left(given, needed) + 1
    short = needed - (given[-1] if given else 0)
    largest = max((after - before for before, after in pairwise((0, *given))), default=0)
    return len(given) + _new_pods(offers, largest, short)


def worth_of(pod: Pod) -> tuple[bool, bool, int, bool]:
    """Order pods as planning does: first those go that cost the sessions least."""
    return not pod.draining, pod.ready, pod.sessions, not pod.reserve


def _new_pods(offers: Iterable[Offer], largest: int, short: int) -> int:
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
    return pods + ceil(short / (each or largest or 1))
