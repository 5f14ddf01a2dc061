"""Says in conditions how a service is, and the one thing that keeps it from serving.

Readable by kstatus (Helm's wait, Flux): observedGeneration, Ready, and Stalled
only when no waiting will help.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, assert_never

from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.autoscaling.capacity import STALE_S
from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.gpus.batch_size import BatchPlan, NoBatch
from avatar_operator.core.resources.service import Service, WhenFull
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

_NAMED_NODES: Final = 3  # nodes left out that a message names


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times: those depend on what was said before."""

    condition: Condition
    status: bool
    reason: Reason
    message: str


def invalid(message: str) -> tuple[Finding, ...]:
    """Return the findings on a service whose spec cannot be read."""
    return (
        Finding(Condition.READY, False, Reason.INVALID_SPEC, message),
        Finding(Condition.PROGRESSING, False, Reason.INVALID_SPEC, message),
        Finding(Condition.STALLED, True, Reason.INVALID_SPEC, message),
    )


def find(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    failures: Sequence[str] = (),
    contested: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Return what there is to say of a service.

    `failures` are actions that did not succeed, `contested` fields of ours that
    someone else keeps.
    """
    gpu = _gpu(service, plan)
    return (
        _ready(service, plan, states, gpu, failures),
        _progressing(service, plan, gpu),
        gpu,
        _draining(plan, states),
        *_limited(service, plan),
        _fresh(plan, states),
        _calibrated(plan),
        _degraded(service, plan, states, failures, contested),
    )


def serving(plan: planner.Plan, states: Mapping[str, PodState]) -> tuple[RuntimePod, ...]:
    """Return the pods that take sessions: ready ones that are not draining."""
    return tuple(
        pod
        for pod in plan.fleet.live
        if pod.ready and not (pod.uid in states and states[pod.uid].draining)
    )


def _degraded(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    failures: Sequence[str],
    contested: Sequence[str],
) -> Finding:
    if plan.halted is not None:  # word by word: the next plan may have to remember it
        return Finding(Condition.DEGRADED, True, plan.halted.reason, plan.halted.message)
    if failures:
        return Finding(Condition.DEGRADED, True, Reason.APPLY_FAILED, "; ".join(failures))
    if contested:
        return Finding(Condition.DEGRADED, True, Reason.FIELD_CONFLICT, "; ".join(contested))
    if plan.fleet.lost:
        message = "; ".join(_lost(plan, states))
        return Finding(Condition.DEGRADED, True, Reason.NODE_LOST, message)
    if slow := _too_slow(service, plan):
        return Finding(Condition.DEGRADED, True, Reason.BELOW_REAL_TIME, "; ".join(slow))
    return Finding(Condition.DEGRADED, False, Reason.APPLIED, "every action succeeded")


def _ready(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    gpu: Finding,
    failures: Sequence[str],
) -> Finding:
    ready = len(serving(plan, states))
    if plan.desired == 0:
        return Finding(Condition.READY, True, Reason.SCALED_TO_ZERO, "no pod is asked for")
    count = f"{ready} of {plan.desired} pods take sessions"
    if ready >= plan.desired:
        return Finding(Condition.READY, True, Reason.SERVING, count)
    if not gpu.status:
        return Finding(Condition.READY, False, gpu.reason, gpu.message)
    troubles = [f"{pod.name}: {pod.trouble}" for pod in plan.fleet.live if pod.trouble]
    troubles += [f"{pod.name} {pod.phase}: {pod.trouble}" for pod in plan.fleet.ended]
    troubles += _lost(plan, states)
    troubles += [
        f"{pod.name} does not answer: no state for {STALE_S:g} s"
        for pod in plan.fleet.live
        if pod.running and not (pod.ready or pod.trouble) and _is_silent(pod, states)
    ]
    if troubles:
        message = f"{count}; " + "; ".join(troubles)
        return Finding(Condition.READY, False, Reason.PODS_FAILING, message)
    if service.paused:
        message = f"{count}; the service is paused by its annotation {names.ANNOTATION_PAUSED}"
        return Finding(Condition.READY, False, Reason.PAUSED, message)
    if failures:
        message = f"{count}; " + "; ".join(failures)
        return Finding(Condition.READY, False, Reason.APPLY_FAILED, message)
    starting = ", ".join(pod.name for pod in plan.fleet.live if not pod.ready)
    message = f"{count}; starting: {starting or 'none yet'}"
    return Finding(Condition.READY, False, Reason.PODS_STARTING, message)


def _lost(plan: planner.Plan, states: Mapping[str, PodState]) -> list[str]:
    """Tell of the pods whose nodes are lost, and of the sessions that they had when last heard."""
    told: list[str] = []
    for pod in plan.fleet.lost:
        sessions = states[pod.uid].sessions if pod.uid in states else 0
        had = f" with {text.count(sessions, 'session')}" if sessions else ""
        told.append(f"{pod.name} is on the lost node {pod.node}{had}")
    return told


def _too_slow(service: Service, plan: planner.Plan) -> list[str]:
    """Tell of the classes in use that cannot make the frames of a single session."""
    used = {pod.gpu_class for pod in plan.fleet.live}
    used |= {action.gpu_class for action in plan.coming}
    return [
        f"{pool.gpu_class} makes {pool.outcome.frames_per_s:.1f} frames/s at batch "
        f"{pool.outcome.batch_size}, one session needs {service.fps} (spec.fps)"
        for pool in plan.pools
        if pool.gpu_class in used
        and isinstance(pool.outcome, BatchPlan)
        and pool.outcome.frames_per_s < service.fps
    ]


def _is_silent(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    """Return whether a pod was heard of before, and is no more."""
    return pod.uid in states and states[pod.uid].age_s > STALE_S


def _progressing(service: Service, plan: planner.Plan, gpu: Finding) -> Finding:
    if service.paused:
        message = f"nothing is created, drained or deleted while {names.ANNOTATION_PAUSED} is true"
        return Finding(Condition.PROGRESSING, False, Reason.PAUSED, message)
    if plan.halted is not None:
        message = f"the rollout is halted, pods of the earlier spec serve on; {plan.halted.message}"
        return Finding(Condition.PROGRESSING, False, Reason.ROLLOUT_HALTED, message)
    starting = [pod.name for pod in plan.fleet.current if not pod.ready]
    surplus = len(plan.fleet.current) - plan.desired
    coming = len(plan.coming)
    if plan.fleet.outdated:
        message = "pods to be replaced: " + ", ".join(pod.name for pod in plan.fleet.outdated)
        return Finding(Condition.PROGRESSING, True, Reason.ROLLING_OUT, message)
    if surplus > 0:
        message = f"{text.count(surplus, 'pod')} more than the {plan.desired} asked for"
        return Finding(Condition.PROGRESSING, True, Reason.SCALING_DOWN, message)
    if starting or coming:
        message = f"{len(starting) + coming} of {plan.desired} pods are starting"
        return Finding(Condition.PROGRESSING, True, Reason.SCALING_UP, message)
    if not gpu.status:
        return Finding(Condition.PROGRESSING, False, gpu.reason, "waits for GPUs")
    if len(plan.fleet.current) < plan.desired:
        message = "waits before it replaces pods that failed repeatedly"
        return Finding(Condition.PROGRESSING, True, Reason.REPLACING, message)
    return Finding(Condition.PROGRESSING, False, Reason.UP_TO_DATE, "the pods are as the spec asks")


def _gpu(service: Service, plan: planner.Plan) -> Finding:
    if coming := _pods_for_nodes_to_come(service, plan):
        message = f"{coming}; the cluster has {_stocks(plan)}"
        return Finding(Condition.GPU_AVAILABLE, False, Reason.WAITING_FOR_NODE, message)
    if not plan.missing:
        message = "no GPU is asked for" if plan.desired == 0 else "every pod asked for has its GPU"
        reason = Reason.NOTHING_ASKED if plan.desired == 0 else Reason.GPU_ALLOCATED
        return Finding(Condition.GPU_AVAILABLE, True, reason, message)
    usable = [pool for pool in plan.pools if pool.serves]
    if not plan.inventory.stocks:
        message = "the cluster has no GPUProfile, so no node can be recognised"
        return Finding(Condition.GPU_AVAILABLE, False, Reason.NO_PROFILE, message)
    if not usable:
        outcomes = (pool.outcome for pool in plan.pools)
        message = "no GPU class can serve: " + "; ".join(
            f"{pool.gpu_class}: {outcome.reason}"
            for pool, outcome in zip(plan.pools, outcomes, strict=True)
            if isinstance(outcome, NoBatch)
        )
        return Finding(Condition.GPU_AVAILABLE, False, Reason.NO_BATCH_FITS, message)
    exists = any(pool.stock.total for pool in usable)
    reason = Reason.NO_FREE_GPU if exists else Reason.NO_GPU_NODE
    what = "no free GPU" if exists else "no GPU node fits"
    message = f"{what}: asked for {_asked(service, plan)}; the cluster has {_stocks(plan)}"
    return Finding(Condition.GPU_AVAILABLE, False, reason, message)


def _pods_for_nodes_to_come(service: Service, plan: planner.Plan) -> str:
    """Tell of the pods that no node has taken, where the service lets them wait for one."""
    if service.placement.when_full is not WhenFull.CREATE_PENDING:
        return ""
    waiting = [pod for pod in plan.fleet.current if pod.trouble and not pod.node]
    if not waiting:
        return ""
    pods = ", ".join(f"{pod.name} ({pod.gpu_class})" for pod in waiting)
    return f"waiting for a node: {pods}: {waiting[0].trouble}"


def _asked(service: Service, plan: planner.Plan) -> str:
    if service.placement.when_full is WhenFull.WAIT:
        return f"{plan.pools[0].gpu_class} (spec.placement.whenFull is wait)"
    if not service.placement.gpu_classes:
        return f"any class with a curve for {service.model.variant}"
    return " or ".join(pool.gpu_class for pool in plan.pools)


def _stocks(plan: planner.Plan) -> str:
    """List the GPUs there are, why those of a class are not taken, and nodes left out."""
    pools = {pool.gpu_class: pool for pool in plan.pools}
    parts: list[str] = []
    for stock in plan.inventory.stocks.values():
        pool = pools.get(stock.gpu_class)
        if not stock.total:
            continue
        text = f"{stock.gpu_class} {stock.free} free of {stock.total}"
        if pool is None:
            text += " (not allowed by spec.placement.gpuClasses)"
        elif isinstance(pool.outcome, NoBatch):
            text += f" ({pool.outcome.reason})"
        parts.append(text)
    nodes = [f"node {name} left out: {why}" for name, why in plan.inventory.left_out]
    parts += nodes[:_NAMED_NODES]
    if len(nodes) > _NAMED_NODES:
        parts.append(f"{len(nodes) - _NAMED_NODES} more nodes left out")
    return ", ".join(parts) or "none"


def _calibrated(plan: planner.Plan) -> Finding:
    """Judge the curves of the classes in use, or else of the one that is filled first."""
    in_use = {pod.gpu_class for pod in plan.fleet.live}
    used = [pool for pool in plan.pools if pool.gpu_class in in_use]
    used = used or [pool for pool in plan.pools if pool.serves][:1]
    differing = [f"{pool.gpu_class}: {pool.contradiction}" for pool in used if pool.contradiction]
    if differing:
        message = "measured, and used: " + "; ".join(differing)
        return Finding(Condition.BATCH_CALIBRATED, False, Reason.CALIBRATION_DIFFERS, message)
    unknown = [pool.gpu_class for pool in used if pool.calibration is None]
    if unknown or not used:
        message = f"no pod has measured {', '.join(unknown) or 'a class that can serve'} yet"
        return Finding(Condition.BATCH_CALIBRATED, False, Reason.NOT_CALIBRATED, message)
    message = ", ".join(
        f"{pool.gpu_class} measured by {pool.calibration.pod}" for pool in used if pool.calibration
    )
    return Finding(Condition.BATCH_CALIBRATED, True, Reason.CALIBRATED, message)


def _limited(service: Service, plan: planner.Plan) -> tuple[Finding, ...]:
    """Say which bound keeps the number of pods from what is wanted; nothing if it is given."""
    decision = plan.decision
    if decision is None or service.autoscaling is None:
        return ()
    if decision.limit is None:
        message = "as many pods as are wanted are within all bounds"
        return (Finding(Condition.SCALING_LIMITED, False, Reason.WITHIN_BOUNDS, message),)
    told = f"{decision.inputs.wanted} pods are wanted, "
    told += _bound(decision.limit, service.autoscaling, plan)
    return (Finding(Condition.SCALING_LIMITED, True, Reason(decision.limit.value), told),)


def _bound(limit: Limit, policy: Autoscaling, plan: planner.Plan) -> str:
    match limit:
        case Limit.MAX_REPLICAS:
            return f"maxReplicas is {policy.max_replicas}"
        case Limit.MAX_COST:
            return f"{_costs(plan)}; maxCostPerHour is {policy.max_cost_per_hour}"
        case Limit.COST_UNKNOWN:
            unpriced = [
                pool.gpu_class for pool in plan.pools if pool.serves and pool.cost_per_hour is None
            ]
            told = "spec.costPerHour of GPUProfile " + ", ".join(unpriced)
            return f"{told} is left out, must be set where maxCostPerHour is"
        case Limit.RATE:
            assert policy.rate is not None
            told = f"{policy.rate.up_pods} more at most within {policy.rate.period_s} s (rate)"
            return f"{plan.desired} are had, {told}"
        case Limit.FREE_GPUS:
            return f"{len(plan.fleet.live)} are there; the cluster has {_stocks(plan)}"
    assert_never(limit)


def _costs(plan: planner.Plan) -> str:
    """Say what the pods cost that are there, leaving ones too, and what one more would cost."""
    costs = {pool.gpu_class: pool.cost_per_hour for pool in plan.pools}
    there = plan.fleet.live + plan.fleet.leaving
    paid = sum((costs.get(pod.gpu_class) or Decimal(0) for pod in there), Decimal(0))
    priced = [pool for pool in plan.pools if pool.serves and pool.cost_per_hour is not None]
    more = "".join(f", one more on {p.gpu_class} {p.cost_per_hour}" for p in priced[:1])
    return f"{len(there)} are there and cost {paid} an hour{more}"


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
    message = "waits for the sessions of " + ", ".join(waiting)
    return Finding(Condition.DRAINING, True, Reason.WAITING_FOR_SESSIONS, message)


def _fresh(plan: planner.Plan, states: Mapping[str, PodState]) -> Finding:
    if plan.decision is not None and plan.decision.is_blind:
        message = f"no pod and no gateway was heard of for {STALE_S:g} s: nothing is scaled"
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
