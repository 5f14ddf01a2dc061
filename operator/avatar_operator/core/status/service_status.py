"""Builds the status of a service, and the Events about its changes.

The status depends only on the observed state and the previous status, so an equal one is never
written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.core import text
from avatar_operator.core.autoscaling import start_times
from avatar_operator.core.autoscaling.limits import Limit
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.manifests.objects import LONGEST_MESSAGE, pod_selector
from avatar_operator.core.planning import planner
from avatar_operator.core.planning.failures import to_status
from avatar_operator.core.status import conditions
from avatar_operator.core.status.pods import serving
from avatar_operator.core.text import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.autoscaling import inputs
    from avatar_operator.core.autoscaling.start_times import PodStart
    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState
    from avatar_operator.core.status.findings import Finding

KEPT_DECISIONS: Final = 10

_NUMBERS: Final = frozenset(
    {
        *("replicas", "readyReplicas", "sessions", "capacity", "freeSessions"),
        *("gpu", "batch", "pools", "starts"),
    }
)
"""Fields that change with each pod: five pods that start would otherwise cause five writes."""


_EXPECTED: Final = frozenset({names.Reason.PODS_STARTING, names.Reason.PAUSED})
"""Reasons for which Ready is False in normal operation."""


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event about a service, posted once."""

    reason: names.Reason
    message: str
    warning: bool = False


def build(
    service: Service,
    plan: planner.Plan,
    states: Mapping[str, PodState],
    findings: Sequence[Finding],
    previous: Mapping[str, object],
    now: float,
) -> Body:
    """Return the status of a service; `now` is in seconds since 1970."""
    serving_pods = serving(plan, states)
    known = [states[pod.uid] for pod in plan.fleet.live + plan.fleet.leaving if pod.uid in states]
    serving_states = [states[pod.uid] for pod in serving_pods if pod.uid in states]
    used = [pool for pool in plan.pools if _pods_on(plan, pool.gpu_class)]
    ready = next(finding for finding in findings if finding.condition is names.Condition.READY)
    return {
        "observedGeneration": service.generation,
        "conditions": timed_conditions(service.generation, findings, previous, now),
        "selector": pod_selector(service),
        "replicas": len(plan.fleet.live) + len(plan.fleet.leaving),
        "readyReplicas": len(serving_pods),
        "desiredReplicas": plan.desired,
        "sessions": sum(state.sessions for state in known),
        "capacity": sum(state.capacity for state in serving_states),
        "freeSessions": sum(state.free for state in serving_states),
        "state": ready.reason.value,
        "gpu": ",".join(pool.gpu_class for pool in used),
        "batch": ",".join(_batches(plan, pool.gpu_class) for pool in used),
        "pools": [_pool(plan, pool) for pool in plan.pools],
        "decisions": _decisions(plan, states, previous, now),
        **({"failures": to_status(plan.failures)} if plan.failures else {}),
    }


def is_unplanned(status: Mapping[str, object]) -> bool:
    """Return whether a status was never written after a plan; the CRD's default is -1."""
    return status.get("observedGeneration") in (None, -1)


def build_invalid(
    generation: int,
    findings: Sequence[Finding],
    previous: Mapping[str, object],
    now: float,
) -> Body:
    """Return the status of a service whose spec is invalid: the other fields keep their values."""
    return {
        **previous,
        "observedGeneration": generation,
        "conditions": timed_conditions(generation, findings, previous, now),
        "state": names.Reason.INVALID_SPEC.value,
    }


def build_terminating(
    generation: int,
    pods: int,
    sessions: int,
    finalizers: Sequence[str],
    previous: Mapping[str, object],
    now: float,
) -> Body:
    """Return the status of a service that is being deleted, with the pods that it still has."""
    findings = conditions.terminating(pods, finalizers)
    gone = ("failures", "gpu", "batch", "pools")
    return {
        **{name: value for name, value in previous.items() if name not in gone},
        "observedGeneration": generation,
        "conditions": timed_conditions(generation, findings, previous, now),
        "state": names.Reason.TERMINATING.value,
        "replicas": pods,
        "readyReplicas": 0,
        "desiredReplicas": 0,
        "sessions": sessions,
        "capacity": 0,
        "freeSessions": 0,
    }


def notices(
    actions: Sequence[planner.Action],
    findings: Sequence[Finding],
    previous: Mapping[str, object],
    plan: planner.Plan | None = None,
) -> tuple[Notice, ...]:
    """Return the Events to post: for actions that succeeded, and for changes of conditions.

    A service that starts or that someone paused is not Ready and needs no warning. Degraded is
    reported if Ready does not have the same reason already, and unless it is about names, of which
    `name_notices` reports each.
    """
    found = [*_creations(actions), *(_action_notice(action) for action in actions)]
    if plan is not None:
        found.append(_scaling_notice(plan, previous))
    before = _previous_conditions(previous)
    by_condition = {finding.condition: finding for finding in findings}
    ready = by_condition.get(names.Condition.READY)
    degraded = by_condition.get(names.Condition.DEGRADED)
    if ready is not None and _is_new(ready, before):
        warning = not ready.status and ready.reason not in _EXPECTED
        found.append(Notice(ready.reason, ready.message, warning=warning))
    if degraded is not None and degraded.status and _is_new(degraded, before):
        said = ready is not None and not ready.status and ready.reason is degraded.reason
        if not said and degraded.reason is not names.Reason.NAME_TAKEN:
            found.append(Notice(degraded.reason, degraded.message, warning=True))
    upstream = by_condition.get(names.Condition.UPSTREAM_ALLOWED)
    if upstream is not None and not upstream.status and _is_new(upstream, before):
        found.append(Notice(upstream.reason, upstream.message, warning=True))
    return tuple(notice for notice in found if notice is not None)


def name_notices(taken: Sequence[str], pods: Sequence[str]) -> tuple[Notice, ...]:
    """Return the Events about names that objects of others have; `pods` are names of pods."""
    used = "exists and does not belong to this AvatarService; the next name is used"
    messages = [*taken, *(f"Pod {name} {used}" for name in pods)]
    return tuple(Notice(names.Reason.NAME_TAKEN, message, warning=True) for message in messages)


def start_notices(started: Sequence[PodStart]) -> tuple[Notice, ...]:
    """Return the Event about the pods that have started, with the stages of the slowest start."""
    if not started:
        return ()
    return (Notice(names.Reason.POD_STARTED, start_times.describe_all(started)),)


def _is_new(finding: Finding, before: Mapping[str, Fields]) -> bool:
    old = before.get(finding.condition.value)
    return old is None or old.text("reason") != finding.reason.value


def is_urgent(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    """Return whether more differs between two statuses than numbers that change with each pod."""
    return _without_numbers(old) != _without_numbers(new)


def lacks_gpus(plan: planner.Plan) -> bool:
    """Return whether a free GPU would give the service another pod."""
    return plan.decision is not None and plan.decision.limit is Limit.FREE_GPUS


def timed_conditions(
    generation: int, findings: Sequence[Finding], previous: Mapping[str, object], now: float
) -> list[Body]:
    """Return the conditions with their times; only a change of `status` is a transition."""
    before = _previous_conditions(previous)
    written: list[Body] = []
    for finding in findings:
        status = finding.status_text
        old = before.get(finding.condition.value)
        since = old.text("lastTransitionTime") if old and old.text("status") == status else ""
        written.append(
            {
                "type": finding.condition.value,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": since or rfc3339(now),
                "reason": finding.reason.value,
                "message": finding.message[:LONGEST_MESSAGE],
            }
        )
    return written


def _without_numbers(document: Mapping[str, object]) -> list[object]:
    rest = {key: document[key] for key in document.keys() - _NUMBERS - {"conditions"}}
    found = _previous_conditions(document).values()
    return [rest, [[each.text(key) for key in ("type", "status", "reason")] for each in found]]


def _previous_conditions(previous: Mapping[str, object]) -> dict[str, Fields]:
    conditions = Fields(previous, "status", []).children("conditions")
    return {condition.text("type"): condition for condition in conditions}


def _pods_on(plan: planner.Plan, gpu_class: str) -> list[RuntimePod]:
    return [pod for pod in plan.fleet.live if pod.gpu_class == gpu_class]


def _batches(plan: planner.Plan, gpu_class: str) -> str:
    """Return the batch sizes of the running pods, which may have an earlier spec."""
    sizes = sorted({pod.batch_size for pod in _pods_on(plan, gpu_class)})
    return "/".join(map(str, sizes))


def _pool(plan: planner.Plan, pool: Pool) -> Body:
    replicas = len(_pods_on(plan, pool.gpu_class))
    reason = pool.outcome.reason[:LONGEST_MESSAGE]
    known: Body = {"gpuClass": pool.gpu_class, "replicas": replicas, "reason": reason}
    if isinstance(pool.outcome, batch_size.NoBatch):
        return {**known, "batchSize": 0, "sessionsPerPod": 0}
    return {
        **known,
        "batchSize": pool.outcome.batch_size,
        "sessionsPerPod": pool.outcome.sessions_per_pod,
        "limitedBy": pool.outcome.limited_by.value,
    }


def _decisions(
    plan: planner.Plan,
    states: Mapping[str, PodState],
    previous: Mapping[str, object],
    now: float,
) -> list[object]:
    """Return the last changes of the desired number of pods, newest first."""
    fields = Fields(previous, "status", [])
    before = fields.integer("desiredReplicas", 0, 0, 10**9)
    kept = list(fields.items("decisions"))
    if before == plan.desired:
        return kept
    reason = _direction(plan.desired, before).value
    inputs: Body = {
        "pods": len(plan.fleet.live),
        "sessions": sum(state.sessions for state in states.values()),
        "freeGPUs": sum(pool.stock.free for pool in plan.pools if pool.can_serve),
    }
    if plan.scaling is not None:
        reason = plan.scaling.decision.reason.value
        inputs |= _inputs(plan.scaling)
    decision = {
        "time": rfc3339(now),
        "from": before,
        "to": plan.desired,
        "reason": reason,
        "inputs": inputs,
    }
    return [decision, *kept][:KEPT_DECISIONS]


def _direction(after: int, before: int) -> names.Reason:
    return names.Reason.SCALING_UP if after > before else names.Reason.SCALING_DOWN


def _inputs(answer: inputs.ScalingResult) -> Body:
    """Return the figures of a decision, so that it can be explained later."""
    decision, policy = answer.decision, answer.effective.policy
    seen, share = decision.figures, answer.inputs.observation.share
    return {
        "waiting": seen.waiting,
        "headroom": seen.headroom,
        "arrivalsPerSecond": round(seen.arrivals_per_s, 3),
        "startSeconds": round(seen.start_s, 1),
        "capacity": seen.capacity,
        "wanted": seen.wanted,
        "silent": seen.silent,
        "minReplicas": policy.min_replicas,
        **({"reserve": decision.reserve} if policy.reserve else {}),
        **({"sharedReserve": share.pods} if share is not None else {}),
        **({"schedules": list(answer.effective.names)} if answer.effective.names else {}),
        **({} if decision.limit is None else {"limitedBy": decision.limit.value}),
    }


def _scaling_notice(plan: planner.Plan, previous: Mapping[str, object]) -> Notice | None:
    before = Fields(previous, "status", []).integer("desiredReplicas", 0, 0, 10**9)
    if plan.decision is None or before == plan.desired:
        return None
    seen = plan.decision.figures
    message = (
        f"{before} to {plan.desired} pods ({plan.decision.reason.value}): "
        f"{text.count(seen.sessions, 'session')}, {seen.waiting} waiting, "
        f"headroom {seen.headroom}, {text.count(seen.capacity, 'slot')}"
    )
    return Notice(_direction(plan.desired, before), message)


def _creations(actions: Sequence[planner.Action]) -> list[Notice | None]:
    """Return one Event for each class, not one for each created pod."""
    created: dict[str, list[planner.CreatePod]] = {}
    for action in actions:
        if isinstance(action, planner.CreatePod):
            created.setdefault(action.gpu_class, []).append(action)
    return [
        Notice(
            names.Reason.POD_CREATED,
            f"created {'pod' if len(pods) == 1 else 'pods'} {', '.join(pod.name for pod in pods)} "
            f"on {gpu_class}: {pods[0].reason}",
        )
        for gpu_class, pods in created.items()
    ]


def _action_notice(action: planner.Action) -> Notice | None:
    match action:
        case planner.DrainPod(name=name):
            message = f"draining pod {name} ({action.because.value}): {action.reason}"
            return Notice(names.Reason.POD_DRAINING, message)
        case planner.UndrainPod(name=name):
            return Notice(names.Reason.POD_RESUMED, f"resumed pod {name}: {action.reason}")
        case planner.CreateImageCheck(name=name):
            return Notice(names.Reason.POD_CREATED, f"created pod {name}: {action.reason}")
        case planner.PromotePod(name=name):
            message = f"promoted pod {name} of the reserve: {action.reason}"
            return Notice(names.Reason.POD_PROMOTED, message)
        case planner.AdoptPod(name=name):
            return Notice(names.Reason.POD_ADOPTED, f"adopted pod {name}: {action.reason}")
        case planner.RestoreLabels(name=name):
            message = f"restored the labels of pod {name}: {action.reason}"
            return Notice(names.Reason.LABELS_RESTORED, message, warning=True)
        case planner.DeletePod(name=name):
            message = f"deleted pod {name} ({action.because.value}): {action.reason}"
            return Notice(names.Reason.POD_DELETED, message)
    return None  # a Secret needs no Event, and _creations returns those of new pods
