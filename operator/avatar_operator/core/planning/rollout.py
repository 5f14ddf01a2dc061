"""Decides how many pods a rollout adds at once, and when it must halt.

New pods are added before old ones are removed. The rollout halts if the new pods fail or are slower
than the old ones. The old pods then continue to serve, and applying the old spec again makes them
current at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning.failures import Failure
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

MAX_SURGE: Final = 0.25
"""Pods that may exist in addition, as a fraction of `desired`, while old pods take sessions."""

MAX_RESTARTS: Final = 2
"""A new pod with this many restarts that is not ready has failed."""

MAX_FAILURES: Final = 3
"""Number of ended new pods from which the rollout has failed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits beyond which a rollout halts."""

    ready_s: float = 600.0
    """Time from the creation of a pod to its readiness, in seconds."""
    factor: float = 2.0
    """Allowed first-frame p95 as a multiple of the old pods'."""
    margin_ms: float = 100.0
    """A difference below this is noise, whatever the factor is."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a rollout is halted."""

    reason: Reason
    message: str


def surge(desired: int) -> int:
    """Return how many pods more than `desired` may take sessions during a rollout."""
    return max(1, ceil(desired * MAX_SURGE))


def find_halt(
    fleet: Fleet,
    spec_hash: str,
    states: Mapping[str, PodState],
    recorded: Halt | None,
    limits: Limits,
    now: float,
    failures: Sequence[Failure] = (),
) -> Halt | None:
    """Return why the rollout of a service is halted, None if it may continue.

    `recorded` is the halt that the status contains; it stays while pods of an earlier spec exist.
    `failures` are those of the new spec. `now` is in seconds since 1970.
    """
    old = [pod for pod in fleet.outdated if pod.spec_hash != spec_hash]
    if old and recorded is not None:
        return recorded
    if old and failures:
        message = "; ".join(f"{each.pod}: {each.message}" for each in failures)
        return Halt(Reason.NEW_PODS_FAILING, f"new pods are failing: {message}")
    ended = [pod for pod in fleet.ended if pod.spec_hash == spec_hash]
    return compare(fleet.current, ended, old, states, limits, now)


def compare(
    new: Sequence[RuntimePod],
    ended: Sequence[RuntimePod],
    old: Sequence[RuntimePod],
    states: Mapping[str, PodState],
    limits: Limits,
    now: float,
) -> Halt | None:
    """Return why the rollout from `old` to `new` must halt, None if it may continue.

    `ended` are pods of the new spec whose phase is Failed or Succeeded. A pod that waits for a node
    has not failed.
    """
    if not old:
        return None
    failing = [why for pod in new if (why := _failing(pod, limits, now))]
    if len(ended) >= MAX_FAILURES:
        failing.append(f"{len(ended)} ended: {ended[-1].trouble or ended[-1].phase}")
    if failing:
        return Halt(Reason.NEW_PODS_FAILING, "new pods are failing: " + "; ".join(failing))
    before, after = _first_frame_ms(old, states), _first_frame_ms(new, states)
    if before is None or after is None:
        return None
    if after > before * limits.factor and after > before + limits.margin_ms:
        message = f"new pods are slower: first frame p95 is {after:.0f} ms, "
        message += f"must be at most {limits.factor:g} times that of old pods, {before:.0f} ms"
        return Halt(Reason.NEW_PODS_SLOWER, message)
    return None


def read_halt(status: Mapping[str, object], generation: int) -> Halt | None:
    """Return the halt for slow pods that the status of this spec generation contains.

    Pods without sessions have no latency, so a measured one must hold. Otherwise the rollout would
    continue when the sessions end.
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
    if pod.restarts >= MAX_RESTARTS:
        return f"{pod.name} was restarted {pod.restarts} times{why}"
    if now - pod.created_at > limits.ready_s:
        return f"{pod.name} is not ready after {limits.ready_s:.0f} s{why}"
    return ""


def _first_frame_ms(pods: Sequence[RuntimePod], states: Mapping[str, PodState]) -> float | None:
    """Return the median of the pods' first-frame p95, None if no pod reports one."""
    reported = [
        state.first_frame_p95_ms
        for pod in pods
        if (state := states.get(pod.uid)) is not None and state.first_frame_p95_ms is not None
    ]
    return median(reported) if reported else None
