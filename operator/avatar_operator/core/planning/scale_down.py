"""Decides which pods leave, and the next step of each.

A pod leaves in three plans: it is drained, its sessions end, and it is deleted once it reports that
it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.core.planning.actions import Action, DeletePod, DrainPod, UndrainPod
from avatar_operator.core.planning.fleet import Fleet, removal_cost
from avatar_operator.core.planning.warm_pool import reserve_to_keep
from avatar_operator.core.resources.pod import RuntimePod
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.failures import FailedPod
    from avatar_operator.core.resources.node import Node
    from avatar_operator.core.resources.state import PodState

Removal = tuple[RuntimePod, Reason]
"""A pod that leaves, and why."""

FRESH_S: Final = 1.0
"""A state older than this does not prove that a pod is empty; a pod sends one each second."""

KEPT_FAILURES: Final = 5
"""Failed pods that are kept for inspection; the back-off is computed from them."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Why an outdated pod may leave."""

    because: Reason
    makes_room: bool
    """Whether a new pod can use its GPU."""
    at_once: bool = False
    """Whether it leaves before a replacement is ready, because its node leaves within minutes."""


def delete_orphans(pods: Iterable[RuntimePod]) -> tuple[DeletePod, ...]:
    """Return the deletion of all pods of a deleted service.

    The admission policy keeps the garbage collector from deleting pods with sessions, so the
    operator deletes them. The preStop hook of each pod waits for its sessions, for at most
    `drainTimeoutSeconds`.
    """
    return tuple(
        _delete(pod, Reason.SERVICE_GONE, "its service was deleted")
        for pod in sorted(pods, key=lambda pod: pod.name)
        if not pod.terminating
    )


def scale_down(
    fleet: Fleet,
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    given_back: Sequence[RuntimePod] = (),
    *,
    desired: int,
    reserve: int,
    candidates: Collection[str] = (),
) -> tuple[Removal, ...]:
    """Choose the current pods that exceed `desired`, those with the lowest removal cost first.

    Pods of the reserve stay: they are empty, so they would otherwise always leave first. Pods whose
    GPU is given back to another service (`given_back`, current or outdated) leave in any case. Of
    pods with the same cost, those on `candidates` leave first: nodes that the cluster autoscaler
    may delete.
    """
    given = {pod.uid for pod in given_back}
    kept = reserve_to_keep(fleet.current, states, reserve)
    ranks = {pool.gpu_class: rank for rank, pool in enumerate(pools)}
    ordered = sorted(
        fleet.current,
        key=lambda pod: (
            pod.uid in kept,
            *removal_cost(pod, states),
            pod.node not in candidates,
            -ranks.get(pod.gpu_class, 0),
            pod.name,
        ),
    )
    rest = [pod for pod in ordered if pod.uid not in given]
    count = max(0, len(rest) - desired)
    removals = [(pod, Reason.GIVING_BACK) for pod in given_back]
    return (*removals, *((pod, Reason.SCALING_DOWN) for pod in rest[:count]))


def find_replaceable(
    fleet: Fleet, spec_hash: str, nodes: Iterable[Node], *, halted: bool
) -> Mapping[str, Replacement]:
    """Return the outdated pods that may leave now, by UID.

    A pod on a node that is about to leave makes no room: no new pod can use its GPU.
    """
    departures = {node.name: node.departure for node in nodes}
    found: dict[str, Replacement] = {}
    for pod in fleet.outdated:
        departure = departures.get(pod.node)
        at_once = departure is not None and departure.at_once
        if pod.drain_asked and not at_once:
            found[pod.uid] = Replacement(Reason.DRAIN_ASKED, makes_room=True)
        elif departure is not None:
            found[pod.uid] = Replacement(Reason.NODE_LEAVING, makes_room=False, at_once=at_once)
        elif not halted:
            found[pod.uid] = Replacement(Reason.ROLLING_OUT, makes_room=True)
    return found


def replace_outdated(
    candidates: Mapping[str, Replacement],
    fleet: Fleet,
    desired: int,
    pools: Sequence[Pool],
    states: Mapping[str, PodState],
    *,
    blocked: bool,
    silent: Collection[str] = (),
    image_proven: bool = True,
) -> tuple[tuple[Removal, ...], RuntimePod | None]:
    """Choose the outdated pods that leave: one for each current pod that has become ready.

    A pod whose node leaves `at_once` waits for no other pod: gateways move its sessions to other
    pods while its node exists, and new sessions would end with the node.

    If no GPU is free for a new pod (`blocked`), one outdated pod makes room. Its GPU class must be
    able to run a new pod, and no other pod may be making room already. A ready pod makes room only
    if the image of the new pod was pulled somewhere (`image_proven`), or if it was annotated to be
    drained. The second value is the pod that waits for this, None if none does.

    A pod whose state is unknown (`silent`) replaces no other pod: gateways may not know it either.
    """
    ready = sum(1 for pod in fleet.current if pod.ready and pod.uid not in silent)
    kept = max(0, desired - ready)
    ordered = sorted(fleet.outdated, key=lambda pod: (*removal_cost(pod, states), pod.name))
    may_leave = [pod for pod in ordered if pod.uid in candidates]
    leaving = may_leave[: max(0, len(ordered) - kept)]
    leaving += [pod for pod in may_leave if candidates[pod.uid].at_once and pod not in leaving]
    if blocked and not leaving and ready == len(fleet.current) and not fleet.leaving:
        usable = {pool.gpu_class for pool in pools if pool.can_serve}
        making_room = (
            pod for pod in may_leave if pod.gpu_class in usable and candidates[pod.uid].makes_room
        )
        leaving = [*islice(making_room, 1)]
        for pod in leaving:
            asked = candidates[pod.uid].because is Reason.DRAIN_ASKED
            if pod.ready and not image_proven and not asked:
                return (), pod
    return tuple((pod, candidates[pod.uid].because) for pod in leaving), None


def next_steps(
    leaving: Iterable[Removal], states: Mapping[str, PodState]
) -> tuple[tuple[Action, ...], float | None]:
    """Return the next step of each pod that leaves.

    The second value is the number of seconds until the next plan if a pod must wait for a fresher
    state, else None.
    """
    steps: list[Action] = []
    wait_s: float | None = None
    for pod, because in leaving:
        state = states.get(pod.uid)
        if not pod.running:
            # The deletion names the version: a pod that starts meanwhile has another one.
            steps.append(_delete(pod, because, "it has not started"))
        elif state is None:
            wait_s = FRESH_S  # its sessions are unknown, so it may have some
        elif not state.draining:
            reason = f"it has {text.count(state.sessions, 'session')}"
            steps.append(DrainPod(pod.name, pod.uid, pod.gpu_class, because, reason))
        elif state.sessions == 0 and state.age_s < FRESH_S:
            steps.append(_delete(pod, because, "it is drained and has no session"))
        elif state.sessions == 0:
            wait_s = FRESH_S / 4
    return tuple(steps), wait_s


def delete_failed(failed: Iterable[FailedPod]) -> tuple[DeletePod, ...]:
    """Return the deletion of the pods that failed to start, in exactly the observed version."""
    return tuple(
        DeletePod(
            pod.name,
            pod.uid,
            pod.resource_version,
            pod.gpu_class,
            Reason.REPLACING,
            f"it failed to start: {message}",
        )
        for pod, message, _ in failed
    )


def undrain(
    fleet: Fleet,
    leaving: Iterable[Removal],
    states: Mapping[str, PodState],
) -> tuple[UndrainPod, ...]:
    """Let draining pods accept sessions again if they do not leave any more."""
    leaving_uids = {pod.uid for pod, _ in leaving}
    return tuple(
        UndrainPod(pod.name, pod.uid, pod.gpu_class, "it is needed again")
        for pod in fleet.live
        if pod.uid not in leaving_uids and pod.uid in states and states[pod.uid].draining
    )


def prune_failed_pods(fleet: Fleet, desired: int, spec_hash: str) -> tuple[DeletePod, ...]:
    """Delete ended pods: all if enough pods are ready, else all but the latest ones."""
    ready = sum(1 for pod in fleet.current if pod.ready)
    ended = sorted(fleet.ended, key=lambda pod: (pod.failed_at or 0.0, pod.name))
    current = [pod for pod in ended if pod.spec_hash == spec_hash]
    kept = set() if ready >= desired else {pod.uid for pod in current[-KEPT_FAILURES:]}
    return tuple(
        _delete(pod, Reason.REPLACING, f"its phase is {pod.phase}")
        for pod in ended
        if pod.uid not in kept
    )


def _delete(pod: RuntimePod, because: Reason, reason: str) -> DeletePod:
    """Delete a pod as it was observed: it may have been given to someone else meanwhile."""
    return DeletePod(pod.name, pod.uid, pod.resource_version, pod.gpu_class, because, reason)
