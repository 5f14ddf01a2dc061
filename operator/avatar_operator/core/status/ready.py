"""Derives the condition Ready of a service from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.planning import quota_wishes
from avatar_operator.core.status import gpu_available, scaling_limited
from avatar_operator.core.status.findings import Finding
from avatar_operator.core.status.pods import describe_lost, is_silent, serving
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState
    from avatar_operator.core.status.refusals import FailedAction


def find(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    gpu: Finding,
    failures: Sequence[FailedAction],
) -> Finding:
    """Return whether as many pods as needed take sessions, or else the cause."""
    ready = len(serving(plan, states))
    may_have_none = plan.desired == 0 and quota_wishes.is_limited(service, plan)
    if may_have_none and gpu.status:
        message = f"the service may have no pod; {scaling_limited.describe_quota(plan)}"
        return Finding(Condition.READY, False, Reason.TENANT_QUOTA, message)
    if plan.desired == 0 and not may_have_none:
        return _needs_no_pod(plan, states)
    count = f"{ready} of {plan.desired} pods take sessions"
    if ready >= plan.desired and not may_have_none:
        return Finding(Condition.READY, True, Reason.SERVING, count)
    troubles = _troubles(plan, states)
    if plan.waits_for_avatars:
        assert plan.needs is not None
        message = f"{count}; waiting for avatars: {'; '.join(plan.needs.waiting)}"
        return Finding(Condition.READY, False, Reason.AVATARS_NOT_READY, message)
    if plan.failures and not plan.missing:
        message = f"{count}; {'; '.join(troubles) or gpu_available.describe_failures(plan)}"
        return Finding(Condition.READY, False, Reason.PODS_FAILING, message)
    refused = [failure for failure in failures if failure.of_pod]
    # A free GPU would not help a pod that the API server refuses until something changes.
    stuck = gpu.reason is Reason.NO_FREE_GPU and any(each.needs_change for each in refused)
    if not gpu.status and not stuck:
        return Finding(Condition.READY, False, gpu.reason, gpu.message)
    if refused:
        message = f"{count}; " + "; ".join(failure.message for failure in refused)
        return Finding(Condition.READY, False, refused[0].reason, message)
    if troubles:
        message = f"{count}; " + "; ".join(troubles)
        return Finding(Condition.READY, False, Reason.PODS_FAILING, message)
    if service.paused:
        message = f"{count}; the service is paused by its annotation {names.ANNOTATION_PAUSED}"
        return Finding(Condition.READY, False, Reason.PAUSED, message)
    if failures:
        message = f"{count}; " + "; ".join(failure.message for failure in failures)
        return Finding(Condition.READY, False, failures[0].reason, message)
    if plan.over_quota:
        message = f"{count}; {scaling_limited.describe_quota(plan)}"
        return Finding(Condition.READY, False, Reason.TENANT_QUOTA, message)
    starting = ", ".join(pod.name for pod in plan.fleet.live if not pod.ready)
    message = f"{count}; {f'starting: {starting}' if starting else 'no other pod exists'}"
    return Finding(Condition.READY, False, Reason.PODS_STARTING, message)


def _troubles(plan: planner.Plan, states: Mapping[str, PodState]) -> list[str]:
    """Describe what keeps the existing pods from taking sessions."""
    troubles = [f"{pod.name}: {pod.trouble}" for pod in plan.fleet.live if pod.trouble]
    troubles += [f"{pod.name} {pod.phase}: {pod.trouble}" for pod in plan.fleet.ended]
    troubles += describe_lost(plan, states)
    troubles += [
        f"{pod.name} does not answer: no state for {STALE_S:g} s"
        for pod in plan.fleet.live
        if pod.running and not (pod.ready or pod.trouble) and is_silent(pod, states)
    ]
    troubles += [
        f"the sessions of {pod.name} are unknown: {plan.silent[pod.uid]}"
        for pod in plan.fleet.live
        if pod.ready and pod.uid in plan.silent
    ]
    return troubles


def _needs_no_pod(plan: planner.Plan, states: Mapping[str, PodState]) -> Finding:
    """Describe a service that needs no pod; earlier pods may still have sessions."""
    existing = plan.fleet.live + plan.fleet.leaving
    if not existing:
        return Finding(Condition.READY, True, Reason.SCALED_TO_ZERO, "the service needs no pod")
    sessions = sum(states[pod.uid].sessions for pod in existing if pod.uid in states)
    message = f"the service needs no pod; {text.count(len(existing), 'pod')} with "
    message += f"{text.count(sessions, 'session')} will be removed after the last session"
    return Finding(Condition.READY, True, Reason.SCALING_DOWN, message)
