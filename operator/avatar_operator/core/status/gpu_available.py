"""Finds whether a service has the GPUs that it needs, and says what it waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.core.gpus.batch_size import NoBatch
from avatar_operator.core.planning import quota_wishes
from avatar_operator.core.resources.placement import WhenFull
from avatar_operator.core.status import left_out
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.status.refusals import FailedAction

_NAMED_HOLDERS: Final = 3  # services with GPUs that a message names


def find(service: Service, plan: planner.Plan, failures: Sequence[FailedAction]) -> Finding:
    """Return the condition GPUAvailable; `failures` are the actions that failed."""
    if pending := _pending_pods(service, plan):
        message = f"{pending}; the cluster has {describe_stocks(plan)}"
        return Finding(Condition.GPU_AVAILABLE, False, Reason.WAITING_FOR_NODE, message)
    if _backs_off(plan):
        message = f"no GPU is held between two tries: {describe_failures(plan)}"
        return Finding(Condition.GPU_AVAILABLE, False, Reason.BACKING_OFF, message)
    if not plan.missing and any(failure.of_pod for failure in failures):
        message = "a GPU is free, but the pod that would use it cannot be created"
        return Finding(Condition.GPU_AVAILABLE, True, Reason.GPU_FREE, message)
    if plan.waits_for_avatars:
        message = "no GPU is needed while the service waits for its avatars"
        return Finding(Condition.GPU_AVAILABLE, True, Reason.NOTHING_ASKED, message)
    usable = [pool for pool in plan.pools if pool.can_serve]
    # A quota hides that pods are missing. That no class can serve is known without them.
    hopeless = not usable and quota_wishes.is_limited(service, plan)
    if not plan.missing and not hopeless:
        message = "no GPU is needed" if plan.desired == 0 else "every pod has its GPU"
        reason = Reason.NOTHING_ASKED if plan.desired == 0 else Reason.GPU_ALLOCATED
        return Finding(Condition.GPU_AVAILABLE, True, reason, message)
    if not plan.inventory.stocks:
        message = "the cluster has no GPUProfile, so the GPU class of no node is known"
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
    what = "no free GPU" if exists else "no matching GPU node"
    message = f"{what}: needs {_needed(service, plan)}; the cluster has {describe_stocks(plan)}"
    if plan.failures:
        message += f"; {describe_failures(plan)}"
    message += describe_holders(service, plan)
    return Finding(Condition.GPU_AVAILABLE, False, reason, message)


def _backs_off(plan: planner.Plan) -> bool:
    """Return whether no GPU is held because the spec failed: in general, or on every class."""
    if not plan.missing:
        return plan.held > 0 and bool(plan.failures) and not plan.fleet.current
    existing = {pool.gpu_class for pool in plan.pools if pool.can_serve and pool.stock.total}
    return bool(existing) and existing <= {each.gpu_class for each in plan.failures}


def _pending_pods(service: Service, plan: planner.Plan) -> str:
    """Describe the pods that wait for a node, because `whenFull` or a pause allows it."""
    if service.placement.when_full is not WhenFull.CREATE_PENDING and not service.paused:
        return ""
    waiting = [pod for pod in plan.fleet.current if pod.trouble and not pod.node]
    if not waiting:
        return ""
    pods = ", ".join(f"{pod.name} ({pod.gpu_class})" for pod in waiting)
    return f"waiting for a node: {pods}: {waiting[0].trouble}"


def describe_failures(plan: planner.Plan) -> str:
    """Describe the pods that failed to start, and when another one is tried."""
    tries: dict[tuple[str, str], list[str]] = {}
    for each in plan.failures:
        tries.setdefault((each.pod, each.message), []).append(each.gpu_class)
    found = [
        f"{pod} failed to start{f' on {text.join(classes)}' if any(classes) else ''} and was "
        f"deleted: {message}"
        for (pod, message), classes in tries.items()
    ]
    if not any(not pod.ready for pod in plan.fleet.current):
        at = min(each.retry_at for each in plan.failures)
        found.append(f"the next try is at {text.rfc3339(at)}")
    return "; ".join(found)


def _needed(service: Service, plan: planner.Plan) -> str:
    if service.placement.when_full is WhenFull.WAIT:
        return f"{plan.pools[0].gpu_class} (spec.placement.whenFull is wait)"
    if not service.placement.gpu_classes:
        return f"any class with a curve for {service.model.variant}"
    return " or ".join(pool.gpu_class for pool in plan.pools)


def describe_stocks(plan: planner.Plan) -> str:
    """List the GPUs of each class, why a class cannot be used, and the excluded nodes."""
    pools = {pool.gpu_class: pool for pool in plan.pools}
    parts: list[str] = []
    for stock in plan.inventory.stocks.values():
        pool = pools.get(stock.gpu_class)
        if not stock.total:
            continue
        part = f"{stock.gpu_class} {stock.free} free of {stock.total}"
        if pool is not None and pool.stock.free < stock.free:
            part += f" ({stock.free - pool.stock.free} for services with smaller shares)"
        if pool is None:
            part += " (not allowed by spec.placement.gpuClasses)"
        elif isinstance(pool.outcome, NoBatch):
            part += f" ({pool.outcome.reason})"
        parts.append(part)
    parts += left_out.describe(plan.inventory, {pool.gpu_class for pool in plan.pools})
    return ", ".join(parts) or "none"


def describe_holders(service: Service, plan: planner.Plan) -> str:
    """Say which services hold the GPUs that the service could use, largest first.

    Services of other namespaces are only counted: tenants must not learn their names.
    """
    if plan.share is None:
        return ""
    own, others = plan.share.held_by(service.key.namespace)
    largest = sorted(own.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{service.key.namespace}/{name} holds {count}" for name, count in largest]
    shown = parts[:_NAMED_HOLDERS]
    if rest := sum(count for _, count in largest[_NAMED_HOLDERS:]):
        shown.append(f"{len(parts) - _NAMED_HOLDERS} more of {service.key.namespace} hold {rest}")
    if others:
        shown.append(f"other namespaces hold {others}")
    total = sum(pool.stock.total for pool in plan.pools if pool.can_serve)
    return f"; {', '.join(shown)} of {text.count(total, 'GPU')}" if shown else ""
