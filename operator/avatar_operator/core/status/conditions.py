"""Derives the conditions of a service from its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.gpus.batch_size import BatchPlan
from avatar_operator.core.gpus.pools import total_cost
from avatar_operator.core.status import gpu_available, kstatus
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.pod import RuntimePod
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
) -> tuple[Finding, ...]:
    """Return the conditions of a service.

    `failures` are the actions that failed, `contested` are messages about fields of the operator
    that another field manager owns, `taken` about names that objects of others have.
    """
    gpu = gpu_available.find(service, plan, failures)
    ready = _ready(service, plan, states, gpu, failures)
    progressing = _progressing(service, plan, gpu, failures)
    degraded = _degraded(service, plan, states, failures, contested, taken)
    judged = {each.condition: each for each in (ready, progressing, degraded)}
    return (
        ready,
        progressing,
        *kstatus.judge(judged, plan, failures),
        gpu,
        *_avatars(plan),
        _draining(plan, states),
        *_limited(service, plan),
        _fresh(plan, states),
        _calibrated(plan),
        degraded,
    )


def serving(plan: planner.Plan, states: Mapping[str, PodState]) -> tuple[RuntimePod, ...]:
    """Return the pods that take sessions: ready ones with a known state that do not drain."""
    return tuple(
        pod
        for pod in plan.fleet.live
        if pod.ready
        and pod.uid not in plan.silent
        and not (pod.uid in states and states[pod.uid].draining)
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
        message = "; ".join(_lost(plan, states))
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


def _ready(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    gpu: Finding,
    failures: Sequence[FailedAction],
) -> Finding:
    ready = len(serving(plan, states))
    if plan.desired == 0:
        return _needs_no_pod(plan, states)
    count = f"{ready} of {plan.desired} pods take sessions"
    if ready >= plan.desired:
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
    starting = ", ".join(pod.name for pod in plan.fleet.live if not pod.ready)
    message = f"{count}; {f'starting: {starting}' if starting else 'no other pod exists'}"
    return Finding(Condition.READY, False, Reason.PODS_STARTING, message)


def _troubles(plan: planner.Plan, states: Mapping[str, PodState]) -> list[str]:
    """Describe what keeps the existing pods from taking sessions."""
    troubles = [f"{pod.name}: {pod.trouble}" for pod in plan.fleet.live if pod.trouble]
    troubles += [f"{pod.name} {pod.phase}: {pod.trouble}" for pod in plan.fleet.ended]
    troubles += _lost(plan, states)
    troubles += [
        f"{pod.name} does not answer: no state for {STALE_S:g} s"
        for pod in plan.fleet.live
        if pod.running and not (pod.ready or pod.trouble) and _is_silent(pod, states)
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


def _failing(plan: planner.Plan) -> list[str]:
    """Describe the pods that have a node and do not start."""
    return [f"{pod.name}: {pod.trouble}" for pod in plan.fleet.live if pod.trouble and pod.node]


def _lost(plan: planner.Plan, states: Mapping[str, PodState]) -> list[str]:
    """Describe the pods on lost nodes, with the sessions of their last states."""
    found: list[str] = []
    for pod in plan.fleet.lost:
        sessions = states[pod.uid].sessions if pod.uid in states else 0
        had = f" with {text.count(sessions, 'session')}" if sessions else ""
        found.append(f"{pod.name} is on the lost node {pod.node}{had}")
    return found


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


def _is_silent(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    """Return whether a pod has sent a state before, but its latest state is stale."""
    return pod.uid in states and states[pod.uid].age_s > STALE_S


def _progressing(
    service: Service, plan: planner.Plan, gpu: Finding, failures: Sequence[FailedAction]
) -> Finding:
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
    if len(plan.fleet.current) < plan.desired:
        message = "waiting before pods that failed repeatedly are replaced"
        return Finding(Condition.PROGRESSING, True, Reason.REPLACING, message)
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
    if dict(plan.inventory.left_out).get(pod.node, "").endswith("cordoned"):
        return f"{pod.name} (its node {pod.node} is cordoned)"
    return pod.name


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


def _limited(service: Service, plan: planner.Plan) -> tuple[Finding, ...]:
    """Return which limit the number of pods has reached; nothing if the number is fixed."""
    decision = plan.decision
    if decision is None or service.autoscaling is None:
        return ()
    if decision.limit is None:
        message = "the wanted number of pods is within all limits"
        return (Finding(Condition.SCALING_LIMITED, False, Reason.WITHIN_BOUNDS, message),)
    has = len(plan.fleet.live)
    if decision.limit is Limit.RATE:
        has = plan.desired
    message = f"wants {text.count(decision.figures.wanted, 'pod')}, has {has}; "
    message += _limit(decision.limit, service, service.autoscaling, plan)
    return (Finding(Condition.SCALING_LIMITED, True, Reason(decision.limit.value), message),)


def _limit(limit: Limit, service: Service, policy: Autoscaling, plan: planner.Plan) -> str:
    match limit:
        case Limit.MAX_REPLICAS:
            return f"maxReplicas is {policy.max_replicas}"
        case Limit.MAX_COST:
            return f"{_costs(plan)}; maxCostPerHour is {policy.max_cost_per_hour}"
        case Limit.COST_UNKNOWN:
            unpriced = [
                pool.gpu_class
                for pool in plan.pools
                if pool.can_serve and pool.cost_per_hour is None
            ]
            profiles = ", ".join(unpriced)
            return f"spec.costPerHour of GPUProfile {profiles} must be set if maxCostPerHour is set"
        case Limit.RATE:
            assert policy.rate is not None
            rate = policy.rate
            return f"the rate limit allows {rate.up_pods} more per {rate.period_s} s"
        case Limit.FREE_GPUS:
            stocks = gpu_available.describe_stocks(plan)
            return f"the cluster has {stocks}{gpu_available.describe_holders(service, plan)}"
    assert_never(limit)


def _costs(plan: planner.Plan) -> str:
    """Return the cost of all pods, deleted ones included, and the cost of one more."""
    existing = plan.fleet.live + plan.fleet.leaving
    paid = total_cost(existing, plan.pools)
    priced = [pool for pool in plan.pools if pool.can_serve and pool.cost_per_hour is not None]
    more = "".join(f", one more on {p.gpu_class} costs {p.cost_per_hour}" for p in priced[:1])
    return f"{text.count(len(existing), 'pod')} cost {paid} per hour{more}"


def _draining(plan: planner.Plan, states: Mapping[str, PodState]) -> Finding:
    waiting = [
        f"{pod.name} ({text.count(states[pod.uid].sessions, 'session')})"
        if pod.uid in states
        else pod.name
        for pod in plan.fleet.live + plan.fleet.leaving
        if pod.terminating or (pod.uid in states and states[pod.uid].draining)
    ]
    if not waiting:
        return Finding(Condition.DRAINING, False, Reason.NOT_DRAINING, "no pod is draining")
    message = "waiting for the sessions of " + ", ".join(waiting)
    return Finding(Condition.DRAINING, True, Reason.WAITING_FOR_SESSIONS, message)


def _fresh(plan: planner.Plan, states: Mapping[str, PodState]) -> Finding:
    if plan.decision is not None and plan.decision.is_blind:
        message = f"no pod and no gateway has sent a state for {STALE_S:g} s: scaling is paused"
        return Finding(Condition.STATE_FRESH, False, Reason.STATE_MISSING, message)
    silent = [
        pod.name
        for pod in plan.fleet.live
        if (pod.ready and pod.uid not in states) or (pod.running and _is_silent(pod, states))
    ]
    if not silent:
        message = "every ready pod reports its sessions"
        return Finding(Condition.STATE_FRESH, True, Reason.STATE_KNOWN, message)
    message = f"no state for {STALE_S:g} s from " + ", ".join(silent)
    return Finding(Condition.STATE_FRESH, False, Reason.STATE_MISSING, message)
