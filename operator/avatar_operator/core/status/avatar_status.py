"""Builds the status of an Avatar, and the Events about its changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_contracts.fields import Fields
from avatar_operator.core import text
from avatar_operator.core.planning.avatars import memory
from avatar_operator.core.planning.avatars.plan import CreateJob, DeleteJob, Phase
from avatar_operator.core.status.findings import Finding
from avatar_operator.core.status.service_status import Notice, timed_conditions
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.planning.avatars.plan import Action, Plan
    from avatar_operator.core.resources.fields import Body

INVALID: str = "Invalid"
"""The phase of an avatar whose spec is invalid."""
_NAMED = 10  # services that a message names
_WARNINGS = frozenset({Reason.BACKING_OFF, Reason.DELETION_WAITS})


def build(generation: int, plan: Plan, previous: Mapping[str, object], now: float) -> Body:
    """Return the status of an avatar; `now` is in seconds since 1970."""
    return {
        "observedGeneration": generation,
        "phase": plan.phase.value,
        "conditions": timed_conditions(generation, find(plan), previous, now),
        **memory.write(plan.memory),
    }


def build_invalid(
    generation: int, message: str, previous: Mapping[str, object], now: float
) -> Body:
    """Return the status of an avatar whose spec is invalid: the other fields keep their values."""
    findings = [
        Finding(Condition.READY, False, Reason.INVALID_SPEC, message),
        Finding(Condition.STALLED, True, Reason.INVALID_SPEC, message),
    ]
    if Fields(previous, "status", []).has("contentHash"):
        text_ = "an earlier version is on the volume"
        findings.append(Finding(Condition.AVAILABLE, True, Reason.EARLIER_VERSION, text_))
    conditions = timed_conditions(generation, findings, previous, now)
    return {
        **previous,
        "observedGeneration": generation,
        "phase": INVALID,
        "conditions": conditions,
    }


def find(plan: Plan) -> tuple[Finding, ...]:
    """Return the conditions of an avatar."""
    ready = plan.phase is Phase.READY
    found = [Finding(Condition.READY, ready, plan.reason, plan.message), _available(plan)]
    if plan.stalled:
        found.append(Finding(Condition.STALLED, True, plan.reason, plan.message))
    elif not ready:
        found.append(Finding(Condition.RECONCILING, True, plan.reason, plan.message))
    found.append(_in_use(plan))
    return tuple(found)


def notices(
    done: Sequence[Action], plan: Plan, previous: Mapping[str, object]
) -> tuple[Notice, ...]:
    """Return the Events to post: for actions that succeeded, and for another state."""
    found: list[Notice] = []
    for action in done:
        match action:
            case CreateJob(name=name, stock=stock):
                where = f"on {stock.gpu_class}" if stock is not None else "on CPUs"
                found.append(Notice(Reason.JOB_CREATED, f"created Job {name} {where}"))
            case DeleteJob(name=name, reason=reason):
                found.append(Notice(Reason.JOB_DELETED, f"deleted Job {name}: {reason}"))
    for condition in Fields(previous, "status", []).children("conditions"):
        same = condition.text("reason") == plan.reason.value
        if condition.text("type") == Condition.READY.value and same:
            return tuple(found)
    if plan.phase not in (Phase.SCHEDULING, Phase.RUNNING):
        warning = plan.stalled or plan.reason in _WARNINGS
        found.append(Notice(plan.reason, plan.message, warning=warning))
    return tuple(found)


def _available(plan: Plan) -> Finding:
    prepared = plan.memory.prepared
    if prepared is None:
        message = "no version of the avatar was prepared yet"
        return Finding(Condition.AVAILABLE, False, Reason.NOT_PREPARED, message)
    described = f"{text.count(prepared.frames, 'frame')}, {prepared.size}, in {prepared.path}"
    if plan.phase is Phase.READY:
        return Finding(Condition.AVAILABLE, True, Reason.PREPARED, described)
    message = f"services use an earlier version: {described}"
    return Finding(Condition.AVAILABLE, True, Reason.EARLIER_VERSION, message)


def _in_use(plan: Plan) -> Finding:
    services = plan.services
    if not services:
        message = "no AvatarService of the namespace names the avatar"
        return Finding(Condition.IN_USE, False, Reason.NOT_NAMED, message)
    listed = ", ".join(services[:_NAMED])
    if len(services) > _NAMED:
        listed += f" and {len(services) - _NAMED} more"
    message = f"named by {listed}; a deletion waits until no AvatarService names the avatar"
    return Finding(Condition.IN_USE, True, Reason.NAMED_BY_SERVICES, message)
