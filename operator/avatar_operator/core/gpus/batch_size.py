"""Decides the batch size on a GPU class, and so how many sessions a pod carries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import floor
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.core.resources.service import Objective

if TYPE_CHECKING:
    from avatar_operator.core.resources.gpu_profile import Curve

BUCKETS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Batch sizes for which the runtime captures CUDA graphs; only these are considered."""

MEMORY_SHARE: Final = 0.9
"""Fraction of a GPU's memory that a batch may use; the runtime halves batches above it."""

LOAD_RATIO: Final = 0.9
"""Fraction of a pod's frames that sessions may use; the rest absorbs jitter between batches."""

LATENCY_BUDGET_MS: Final = {
    Objective.LATENCY: 100.0,
    Objective.BALANCED: 200.0,
    Objective.THROUGHPUT: 500.0,
}
"""Maximum time of one batch in milliseconds; a session receives its frames at this interval."""

KNEE_RATIO: Final = {Objective.LATENCY: 0.85, Objective.BALANCED: 0.95, Objective.THROUGHPUT: None}
"""Fraction of the best frames per second that is enough; None selects the largest batch."""


class LimitedBy(Enum):
    """Why the batch is not larger."""

    MEMORY = "memory"
    DEADLINE = "deadline"
    KNEE = "knee"  # a larger batch gains too little, or was not measured
    FIXED = "fixed"  # the user set it


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batch size for one GPU class, with the figures that follow from it."""

    batch_size: int
    sessions_per_pod: int
    frames_per_s: float
    memory_mib: int
    limited_by: LimitedBy
    reason: str


@dataclass(frozen=True, slots=True)
class NoBatch:
    """Why no batch size is possible on a GPU class."""

    reason: str


def plan_batch(
    curve: Curve,
    memory_mib: int,
    objective: Objective,
    fps: int,
    *,
    memory_share: float = MEMORY_SHARE,
) -> BatchPlan | NoBatch:
    """Return the batch size for an objective, within the memory and the latency budget.

    `memory_mib` is the memory that a pod may use, `fps` the frames per second of one session. The
    objectives latency and balanced select the smallest batch that reaches `KNEE_RATIO` of the best
    frames per second; throughput selects the largest batch.
    """
    latency_budget_ms = LATENCY_BUDGET_MS[objective]
    usable_mib = memory_share * memory_mib
    measured = [b for b in BUCKETS if curve.smallest <= b <= curve.largest]
    in_memory = [b for b in measured if curve.memory_mib(b) <= usable_mib]
    in_time = [b for b in in_memory if curve.batch_ms(b) <= latency_budget_ms]
    if not measured:
        return NoBatch(f"the curve of {curve.model} contains none of the batch sizes {BUCKETS}")
    if not in_memory:
        need = curve.memory_mib(measured[0])
        return NoBatch(
            f"a batch of {measured[0]} needs {need} MiB, "
            f"{usable_mib:.0f} of {memory_mib} MiB are usable"
        )
    if not in_time:
        return NoBatch(
            f"a batch of {measured[0]} takes {curve.batch_ms(measured[0]):.0f} ms, "
            f"objective {objective.value} allows {latency_budget_ms:.0f} ms"
        )
    ratio = KNEE_RATIO[objective]
    chosen = in_time[-1] if ratio is None else _knee(curve, in_time, ratio)
    limited_by, reason = LimitedBy.KNEE, ""
    if chosen < in_time[-1]:
        assert ratio is not None
        reason = f"batch {chosen} reaches {ratio:.0%} of the best frames/s"
    else:
        limited_by, reason = _ceiling(curve, chosen, measured, usable_mib, latency_budget_ms)
    return _plan(curve, chosen, fps, limited_by, reason)


def fixed_batch(
    curve: Curve, memory_mib: int, frames: int, fps: int, *, memory_share: float = MEMORY_SHARE
) -> BatchPlan | NoBatch:
    """Return the plan for `spec.batchSize`, if the memory is large enough."""
    usable_mib = memory_share * memory_mib
    if not curve.smallest <= frames <= curve.largest:
        return NoBatch(
            f"spec.batchSize is {frames}, the curve of {curve.model} "
            f"covers {curve.smallest} to {curve.largest}"
        )
    if curve.memory_mib(frames) > usable_mib:
        return NoBatch(
            f"spec.batchSize is {frames} and needs {curve.memory_mib(frames)} MiB, "
            f"{usable_mib:.0f} of {memory_mib} MiB are usable"
        )
    return _plan(curve, frames, fps, LimitedBy.FIXED, f"spec.batchSize is {frames}")


def _frames_per_s(curve: Curve, frames: int) -> float:
    return 1000 * frames / curve.batch_ms(frames)


def _knee(curve: Curve, buckets: list[int], ratio: float) -> int:
    enough = ratio * max(_frames_per_s(curve, b) for b in buckets)
    return next(b for b in buckets if _frames_per_s(curve, b) >= enough)


def _ceiling(
    curve: Curve, chosen: int, measured: list[int], usable_mib: float, latency_budget_ms: float
) -> tuple[LimitedBy, str]:
    """Return why the next larger batch size is excluded."""
    if chosen == measured[-1]:
        return LimitedBy.KNEE, f"batch {chosen} is the largest measured"
    larger = measured[measured.index(chosen) + 1]
    if curve.memory_mib(larger) > usable_mib:
        need = curve.memory_mib(larger)
        return LimitedBy.MEMORY, f"batch {larger} would need {need} of {usable_mib:.0f} usable MiB"
    took = curve.batch_ms(larger)
    return LimitedBy.DEADLINE, f"batch {larger} would take {took:.0f} of {latency_budget_ms:.0f} ms"


def _plan(curve: Curve, chosen: int, fps: int, limited_by: LimitedBy, why: str) -> BatchPlan:
    frames_per_s = _frames_per_s(curve, chosen)
    sessions = max(1, floor(LOAD_RATIO * frames_per_s / fps))
    carried = f"carry {text.count(sessions, 'session')}"
    if frames_per_s < fps:
        carried = f"are not enough for one session, which needs {fps}"
    return BatchPlan(
        batch_size=chosen,
        sessions_per_pod=sessions,
        frames_per_s=frames_per_s,
        memory_mib=curve.memory_mib(chosen),
        limited_by=limited_by,
        reason=f"{why}; {frames_per_s:.1f} frames/s {carried}",
    )
