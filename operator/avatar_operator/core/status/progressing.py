"""Derives the condition Progressing of a service from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.planning import quota_wishes
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.status.refusals import FailedAction


def find(
    service: Service, plan: planner.Plan, gpu: Finding, failures: Sequence[FailedAction]
) -> Finding:
    """Return whether pods come, leave or are replaced; `gpu` is the condition GPUAvailable."""
    if service.paused:
        message = f"no pod is created, drained or deleted while {names.ANNOTATION_PAUSED} is true"
        return Finding(Condition.PROGRESSING, False, Reason.PAUSED, message)
    if plan.halted is not None:
        message = "the rollout is halted, pods of the earlier spec continue to serve; "
        message += plan.halted.message
        return Finding(Condition.PROGRESSING, False, Reason.ROLLOUT_HALTED, message)
    if refused := [failure for failure in failures if failure.of_pod]:
        return Finding(Condition.PROGRESSING, False, refused[0].reason, refused[0].message)
    starting = [pod.name for pod in plan.fleet.current if not pod.ready]
    surplus = len(plan.fleet.current) - plan.desired
    coming = len(plan.new_pods)
    if plan.fleet.outdated:
        outdated = (_outdated(pod, plan) for pod in plan.fleet.outdated)
        message = "pods to be replaced: " + ", ".join(outdated)
        message += _pending_image(plan)
        for pod in plan.fleet.current:
            message += f"; new pod {pod.name}: {pod.trouble}" if pod.trouble else ""
        return Finding(Condition.PROGRESSING, True, Reason.ROLLING_OUT, message)
    if surplus > 0:
        message = f"{text.count(surplus, 'pod')} more than the {plan.desired} that are needed"
        return Finding(Condition.PROGRESSING, True, Reason.SCALING_DOWN, message)
    if starting or coming:
        message = f"{len(starting) + coming} of {plan.desired} pods are starting"
        return Finding(Condition.PROGRESSING, True, Reason.SCALING_UP, message)
    if plan.waits_for_avatars:
        message = "waiting for avatars"
        return Finding(Condition.PROGRESSING, False, Reason.AVATARS_NOT_READY, message)
    if gpu.reason is Reason.BACKING_OFF:
        message = "waiting before another pod is tried"
        return Finding(Condition.PROGRESSING, False, gpu.reason, message)
    if not gpu.status:
        return Finding(Condition.PROGRESSING, False, gpu.reason, "waiting for GPUs")
    if plan.over_quota or (plan.desired == 0 and quota_wishes.is_limited(service, plan)):
        assert plan.tenant is not None
        message = f"waiting until the limits of AvatarTenant {plan.tenant.name} allow a pod"
        return Finding(Condition.PROGRESSING, False, Reason.TENANT_QUOTA, message)
    if len(plan.fleet.current) < plan.desired and (plan.failures or plan.fleet.ended):
        message = "waiting before pods that failed repeatedly are replaced"
        return Finding(Condition.PROGRESSING, True, Reason.REPLACING, message)
    if len(plan.fleet.current) < plan.desired:
        message = f"{len(plan.fleet.current)} of {plan.desired} pods exist"
        return Finding(Condition.PROGRESSING, True, Reason.SCALING_UP, message)
    return Finding(Condition.PROGRESSING, False, Reason.UP_TO_DATE, "all pods match the spec")


def _pending_image(plan: planner.Plan) -> str:
    """Describe the image that must be pulled before a pod makes room for it."""
    pending = plan.pending_image
    if pending is None:
        return ""
    why = f" ({pending.trouble})" if pending.trouble else ""
    return (
        f"; no GPU is free, and {pending.held.name} makes room when {pending.image} was pulled{why}"
    )


def _outdated(pod: RuntimePod, plan: planner.Plan) -> str:
    """Return the name of a pod to be replaced, and why if it is not the spec."""
    if pod.drain_asked:
        return f"{pod.name} (its annotation {names.ANNOTATION_DRAIN} is true)"
    if (departure := plan.departures.get(pod.node)) is not None:
        return f"{pod.name} ({departure.sentence(pod.node)})"
    return pod.name
