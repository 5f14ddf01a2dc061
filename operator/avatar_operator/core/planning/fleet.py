"""Sorts the pods of a service by their relation to its current spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator.core.planning.actions import RestoreLabels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.resources.state import PodState


@dataclass(frozen=True, slots=True)
class Fleet:
    """The pods of a service; each pod is in exactly one group."""

    current: tuple[RuntimePod, ...]
    """Pods that match the spec."""
    outdated: tuple[RuntimePod, ...]
    """Pods to replace, see `_is_outdated`."""
    lost: tuple[RuntimePod, ...]
    """Pods on a node that is missing or not ready."""
    leaving: tuple[RuntimePod, ...]
    """Deleted pods that may still have sessions."""
    ended: tuple[RuntimePod, ...]
    """Pods whose phase is Failed or Succeeded."""

    @property
    def live(self) -> tuple[RuntimePod, ...]:
        """Pods that take sessions or are starting."""
        return self.current + self.outdated


def sort_fleet(
    service: Service,
    pods: Iterable[RuntimePod],
    nodes: Iterable[Node],
    spec_hash: str,
) -> Fleet:
    """Put each pod into its group; the pods of a group are sorted by name."""
    by_name = {node.name: node for node in nodes}
    groups: dict[str, list[RuntimePod]] = {
        name: [] for name in ("current", "outdated", "lost", "leaving", "ended")
    }
    for pod in sorted(pods, key=lambda pod: pod.name):
        # The garbage collector deletes pods of an earlier service of the same name.
        if pod.terminating or pod.owner_uid != service.uid:
            group = "leaving"
        elif pod.ended:
            group = "ended"
        elif pod.node and not (pod.node in by_name and by_name[pod.node].ready):
            group = "lost"
        elif _is_outdated(service, pod, by_name.get(pod.node), spec_hash):
            group = "outdated"
        else:
            group = "current"
        groups[group].append(pod)
    return Fleet(**{name: tuple(found) for name, found in groups.items()})


def _is_outdated(service: Service, pod: RuntimePod, node: Node | None, spec_hash: str) -> bool:
    """Return whether another pod should replace this one."""
    return (
        pod.spec_hash != spec_hash
        or not service.placement.allows(pod.gpu_class)
        or pod.drain_asked
        or _leaves(node)
    )


def _leaves(node: Node | None) -> bool:
    return node is not None and node.departure is not None


def removal_cost(pod: RuntimePod, states: Mapping[str, PodState]) -> tuple[bool, bool, bool, float]:
    """Return the sort key by which pods leave, lowest first; a draining pod continues to drain.

    A pod without a state is ordered after an empty pod and before one with sessions. It is not
    drained until its state is known.
    """
    state = states.get(pod.uid)
    sessions = 0.5 if state is None else float(state.sessions)
    return not (state is not None and state.draining), pod.running, pod.ready, sessions


def restore_labels(service: Service, pods: Iterable[RuntimePod]) -> tuple[RestoreLabels, ...]:
    """Return the pods of a service whose labels were changed by hand.

    The gateway and the PodDisruptionBudget find pods by these labels. The pod still counts as a pod
    of the service, because the service controls it.
    """
    reason = "its labels were changed by hand"
    return tuple(
        RestoreLabels(
            *(pod.name, pod.uid, pod.resource_version, pod.gpu_class),
            *(pod.origin.name, reason),
        )
        for pod in sorted(pods, key=lambda pod: pod.name)
        if pod.relabelled and pod.owner_uid == service.uid and not pod.terminating
    )
