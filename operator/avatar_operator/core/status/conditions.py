"""Derives the conditions of a service from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.gpus.batch_size import BatchPlan
from avatar_operator.core.status import (
    gpu_available,
    kstatus,
    progressing,
    ready,
    scaling_limited,
    upstream_allowed,
)
from avatar_operator.core.status.findings import Finding
from avatar_operator.core.status.pods import describe_lost, is_silent
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState
    from avatar_operator.core.status.refusals import FailedAction


_KUBERNETES_FINALIZERS: Final = ("foregroundDeletion", "orphan")
"""Kubernetes removes them itself, when the pods are gone or have no owner any more."""


def invalid(message: str) -> tuple[Finding, ...]:
    """Return the conditions of a service whose spec is invalid."""
    return (
        Finding(Condition.READY, False, Reason.INVALID_SPEC, message),
        Finding(Condition.PROGRESSING, False, Reason.INVALID_SPEC, message),
        Finding(Condition.STALLED, True, Reason.INVALID_SPEC, message),
    )


def terminating(pods: int, finalizers: Sequence[str]) -> tuple[Finding, ...]:
    """Return the conditions of a service that is being deleted and still has `pods` pods."""
    foreign = [name for name in finalizers if name not in _KUBERNETES_FINALIZERS]
    parts = ["the service is being deleted"]
    if pods:
        parts.append(f"{text.count(pods, 'pod')} left, each ends after its sessions")
    if foreign:
        removed = "until its owner removes it" if len(foreign) == 1 else "until they are removed"
        label = "the finalizer" if len(foreign) == 1 else "the finalizers"
        verb = "keeps" if len(foreign) == 1 else "keep"
        parts.append(f"{label} {text.join(foreign)} {verb} the service {removed}")
    message = "; ".join(parts)
    return (
        Finding(Condition.READY, False, Reason.TERMINATING, message),
        Finding(Condition.PROGRESSING, True, Reason.TERMINATING, message),
    )


def find(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    failures: Sequence[FailedAction] = (),
    contested: Sequence[str] = (),
    taken: Sequence[str] = (),
    *,
    egress: upstream_allowed.Egress | None = None,
) -> tuple[Finding, ...]:
    """Return the conditions of a service.

    `failures` are the actions that failed, `contested` are messages about fields of the operator
    that another field manager owns, `taken` about names that objects of others have. `egress` has
    the rules of the NetworkPolicy of its pods, None if they have none.
    """
    gpu = gpu_available.find(service, plan, failures)
    found_ready = ready.find(service, plan, states, gpu, failures)
    found_progressing = progressing.find(service, plan, gpu, failures)
    degraded = _degraded(service, plan, states, failures, contested, taken)
    judged = {each.condition: each for each in (found_ready, found_progressing, degraded)}
    return (
        found_ready,
        found_progressing,
        *kstatus.judge(judged, plan, failures),
        gpu,
        *_avatars(plan),
        *upstream_allowed.find(service, egress),
        _draining(plan, states),
        *scaling_limited.find(service, plan),
        _fresh(plan, states),
        _calibrated(plan),
        degraded,
    )


def _degraded(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    failures: Sequence[FailedAction],
    contested: Sequence[str],
    taken: Sequence[str],
) -> Finding:
    if plan.halted is not None:  # unchanged, because the next plan reads it from the status
        return Finding(Condition.DEGRADED, True, plan.halted.reason, plan.halted.message)
    if failures:
        message = "; ".join(failure.message for failure in failures)
        return Finding(Condition.DEGRADED, True, failures[0].reason, message)
    if contested:
        return Finding(Condition.DEGRADED, True, Reason.FIELD_CONFLICT, "; ".join(contested))
    if plan.fleet.lost:
        message = "; ".join(describe_lost(plan, states))
        return Finding(Condition.DEGRADED, True, Reason.NODE_LOST, message)
    if plan.pending_image is not None and plan.pending_image.trouble:
        message = f"{plan.pending_image.image} cannot be pulled: {plan.pending_image.trouble}; "
        message += "the pods of the earlier spec continue to serve"
        return Finding(Condition.DEGRADED, True, Reason.IMAGE_NOT_PULLED, message)
    if troubles := _failing(plan):
        return Finding(Condition.DEGRADED, True, Reason.PODS_FAILING, "; ".join(troubles))
    if slow := _too_slow(service, plan):
        return Finding(Condition.DEGRADED, True, Reason.BELOW_REAL_TIME, "; ".join(slow))
    if taken:
        return Finding(Condition.DEGRADED, True, Reason.NAME_TAKEN, "; ".join(taken))
    if service.annotation_faults:
        message = "; ".join(service.annotation_faults)
        return Finding(Condition.DEGRADED, True, Reason.INVALID_ANNOTATION, message)
    return Finding(Condition.DEGRADED, False, Reason.APPLIED, "every action succeeded")


def _failing(plan: planner.Plan) -> list[str]:
    """Describe the pods that have a node and do not start."""
    return [f"{pod.name}: {pod.trouble}" for pod in plan.fleet.live if pod.trouble and pod.node]


def _too_slow(service: Service, plan: planner.Plan) -> list[str]:
    """Describe the classes in use that are too slow for a single session."""
    used = {pod.gpu_class for pod in plan.fleet.live}
    used |= {action.gpu_class for action in plan.new_pods}
    return [
        f"{pool.gpu_class} renders {pool.outcome.frames_per_s:.1f} frames/s at batch "
        f"{pool.outcome.batch_size}, one session needs {service.fps} (spec.fps)"
        for pool in plan.pools
        if pool.gpu_class in used
        and isinstance(pool.outcome, BatchPlan)
        and pool.outcome.frames_per_s < service.fps
    ]


def _calibrated(plan: planner.Plan) -> Finding:
    """Check the curves of the classes in use, or else of the class that is filled first."""
    in_use = {pod.gpu_class for pod in plan.fleet.live}
    used = [pool for pool in plan.pools if pool.gpu_class in in_use]
    used = used or [pool for pool in plan.pools if pool.can_serve][:1]
    differing = [f"{pool.gpu_class}: {pool.contradiction}" for pool in used if pool.contradiction]
    if differing:
        message = "measurements differ from the GPUProfile and are used: " + "; ".join(differing)
        return Finding(Condition.BATCH_CALIBRATED, False, Reason.CALIBRATION_DIFFERS, message)
    unknown = [pool.gpu_class for pool in used if pool.calibration is None]
    if unknown or not used:
        message = f"no pod has measured {', '.join(unknown) or 'a class that can serve'} yet"
        return Finding(Condition.BATCH_CALIBRATED, False, Reason.NOT_CALIBRATED, message)
    message = ", ".join(
        f"{pool.gpu_class} measured by {pool.calibration.pod}" for pool in used if pool.calibration
    )
    return Finding(Condition.BATCH_CALIBRATED, True, Reason.CALIBRATED, message)


def _avatars(plan: planner.Plan) -> tuple[Finding, ...]:
    """Return whether the avatars that Avatar resources prepare exist; nothing without any."""
    needs = plan.needs
    if needs is None:
        return ()
    elsewhere = ""
    if needs.elsewhere:
        listed = ", ".join(needs.elsewhere)
        elsewhere = f"; spec.storage of {listed} is another volume than spec.avatarSource"
    if needs.waiting:
        message = f"waiting for {'; '.join(needs.waiting)}{elsewhere}"
        return (Finding(Condition.AVATARS_READY, False, Reason.AVATARS_NOT_READY, message),)
    message = f"{text.count(needs.count, 'avatar')} of Avatar resources on the volume{elsewhere}"
    return (Finding(Condition.AVATARS_READY, True, Reason.AVATARS_PREPARED, message),)


def _draining(plan: planner.Plan, states: Mapping[str, PodState]) -> Finding:
    draining = [
        pod
        for pod in plan.fleet.live + plan.fleet.leaving
        if pod.terminating or (pod.uid in states and states[pod.uid].draining)
    ]
    if not draining:
        return Finding(Condition.DRAINING, False, Reason.NOT_DRAINING, "no pod is draining")
    waiting = [
        f"{pod.name} ({text.count(states[pod.uid].sessions, 'session')})"
        if pod.uid in states
        else pod.name
        for pod in draining
    ]
    message = "waiting for the sessions of " + ", ".join(waiting)
    leaving = sorted({pod.node for pod in draining if pod.node in plan.departures})
    if departing := [plan.departures[node].sentence(node) for node in leaving]:
        message += f"; {', '.join(departing)}: sessions that cannot move end with their node"
    return Finding(Condition.DRAINING, True, Reason.WAITING_FOR_SESSIONS, message)


def _fresh(plan: planner.Plan, states: Mapping[str, PodState]) -> Finding:
    if plan.decision is not None and plan.decision.is_blind:
        message = f"no pod and no gateway has sent a state for {STALE_S:g} s: scaling is paused"
        return Finding(Condition.STATE_FRESH, False, Reason.STATE_MISSING, message)
    silent = [
        pod.name
        for pod in plan.fleet.live
        if (pod.ready and pod.uid not in states) or (pod.running and is_silent(pod, states))
    ]
    if not silent:
        message = "every ready pod reports its sessions"
        return Finding(Condition.STATE_FRESH, True, Reason.STATE_KNOWN, message)
    message = f"no state for {STALE_S:g} s from " + ", ".join(silent)
    return Finding(Condition.STATE_FRESH, False, Reason.STATE_MISSING, message)
