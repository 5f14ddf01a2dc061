"""Protects pods with sessions from eviction and deletion, by a label and annotations.

The label protects from evictions (the PodDisruptionBudget selects it) and from deletions (the
chart's admission policy checks it). The annotations protect from node autoscalers. An empty pod has
none of them, so it can be removed.
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
"""A pod must be empty this long before its protection is removed, so that a returning caller does
not cause two more writes."""

LOST_S: Final = 5.0
"""A pod whose node is not ready and whose state is older than this counts as dead."""

FRESH_S: Final = 1.0
"""A state older than this does not prove that a pod is empty."""


@dataclass(frozen=True, slots=True)
class ProtectPod:
    """Protect a pod that has sessions."""

    name: str
    uid: str
    gpu_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReleasePod:
    """Remove the protection of a pod that has no sessions any more."""

    name: str
    uid: str
    gpu_class: str
    reason: str


def protect(
    pods: Iterable[RuntimePod],
    states: Mapping[str, PodState],
    ready_nodes: frozenset[str],
) -> tuple[tuple[ProtectPod | ReleasePod, ...], float | None]:
    """Return the changes, and after how many seconds to plan again (None: only after an event).

    A pod whose state is unknown or stale keeps its protection, unless its node is lost too.
    """
    changes: list[ProtectPod | ReleasePod] = []
    waits: list[float] = []
    for pod in pods:
        if pod.terminating:
            continue  # it is deleted already; its preStop hook waits for its sessions
        state = states.get(pod.uid)
        protected = pod.live or pod.shielded
        if not pod.running:
            if protected:
                reason = "its runtime is not running, so it has no session"
                changes.append(ReleasePod(pod.name, pod.uid, pod.gpu_class, reason))
        elif state is None or state.age_s > LOST_S:
            if protected and pod.node not in ready_nodes:
                reason = f"its node {pod.node} is lost and its state is stale"
                changes.append(ReleasePod(pod.name, pod.uid, pod.gpu_class, reason))
        elif state.sessions:
            if not (pod.live and pod.shielded):
                reason = f"it has {text.count(state.sessions, 'session')}"
                changes.append(ProtectPod(pod.name, pod.uid, pod.gpu_class, reason))
            elif pod.node not in ready_nodes and state.age_s > FRESH_S:
                waits.append(LOST_S - state.age_s)  # no event marks the end of this time
        elif protected and state.empty_s < EMPTY_S:
            waits.append(EMPTY_S - state.empty_s)
        elif protected and state.age_s < FRESH_S:
            reason = f"it has had no session for {EMPTY_S:.0f} s"
            changes.append(ReleasePod(pod.name, pod.uid, pod.gpu_class, reason))
        elif protected:
            waits.append(FRESH_S / 4)
    return tuple(changes), min(waits, default=None)
