"""What several conditions say of the pods of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator.core import text
from avatar_operator.core.autoscaling.capacity import STALE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.planning import planner
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState


def serving(plan: planner.Plan, states: Mapping[str, PodState]) -> tuple[RuntimePod, ...]:
    """Return the pods that take sessions: ready ones with a known state that do not drain."""
    return tuple(
        pod
        for pod in plan.fleet.live
        if pod.ready
        and pod.uid not in plan.silent
        and not (pod.uid in states and states[pod.uid].draining)
    )


def describe_lost(plan: planner.Plan, states: Mapping[str, PodState]) -> list[str]:
    """Describe the pods on lost nodes, with the sessions of their last states."""
    found: list[str] = []
    for pod in plan.fleet.lost:
        sessions = states[pod.uid].sessions if pod.uid in states else 0
        had = f" with {text.count(sessions, 'session')}" if sessions else ""
        found.append(f"{pod.name} is on the lost node {pod.node}{had}")
    return found


def is_silent(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    """Return whether a pod has sent a state before, but its latest state is stale."""
    return pod.uid in states and states[pod.uid].age_s > STALE_S
