"""Decides which pods have failed to start, and when the service may try another one.

A pod that no node accepts, or whose container does not start, must not hold a GPU that another
service could use. It is deleted, and another one is tried after a delay that doubles with each
round of failures. What failed is kept in the status, so that the delay outlives the operator.

A spec that no pod has proven yet gets one pod first. The rest follows when a node has accepted it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from avatar_operator.core.planning.disruption import LOST_S
from avatar_operator.core.planning.failures import YIELD_S, FailedPod, Failure
from avatar_operator.core.planning.rollout import MAX_RESTARTS
from avatar_operator.core.resources.placement import Placement, WhenFull

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

REJECTED_S: Final = 3.0
"""A pod that the scheduler has rejected for this long is planned again."""

RESCHEDULED_S: Final = 12.0
"""If the class has a free GPU again, the scheduler accepts a pod that waits for one within this
time: its own back-off is at most 10 s."""

STUCK_S: Final = 15.0
"""A container that still does not start this long after the pod was bound has failed."""

MISSING_S: Final = 3.0
"""The same for an image that does not exist: waiting alone does not solve it."""

UNMOUNTED_S: Final = 120.0
"""A pod whose volumes are not mounted this long after it was bound has failed."""

FAILING_WAITS: Final = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RegistryUnavailable",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that waiting alone rarely solves."""

_IMAGE_WAITS: Final = frozenset({"ErrImagePull", "ImagePullBackOff"})
_HOPELESS_WAITS: Final = frozenset({"ErrImageNeverPull", "InvalidImageName"})
_NO_SUCH_IMAGE: Final = re.compile(r"= NotFound|: not found|manifest unknown|name unknown", re.I)
"""What container runtimes say if the registry answered that it has no such image."""

_INSUFFICIENT: Final = re.compile(r"Insufficient ([\w./-]*\w)")
_NO_DEVICE: Final = "cannot allocate all claims"
_OF_NO_NODE: Final = re.compile(r"nodes are available: \D")  # a reason that counts no nodes


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many pods may be created, and on which classes."""

    count: int
    pools: tuple[Pool, ...]
    """The classes; those that rejected a pod a short time ago have no free GPU."""
    closed: frozenset[str]
    """The classes that rejected a pod a short time ago."""
    wait_s: float | None
    """Seconds until another pod may be tried; None if only an event changes the number."""


def find_failed(
    fleet: Fleet,
    pools: Sequence[Pool],
    failures: Sequence[Failure],
    states: Mapping[str, PodState],
    placement: Placement,
    now: float,
) -> tuple[tuple[FailedPod, ...], float | None]:
    """Return the pods that failed to start, and after how many seconds another one may have.

    A pod whose container runs, or whose state arrived a short time ago, is not among them: it may
    have sessions.
    """
    found: list[FailedPod] = []
    waits: list[float] = []
    outdated = {pod.uid for pod in fleet.outdated}
    for pod in fleet.live:
        state = states.get(pod.uid)
        if pod.running or (state is not None and state.age_s <= LOST_S):
            continue
        fails_at = _fails_at(pod, pools)
        if fails_at is None:
            continue
        if now < fails_at:
            waits.append(fails_at - now)
            continue
        blamed = None if pod.uid in outdated else _blame(pod, pools)
        if (
            pod.rejected_at is not None
            and pod.uid not in outdated
            and placement.when_full is WhenFull.CREATE_PENDING
            and not _has_other_class(pod, pools, failures, now)
        ):
            continue  # it waits for a node and holds no GPU meanwhile
        found.append(FailedPod(pod, pod.trouble or "its volumes are not mounted", blamed))
    return tuple(found), min(waits, default=None)


def count_unfit(fleet: Fleet, pools: Sequence[Pool]) -> int:
    """Return how many pods no node accepts for another reason than its GPUs."""
    return sum(is_unfit(pod, pools) for pod in fleet.live)


def is_unfit(pod: RuntimePod, pools: Sequence[Pool]) -> bool:
    """Return whether no node accepts a pod for another reason than its GPUs."""
    return pod.rejected_at is not None and not _lacks_gpu(pod, pools)


def _fails_at(pod: RuntimePod, pools: Sequence[Pool]) -> float | None:
    """Return from which time a pod that does not run counts as failed, None if it progresses."""
    if pod.rejected_at is not None:
        waits_for_gpu = _lacks_gpu(pod, pools) and _free(pod.gpu_class, pools) > 0
        return pod.rejected_at + (RESCHEDULED_S if waits_for_gpu else REJECTED_S)
    if not pod.node:
        return None
    bound_at = pod.created_at if pod.bound_at is None else pod.bound_at
    if _is_failing(pod):
        return bound_at + (MISSING_S if _lacks_image(pod) else STUCK_S)
    return None if pod.mounted else bound_at + UNMOUNTED_S


def _is_failing(pod: RuntimePod) -> bool:
    """Return whether the container of a pod has failed to start, or fails again and again."""
    if pod.waiting == "CrashLoopBackOff":
        return pod.restarts >= MAX_RESTARTS
    return pod.waiting in FAILING_WAITS


def _lacks_image(pod: RuntimePod) -> bool:
    """Return whether the image of a pod does not exist, as far as its node knows."""
    if pod.waiting in _IMAGE_WAITS:
        return bool(_NO_SUCH_IMAGE.search(pod.trouble))
    return pod.waiting in _HOPELESS_WAITS


def _blame(pod: RuntimePod, pools: Sequence[Pool]) -> str | None:
    """Return the class that cannot run the spec, "" for every class, None if it was only full."""
    if pod.rejected_at is None:
        return ""
    full = _free(pod.gpu_class, pools) <= 0 and _fits_new_nodes(pod, pools)
    return None if full else pod.gpu_class


def _lacks_gpu(pod: RuntimePod, pools: Sequence[Pool]) -> bool:
    """Return whether the scheduler would accept a pod if a GPU were free."""
    lacks = _INSUFFICIENT.search(pod.trouble) is not None or _NO_DEVICE in pod.trouble
    return lacks and _fits_new_nodes(pod, pools)


def _fits_new_nodes(pod: RuntimePod, pools: Sequence[Pool]) -> bool:
    """Return whether another node could accept a pod that the scheduler has rejected.

    The scheduler then names no scarce resource but the GPU, and each reason counts nodes: one that
    does not, such as a missing claim, holds for every node.
    """
    resources = {pool.stock.resource for pool in pools if pool.gpu_class == pod.gpu_class}
    scarce = _INSUFFICIENT.findall(pod.trouble)
    return resources.issuperset(scarce) and not _OF_NO_NODE.search(pod.trouble)


def _free(gpu_class: str, pools: Sequence[Pool]) -> int:
    return sum(pool.stock.free for pool in pools if pool.gpu_class == gpu_class)


def _has_other_class(
    pod: RuntimePod, pools: Sequence[Pool], failures: Sequence[Failure], now: float
) -> bool:
    """Return whether a class other than that of the pod has a free GPU for it now."""
    closed = _closed_classes(pools, failures, now)
    return any(
        pool.can_serve and pool.stock.free > 0 and pool.gpu_class not in closed
        for pool in pools
        if pool.gpu_class != pod.gpu_class
    )


def _closed_classes(
    pools: Sequence[Pool], failures: Sequence[Failure], now: float
) -> dict[str, float]:
    """Return the classes that are not tried now, and when each is tried again."""
    gpus = {pool.gpu_class: pool.stock.total for pool in pools}
    return {
        each.gpu_class: each.retry_at
        for each in failures
        if each.gpu_class and now < each.retry_at and gpus.get(each.gpu_class) == each.gpus
    }


def allow(
    fleet: Fleet,
    spec_hash: str,
    pools: Sequence[Pool],
    failures: Sequence[Failure],
    placement: Placement,
    count: int,
    now: float,
    *,
    adopts: bool = False,
    others_wait: bool = False,
) -> Allowance:
    """Return how many of `count` pods may be created now.

    `adopts` is whether the service adopts a pod of the same spec in this plan: it proves the spec.
    `others_wait` is whether a service whose pods start lacks a GPU: it comes before another try.
    """
    closed = _closed_classes(pools, failures, now)
    waits = [until - now for until in closed.values()]
    opened = tuple(_without_gpus(pool) if pool.gpu_class in closed else pool for pool in pools)
    alike = [pod for pod in fleet.live + fleet.lost + fleet.leaving if pod.spec_hash == spec_hash]
    healthy = adopts or any(pod.ready for pod in alike)
    for general in (each for each in failures if not each.gpu_class):
        yields = others_wait and now < general.last_retry_at
        if now < general.retry_at or yields:
            waits.append(max(YIELD_S, general.retry_at - now) if yields else general.retry_at - now)
            count = max(0, count - general.pods) if healthy else 0
    if not healthy:
        starting = [pod for pod in fleet.current if not _waits_for_a_node(pod, pools, placement)]
        accepted = any(pod.node for pod in alike) or len(starting) < len(fleet.current)
        if failures or not accepted or any(pod.waiting in FAILING_WAITS for pod in alike):
            count = min(count, max(0, 1 - len(starting)))
    return Allowance(count, opened, frozenset(closed), min(waits, default=None))


def _waits_for_a_node(pod: RuntimePod, pools: Sequence[Pool], placement: Placement) -> bool:
    """Return whether a pod waits for a node to come, as `createPending` allows."""
    return (
        placement.when_full is WhenFull.CREATE_PENDING
        and pod.rejected_at is not None
        and _blame(pod, pools) is None
    )


def _without_gpus(pool: Pool) -> Pool:
    return replace(pool, stock=replace(pool.stock, free=0, selectors=()))
