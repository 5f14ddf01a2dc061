"""Decides which pods are the reserve: loaded, empty, and the last to be given sessions.

The role is a label, so it is read from the cluster like everything else. Gateways
go to the reserve themselves when all others are full, so nobody waits for the
write that promotes a pod.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from avatar_operator.core import text
from avatar_operator.core.planning.actions import CreatePod, PromotePod, ReservePod

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState


@dataclass(frozen=True, slots=True)
class Cast:
    """The roles that change, and the pods to create with theirs."""

    changes: tuple[PromotePod | ReservePod, ...]
    creates: tuple[CreatePod, ...]


def cast(
    pods: Sequence[RuntimePod],
    creates: Sequence[CreatePod],
    states: Mapping[str, PodState],
    *,
    desired: int,
    reserve: int,
) -> Cast:
    """Return how `desired` pods come to be a reserve and, before it, all others.

    `pods` are those that stay. A pod of the reserve that has sessions is one of
    the others already, whatever its label says.
    """
    used = [pod for pod in pods if pod.reserve and _sessions(pod, states)]
    held = [pod for pod in pods if pod.reserve and not _sessions(pod, states)]
    serving = len(pods) - len(held)
    count = max(0, len(held) - reserve, desired - reserve - serving)
    by_use = sorted(held, key=lambda pod: (not pod.ready, pod.name))  # who can serve comes first
    promoted = [*used, *by_use[:count]]
    serving += min(count, len(held))
    lacking = reserve - max(0, len(held) - count)
    spare = max(0, min(lacking, serving + reserve - desired))
    reserved = [pod for pod in pods if _is_spare(pod, states)][:spare]
    lacking -= len(reserved)
    first = max(0, desired - reserve - serving + len(reserved))  # new pods that are to serve
    return Cast(
        changes=(
            *(PromotePod(p.name, p.uid, p.gpu_class, _why(p, states)) for p in promoted),
            *(ReservePod(p.name, p.uid, p.gpu_class, "it is empty") for p in reserved),
        ),
        creates=tuple(
            replace(create, reserve=first <= index < first + lacking)
            for index, create in enumerate(creates)
        ),
    )


def protected(
    pods: Sequence[RuntimePod], states: Mapping[str, PodState], reserve: int
) -> Collection[str]:
    """Return the UIDs of the pods that stay for the reserve's sake when others go."""
    held = [pod for pod in pods if pod.reserve and not _sessions(pod, states)]
    return {p.uid for p in sorted(held, key=lambda p: (not p.ready, p.name))[:reserve]}


def _sessions(pod: RuntimePod, states: Mapping[str, PodState]) -> int:
    return states[pod.uid].sessions if pod.uid in states else 0


def _is_spare(pod: RuntimePod, states: Mapping[str, PodState]) -> bool:
    state = states.get(pod.uid)
    return (
        pod.ready
        and not pod.reserve
        and state is not None
        and not (state.sessions or state.draining)
    )


def _why(pod: RuntimePod, states: Mapping[str, PodState]) -> str:
    sessions = _sessions(pod, states)
    return (
        f"it has {text.count(sessions, 'session')}" if sessions else "it is needed among the others"
    )
