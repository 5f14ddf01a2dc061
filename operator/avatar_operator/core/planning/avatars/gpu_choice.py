"""Chooses the GPU class of a Job that prepares an avatar, or says what it waits for.

A preparation never takes a GPU that a service needs: it starts on a class only while no service
lacks a GPU of this class, and while a GPU is free besides the pods and the reservations of all
services. Few preparations run on a class at once, one by default, so that services that scale up
find the other GPUs free. A preparation that runs is not interrupted; its time limit bounds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from avatar_operator.core import text
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from avatar_operator.core.gpus.inventory import ClassStock
    from avatar_operator.core.resources.avatar import Avatar
    from avatar_operator.core.resources.gpu_profile import GPUProfile
    from avatar_operator.core.resources.preparation import PreparationJob

CPU: Final = ""
"""The place in the counts of Jobs that use no GPU."""


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


def count_running(jobs: Collection[PreparationJob]) -> dict[str, int]:
    """Return the number of preparations by GPU class.

    A Job whose pod finds no node does not count: it uses no GPU, and it may wait for a long time.
    """
    found: dict[str, int] = {}
    for job in jobs:
        if job.ended_at is None and not any(pod.rejected for pod in job.pods):
            found[job.gpu_class] = found.get(job.gpu_class, 0) + 1
    return found


def choose(avatar: Avatar, seen: Situation) -> Choice | Wait:
    """Return where the Job of an avatar may run now, or what it waits for."""
    usable = [stock for stock in _ordered(avatar, seen) if stock.total]
    if avatar.device == "cpu" or (avatar.device == "auto" and not usable):
        running = seen.running.get(CPU, 0)
        if running >= seen.limit:
            return Wait(Reason.WAITING_FOR_PREPARATIONS, f"CPUs: {_busy(running, seen.limit)}")
        return Choice(None)
    if not usable:
        asked = ", ".join(avatar.placement.gpu_classes) or "a known class"
        return Wait(Reason.WAITING_FOR_GPU, f"no usable node has a GPU of {asked}")
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
    running = seen.running.get(name, 0)
    if running >= seen.limit:
        return Wait(Reason.WAITING_FOR_PREPARATIONS, f"{name}: {_busy(running, seen.limit)}")
    if name in seen.contested:
        message = f"{name}: AvatarServices lack GPUs of this class"
        return Wait(Reason.WAITING_FOR_SERVICES, message)
    if stock.free < 1:
        message = f"{name}: 0 of {text.count(stock.total, 'GPU')} are free"
        return Wait(Reason.WAITING_FOR_GPU, message)
    return None


def _busy(running: int, limit: int) -> str:
    verb = "runs" if running == 1 else "run"
    return f"{text.count(running, 'preparation')} {verb}, the limit is {limit}"
