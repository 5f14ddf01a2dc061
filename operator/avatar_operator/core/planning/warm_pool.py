"""The reserve is a warm pool: pods that have loaded the model, are empty, and take sessions last.

The role of a pod is a label, so it is observed like everything else. Gateways use the reserve
themselves when all other pods are full, so no caller waits until the operator promotes a pod.
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
class RoleAssignment:
    """The pods whose role changes, and the pods to create with their roles."""

    changes: tuple[PromotePod | ReservePod, ...]
    creates: tuple[CreatePod, ...]


def assign_roles(
    pods: Sequence[RuntimePod],
    creates: Sequence[CreatePod],
    states: Mapping[str, PodState],
    *,
    desired: int,
    reserve: int,
) -> RoleAssignment:
    """Assign the roles so that `reserve` of the `desired` pods are the reserve.

    `pods` are those that stay. A pod of the reserve that has sessions serves already, whatever its
    label says. Serving pods come first: the reserve is what remains.
    """
    used = [pod for pod in pods if pod.reserve and _sessions(pod, states)]
    empty = [pod for pod in pods if pod.reserve and not _sessions(pod, states)]
    serving = len(pods) - len(empty)
    count = max(0, len(empty) - reserve, desired - reserve - serving)
    ready_first = sorted(empty, key=lambda pod: (not pod.ready, pod.name))
    promoted = [*used, *ready_first[:count]]
    serving += min(count, len(empty))
    missing = reserve - max(0, len(empty) - count)
    spare = max(0, min(missing, serving + reserve - desired))
    reserved = [pod for pod in pods if _is_spare(pod, states)][:spare]
    missing -= len(reserved)
    first = max(0, desired - reserve - serving + len(reserved))  # new pods before it serve
    return RoleAssignment(
        changes=(
            *(PromotePod(p.name, p.uid, p.gpu_class, _why(p, states)) for p in promoted),
            *(ReservePod(p.name, p.uid, p.gpu_class, "it is empty") for p in reserved),
        ),
        creates=tuple(
            replace(create, reserve=first <= index < first + missing)
            for index, create in enumerate(creates)
        ),
    )


def reserve_to_keep(
    pods: Sequence[RuntimePod], states: Mapping[str, PodState], reserve: int
) -> Collection[str]:
    """Return the UIDs of the pods that stay as the reserve when other pods leave."""
    empty = [pod for pod in pods if pod.reserve and not _sessions(pod, states)]
    return {p.uid for p in sorted(empty, key=lambda p: (not p.ready, p.name))[:reserve]}


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
    return f"it has {text.count(sessions, 'session')}" if sessions else "it is needed to serve"
