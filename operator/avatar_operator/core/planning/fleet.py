"""Sorts the pods of a service by what they are worth to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Placement, Service
    from avatar_operator.core.resources.state import PodState


@dataclass(frozen=True, slots=True)
class Fleet:
    """The pods of a service by what they are worth to it."""

    current: tuple[RuntimePod, ...]  # as the spec wants them
    outdated: tuple[RuntimePod, ...]  # to be replaced: see `_outdated`
    lost: tuple[RuntimePod, ...]  # on a node that is gone or not ready
    leaving: tuple[RuntimePod, ...]  # deleted, waiting for their last sessions
    ended: tuple[RuntimePod, ...]  # failed or finished, will never run again

    @property
    def live(self) -> tuple[RuntimePod, ...]:
        """Pods that take or may soon take sessions."""
        return self.current + self.outdated


def sort_fleet(
    service: Service,
    pods: Iterable[RuntimePod],
    nodes: Iterable[Node],
    spec_hash: str,
) -> Fleet:
    """Sort pods by what they are worth, each into exactly one group, by name."""
    by_name = {node.name: node for node in nodes}
    groups: dict[str, list[RuntimePod]] = {
        name: [] for name in ("current", "outdated", "lost", "leaving", "ended")
    }
    for pod in sorted(pods, key=lambda pod: pod.name):
        if pod.terminating or pod.owner_uid != service.uid:  # the garbage collector takes orphans
            group = "leaving"
        elif pod.ended:
            group = "ended"
        elif pod.node and not (pod.node in by_name and by_name[pod.node].ready):
            group = "lost"
        elif _outdated(service, pod, by_name.get(pod.node), spec_hash):
            group = "outdated"
        else:
            group = "current"
        groups[group].append(pod)
    return Fleet(**{name: tuple(found) for name, found in groups.items()})


def _outdated(service: Service, pod: RuntimePod, node: Node | None, spec_hash: str) -> bool:
    """Return whether a pod is to be replaced by another one."""
    return (
        pod.spec_hash != spec_hash
        or not _allows(service.placement, pod.gpu_class)
        or pod.drain_asked
        or _is_cordoned(node)
    )


def _is_cordoned(node: Node | None) -> bool:
    return node is not None and node.unschedulable


def _allows(placement: Placement, gpu_class: str) -> bool:
    return not placement.gpu_classes or gpu_class in placement.gpu_classes


def cost(pod: RuntimePod, states: Mapping[str, PodState]) -> tuple[bool, bool, bool, float]:
    """Order pods by what their going costs; one that is draining already goes on draining.

    A pod that was never heard of goes after an empty one and before one with sessions. It is
    not touched until it is heard, and then counts for what it says.
    """
    state = states.get(pod.uid)
    sessions = 0.5 if state is None else float(state.sessions)
    return not (state is not None and state.draining), pod.running, pod.ready, sessions
