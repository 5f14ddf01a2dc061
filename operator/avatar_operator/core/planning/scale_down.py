"""Decides which pods go, and takes each the next step on its way.

A pod leaves in three plans: it is drained, its sessions end by themselves, and
once it says so it is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.core.planning.actions import Action, DeletePod, DrainPod, UndrainPod
from avatar_operator.core.planning.fleet import Fleet, cost
from avatar_operator.core.planning.warm_pool import protected
from avatar_operator.core.resources.pod import RuntimePod
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.state import PodState

Leaving = tuple[RuntimePod, Reason]
"""A pod that is to go, and why."""

FRESH_S: Final = 1.0
"""A state older than this proves no emptiness: a pod sends at least one a second."""

KEPT_FAILURES: Final = 5
"""Failed pods that stay to be looked at, and from which the back-off is read."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Why an outdated pod may go."""

    because: Reason
    makes_room: bool  # whether a new pod could take its GPU


def farewell(pods: Iterable[RuntimePod]) -> tuple[DeletePod, ...]:
    """Return what becomes of the pods of a service that was deleted.

    The garbage collector may not delete those with sessions, so we do. Each then
    drains in its own time: its preStop hook waits for the sessions, up to the
    service's drain timeout.
    """
    return tuple(
        DeletePod(
            pod.name, pod.uid, None, pod.gpu_class, Reason.SERVICE_GONE, "its service was deleted"
        )
        for pod in sorted(pods, key=lambda pod: pod.name)
        if not pod.terminating
    )


def surplus(
    fleet: Fleet,
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    *,
    desired: int,
    reserve: int,
) -> tuple[Leaving, ...]:
    """Choose among current pods those that go, the least costly for sessions first.

    The reserve stays: it costs no session to let it go, and that is what it is for.
    """
    kept = protected(fleet.current, states, reserve)
    ranks = {pool.gpu_class: rank for rank, pool in enumerate(pools)}
    by_cost = sorted(
        fleet.current,
        key=lambda pod: (
            pod.uid in kept,
            *cost(pod, states),
            -ranks.get(pod.gpu_class, 0),
            pod.name,
        ),
    )
    count = max(0, len(fleet.current) - desired)
    return tuple((pod, Reason.SCALING_DOWN) for pod in by_cost[:count])


def replaceable(
    fleet: Fleet, spec_hash: str, nodes: Iterable[Node], *, halted: bool
) -> Mapping[str, Replacement]:
    """Say of each outdated pod that may go now why it does, and whether its GPU comes free."""
    cordoned = {node.name for node in nodes if node.unschedulable}
    found: dict[str, Replacement] = {}
    for pod in fleet.outdated:
        if pod.drain_asked:
            found[pod.uid] = Replacement(Reason.DRAIN_ASKED, makes_room=True)
        elif pod.node in cordoned:
            found[pod.uid] = Replacement(Reason.NODE_LEAVING, makes_room=False)
        elif not halted:
            found[pod.uid] = Replacement(Reason.ROLLING_OUT, makes_room=True)
    return found


def replaced(
    candidates: Mapping[str, Replacement],
    fleet: Fleet,
    desired: int,
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    *,
    blocked: bool,
) -> tuple[Leaving, ...]:
    """Choose outdated pods that go: one for each current pod that has become ready.

    Without a spare GPU nothing new can come first, so one old pod makes room,
    if a new one could run on its class, and none is making room already.
    """
    ready = sum(1 for pod in fleet.current if pod.ready)
    kept = max(0, desired - ready)
    by_cost = sorted(fleet.outdated, key=lambda pod: (*cost(pod, states), pod.name))
    may_go = [pod for pod in by_cost if pod.uid in candidates]
    going = may_go[: max(0, len(by_cost) - kept)]
    if blocked and not going and ready == len(fleet.current) and not fleet.leaving:
        serving = {pool.gpu_class for pool in pools if pool.serves}
        making_room = (
            pod for pod in may_go if pod.gpu_class in serving and candidates[pod.uid].makes_room
        )
        going = [*islice(making_room, 1)]
    return tuple((pod, candidates[pod.uid].because) for pod in going)


def steps(
    leaving: Iterable[Leaving], states: Mapping[str, PodState]
) -> tuple[tuple[Action, ...], float | None]:
    """Return the next step of each pod that goes, and when to look again if one must wait."""
    following: list[Action] = []
    wait_s: float | None = None
    for pod, because in leaving:
        state = states.get(pod.uid)
        if not pod.running:
            # The version is part of the order: a pod that starts meanwhile is another one.
            reason = "it has not started"
            version = pod.resource_version
            following.append(DeletePod(pod.name, pod.uid, version, pod.gpu_class, because, reason))
        elif state is None:
            wait_s = FRESH_S  # nothing is known of its sessions: they may be live
        elif not state.draining:
            reason = f"it has {text.count(state.sessions, 'session')}"
            following.append(DrainPod(pod.name, pod.uid, pod.gpu_class, because, reason))
        elif state.sessions == 0 and state.age_s < FRESH_S:
            reason = "it is drained and has no session"
            following.append(DeletePod(pod.name, pod.uid, None, pod.gpu_class, because, reason))
        elif state.sessions == 0:
            wait_s = FRESH_S / 4
    return tuple(following), wait_s


def resumes(
    fleet: Fleet,
    leaving: Iterable[Leaving],
    states: Mapping[str, PodState],
) -> tuple[UndrainPod, ...]:
    """Take pods back that were draining and are needed after all."""
    going = {pod.uid for pod, _ in leaving}
    return tuple(
        UndrainPod(pod.name, pod.uid, pod.gpu_class, "it is needed again")
        for pod in fleet.live
        if pod.uid not in going and pod.uid in states and states[pod.uid].draining
    )


def burials(fleet: Fleet, desired: int, spec_hash: str) -> tuple[DeletePod, ...]:
    """Clear away ended pods: all once the service is well, else all but the latest few."""
    ready = sum(1 for pod in fleet.current if pod.ready)
    ended = sorted(fleet.ended, key=lambda pod: (pod.failed_at or 0.0, pod.name))
    current = [pod for pod in ended if pod.spec_hash == spec_hash]
    kept = set() if ready >= desired else {pod.uid for pod in current[-KEPT_FAILURES:]}
    return tuple(
        DeletePod(pod.name, pod.uid, None, pod.gpu_class, Reason.REPLACING, f"it {pod.phase}")
        for pod in ended
        if pod.uid not in kept
    )
