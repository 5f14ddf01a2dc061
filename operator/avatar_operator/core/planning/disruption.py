"""Decides which pods carry the marks that keep others from removing them: those with sessions.

The label stands against evictions (a PodDisruptionBudget selects it) and against
deletions (the chart's admission policy does); the annotations stand against
autoscalers of nodes. An empty pod has none of them, so that it leaves freely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

EMPTY_S: Final = 5.0
"""So long a pod is empty before its marks go: a caller who comes back need not set them again."""

LOST_S: Final = 5.0
"""A pod on a node that is not ready, and silent for so long, is dead."""

FRESH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ProtectPod:
    """Mark a pod that has sessions."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleasePod:
    """Take the marks off a pod that has no sessions any more."""

    name: str
    uid: str
    gpu_class: str
    reason: str


def protect(
    pods: Iterable[RuntimePod],
    states: Mapping[str, PodState],
    ready_nodes: frozenset[str],
) -> tuple[tuple[ProtectPod | ReleasePod, ...], float | None]:
    """Return the marks to change, and when to look again if nothing is heard until then.

    Silence changes nothing: a pod whose sessions are not known keeps its marks,
    unless its node is lost too.
    """
    changes: list[ProtectPod | ReleasePod] = []
    waits: list[float] = []
    for pod in pods:
        if pod.terminating:
            continue  # it goes anyway, and waits for its sessions by itself
        state = states.get(pod.uid)
        marked = pod.live or pod.shielded
        if not pod.running:
            if marked:
                reason = "its runtime does not run, so it has no session"
                changes.append(ReleasePod(pod.name, pod.uid, pod.gpu_class, reason))
        elif state is None or state.age_s > LOST_S:
            if marked and pod.node not in ready_nodes:
                reason = f"its node {pod.node} is lost, and it is silent"
                changes.append(ReleasePod(pod.name, pod.uid, pod.gpu_class, reason))
        elif state.sessions:
            if not (pod.live and pod.shielded):
                reason = f"it has {text.count(state.sessions, 'session')}"
                changes.append(ProtectPod(pod.name, pod.uid, pod.gpu_class, reason))
            elif pod.node not in ready_nodes and state.age_s > FRESH_S:
                waits.append(LOST_S - state.age_s)  # nobody tells when that time is over
        elif marked and state.empty_s < EMPTY_S:
            waits.append(EMPTY_S - state.empty_s)
        elif marked and state.age_s < FRESH_S:
            reason = f"it has had no session for {EMPTY_S:.0f} s"
            changes.append(ReleasePod(pod.name, pod.uid, pod.gpu_class, reason))
        elif marked:
            waits.append(FRESH_S / 4)
    return tuple(changes), min(waits, default=None)
