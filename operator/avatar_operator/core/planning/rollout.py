"""Decides how fast a rollout goes, and when it has to stop.

New pods come before old ones go. The rollout halts by itself when the new pods
do not work, or answer later than the old ones: the old ones then go on serving,
and applying the old spec again makes them the current ones at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Final

from avatar_operator.core.resources.fields import Fields
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

SURGE: Final = 0.25
"""Part of the pods wanted that may be there besides them while old ones still take sessions."""

RESTARTS: Final = 2
"""A new pod that was restarted so often and is not ready does not work."""

FAILURES: Final = 3
"""So many new pods that ended for good mean the same."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rollout has to keep."""

    ready_s: float = 600.0  # from the pod's making to its readiness
    factor: float = 2.0  # of the old pods' first-frame p95
    margin_ms: float = 100.0  # a difference below this is noise, whatever the factor says


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a rollout goes no further."""

    reason: Reason
    message: str


def surge(desired: int) -> int:
    """Return how many pods more than wanted may take sessions during a rollout."""
    return max(1, ceil(desired * SURGE))


def judge(
    new: Sequence[RuntimePod],
    ended: Sequence[RuntimePod],
    old: Sequence[RuntimePod],
    states: Mapping[str, PodState],
    limits: Limits,
    now: float,
) -> Halt | None:
    """Return why the rollout from `old` to `new` has to stop, None while it may go on.

    `ended` are pods of the new spec that ended for good. A pod that waits for a
    node is not at fault.
    """
    if not old:
        return None
    failing = [why for pod in new if (why := _failing(pod, limits, now))]
    if len(ended) >= FAILURES:
        failing.append(f"{len(ended)} ended: {ended[-1].trouble or ended[-1].phase}")
    if failing:
        return Halt(Reason.NEW_PODS_FAILING, "new pods do not work: " + "; ".join(failing))
    before, after = _first_frame_ms(old, states), _first_frame_ms(new, states)
    if before is None or after is None:
        return None
    if after > before * limits.factor and after > before + limits.margin_ms:
        message = f"new pods are slower: first frame p95 {after:.0f} ms, old pods {before:.0f} ms"
        return Halt(Reason.NEW_PODS_SLOWER, f"{message}, allowed {limits.factor:g} times as much")
    return None


def remembered(status: Mapping[str, object], generation: int) -> Halt | None:
    """Return the halt for slowness that the status of this very spec tells of.

    Pods that nobody talks to have no latency, so what was measured once must
    hold: else the rollout would go on as soon as the sessions end.
    """
    for condition in Fields(status, "status", []).children("conditions"):
        if (
            condition.text("type") == Condition.DEGRADED.value
            and condition.text("reason") == Reason.NEW_PODS_SLOWER.value
            and condition.integer("observedGeneration", 0, 0, 2**63) == generation
        ):
            return Halt(Reason.NEW_PODS_SLOWER, condition.text("message"))
    return None


def _failing(pod: RuntimePod, limits: Limits, now: float) -> str:
    if pod.ready or not pod.node:
        return ""
    why = f": {pod.trouble}" if pod.trouble else ""
    if pod.restarts >= RESTARTS:
        return f"{pod.name} was restarted {pod.restarts} times{why}"
    if now - pod.created_at > limits.ready_s:
        return f"{pod.name} is not ready after {limits.ready_s:.0f} s{why}"
    return ""


def _first_frame_ms(pods: Sequence[RuntimePod], states: Mapping[str, PodState]) -> float | None:
    """Return the middle of the pods' first-frame p95, None if none has one."""
    known = [
        state.first_frame_p95_ms
        for pod in pods
        if (state := states.get(pod.uid)) is not None and state.first_frame_p95_ms is not None
    ]
    return median(known) if known else None
