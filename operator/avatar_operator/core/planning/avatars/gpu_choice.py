"""Chooses the GPU class of a Job that prepares an avatar, or says what it waits for.

A preparation never takes a GPU that a service needs: it starts on a class only while no service
lacks a GPU of this class, and while a GPU is free besides the pods and the reservations of all
services. Few preparations run on a class at once, one by default, so that services that scale up
find the other GPUs free. A preparation that runs is not interrupted; its time limit bounds it.

Jobs whose pods find no node use no GPU and do not count. A namespace has few of them, so that a
hundred Avatars do not take a hundred GPUs once nodes appear; those that start beyond the limit give
way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.inventory import ClassStock
    from avatar_operator.core.resources.avatar import Avatar
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.preparation import PreparationJob

CPU: Final = ""
"""The place in the counts of Jobs that use no GPU."""
MAX_WITHOUT_NODE: Final = 3
"""Jobs of a namespace on one class whose pods find no node."""
POD_S: Final = 30.0
"""A Job that has no pod for longer has none soon: a quota or a policy refuses it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a Job may run now."""

    stock: ClassStock | None
    """The GPU class; None: on CPUs."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a Job does not start now."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What the choice depends on besides the avatar."""

    stocks: Mapping[str, ClassStock]
    """The GPUs by class that a pod with the placement of the avatar can use."""
    profiles: Sequence[GPUProfile]
    contested: Collection[str]
    """Classes of which a service lacks a GPU."""
    running: Mapping[str, int]
    """Preparations of all avatars by class; `CPU` for those without a GPU."""
    limit: int
    """Preparations at once on each class, and on CPUs."""
    without_node: Mapping[str, int] = field(default_factory=dict)
    """Jobs of the avatar's namespace by class whose pods find no node."""


def count_running(jobs: Collection[PreparationJob], now: float) -> dict[str, int]:
    """Return the number of preparations by GPU class.

    A Job whose pod finds no node does not count: it uses no GPU, and it may wait for a long time.
    """
    return _counted(job for job in jobs if job.ended_at is None and not _waits(job, now))


def count_without_node(
    jobs: Collection[PreparationJob], namespace: str, now: float
) -> dict[str, int]:
    """Return the number of Jobs of a namespace by GPU class whose pods find no node."""
    own = (job for job in jobs if job.namespace == namespace and job.ended_at is None)
    return _counted(job for job in own if _waits(job, now))


def is_surplus(job: PreparationJob, jobs: Collection[PreparationJob], limit: int) -> bool:
    """Return whether more Jobs than the limit got nodes on a class, and this one got it late.

    A Job that waits for a node does not count. When nodes appear, several of them may start at
    once; those that started first continue.
    """
    started = _started_at(job)
    if started is None:
        return False
    same = (each for each in jobs if each.gpu_class == job.gpu_class and each.ended_at is None)
    times = [(at, each.uid) for each in same if (at := _started_at(each)) is not None]
    return (started, job.uid) in sorted(times)[limit:]


def _counted(jobs: Iterable[PreparationJob]) -> dict[str, int]:
    found: dict[str, int] = {}
    for job in jobs:
        found[job.gpu_class] = found.get(job.gpu_class, 0) + 1
    return found


def _waits(job: PreparationJob, now: float) -> bool:
    if not job.pods:
        return now - job.created_at > POD_S
    return any(pod.rejected for pod in job.pods)


def _started_at(job: PreparationJob) -> float | None:
    """Return when the pod of a Job got its node, None if it has none."""
    times = [pod.scheduled_at for pod in job.pods if pod.scheduled_at is not None]
    return min(times, default=None)


def choose(avatar: Avatar, seen: Situation) -> Choice | Wait:
    """Return where the Job of an avatar may run now, or what it waits for."""
    # A Job requests its GPU as a resource; a claim would need a template for each Avatar.
    usable = [stock for stock in _ordered(avatar, seen) if stock.total and not stock.devices]
    if avatar.device == "cpu" or (avatar.device == "auto" and not usable):
        return _taken(CPU, "CPUs", seen) or Choice(None)
    if not usable:
        asked = ", ".join(avatar.placement.gpu_classes) or "a known class"
        message = f"no usable node has a GPU of {asked}"
        if any(stock.total for stock in _ordered(avatar, seen)):
            message += " that a device plugin offers; preparations do not use GPUs of DRA drivers"
        return Wait(Reason.WAITING_FOR_GPU, message)
    waits = [_wait(stock, seen) for stock in usable]
    for stock, wait in zip(usable, waits, strict=True):
        if wait is None:
            return Choice(stock)
    found = [wait for wait in waits if wait is not None]
    return Wait(found[0].reason, "; ".join(wait.message for wait in found))


def _ordered(avatar: Avatar, seen: Situation) -> list[ClassStock]:
    """Return the classes in the order of the spec, or else the cheapest one first."""
    if avatar.placement.gpu_classes:
        return [seen.stocks[name] for name in avatar.placement.gpu_classes if name in seen.stocks]
    costs = {profile.name: profile.cost_per_hour for profile in seen.profiles}

    def rank(stock: ClassStock) -> tuple[bool, Decimal, str]:
        cost = costs.get(stock.gpu_class)
        return cost is None, cost or Decimal(0), stock.gpu_class

    return sorted(seen.stocks.values(), key=rank)


def _wait(stock: ClassStock, seen: Situation) -> Wait | None:
    name = stock.gpu_class
    if (taken := _taken(name, name, seen)) is not None:
        return taken
    if name in seen.contested:
        message = f"{name}: AvatarServices lack GPUs of this class"
        return Wait(Reason.WAITING_FOR_SERVICES, message)
    if stock.free < 1:
        message = f"{name}: 0 of {text.count(stock.total, 'GPU')} are free"
        return Wait(Reason.WAITING_FOR_GPU, message)
    return None


def _taken(gpu_class: str, shown: str, seen: Situation) -> Wait | None:
    running = seen.running.get(gpu_class, 0)
    without_node = seen.without_node.get(gpu_class, 0)
    if running >= seen.limit:
        verb = "runs" if running == 1 else "run"
        fault = f"{text.count(running, 'preparation')} {verb}, the limit is {seen.limit}"
    elif without_node >= MAX_WITHOUT_NODE:
        fault = f"{without_node} Jobs of this namespace find no node, the limit is "
        fault += str(MAX_WITHOUT_NODE)
    else:
        return None
    return Wait(Reason.WAITING_FOR_PREPARATIONS, f"{shown}: {fault}")
