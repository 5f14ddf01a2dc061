"""Derives `Reconciling` and `Stalled`, by which kstatus judges a resource.

`helm --wait`, Flux and `kubectl` plugins use kstatus: Stalled is a failure, Reconciling and a Ready
that is not True are progress, and otherwise the resource is current. Both exist only while True.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_operator.core.planning.rollout import MAX_RESTARTS
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning.plan import Plan
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.status.refusals import FailedAction

_NEEDS_CHANGE: Final = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
"""Waiting states of a container that the kubelet has tried repeatedly or will never resolve."""

_WAITS_FOR_PEOPLE: Final = (Reason.NO_BATCH_FITS, Reason.ROLLOUT_HALTED)


def judge(
    found: Mapping[Condition, Finding], plan: Plan, failures: Sequence[FailedAction]
) -> tuple[Finding, ...]:
    """Return Stalled or Reconciling, or neither if the service is as its spec says.

    A service that waits for GPUs is reconciling, because
    other services give GPUs back. A paused one is neither: its Ready shows whether it serves.
    """
    ready, progressing = found[Condition.READY], found[Condition.PROGRESSING]
    pending = plan.pending_image
    if pending is not None and pending.trouble.startswith(_NEEDS_CHANGE):
        message = found[Condition.DEGRADED].message
        return (Finding(Condition.STALLED, True, Reason.IMAGE_NOT_PULLED, message),)
    pods = plan.fleet.current
    if (stalled := _stalled(ready, progressing, pods, failures)) is not None:
        return (Finding(Condition.STALLED, True, stalled.reason, stalled.message),)
    if progressing.reason is Reason.PAUSED:
        return ()
    if not ready.status:
        return (Finding(Condition.RECONCILING, True, ready.reason, ready.message),)
    if progressing.status and progressing.reason is Reason.ROLLING_OUT:
        return (Finding(Condition.RECONCILING, True, progressing.reason, progressing.message),)
    return ()


def _stalled(
    ready: Finding,
    progressing: Finding,
    pods: Sequence[RuntimePod],
    failures: Sequence[FailedAction],
) -> Finding | None:
    """Return the finding that says why waiting does not help, None if it may help."""
    if progressing.reason is Reason.ROLLOUT_HALTED:
        return progressing
    if ready.status:
        return None
    if ready.reason in _WAITS_FOR_PEOPLE or any(
        failure.needs_change for failure in failures if failure.of_pod
    ):
        return ready
    failing = [pod for pod in pods if not pod.ready]
    if ready.reason is Reason.PODS_FAILING and failing and all(map(_is_hopeless, failing)):
        return ready
    return None


def _is_hopeless(pod: RuntimePod) -> bool:
    return pod.trouble.startswith(_NEEDS_CHANGE) or (
        bool(pod.trouble) and pod.restarts >= MAX_RESTARTS
    )
