"""Decides whether the image of a rollout was pulled before a working pod makes room for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core.manifests import ownership
from avatar_operator.core.planning.actions import CreateImageCheck, DeleteImageCheck

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.resources.image_check import ImageCheck
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import Service


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image that must be pulled before a pod makes room for it."""

    image: str
    held: RuntimePod
    """The pod that would make room."""
    trouble: str
    """Why the image was not pulled yet; empty if it is being pulled."""


def choose_name(
    service: Service, spec_hash: str, checks: Sequence[ImageCheck], taken: Collection[str]
) -> str:
    """Return the name of the check for this spec: that of the one that exists, or a free name.

    `taken` are names of pods of others, which anyone who may create pods can choose.
    """
    name = names.image_check(service.key.name, spec_hash)
    candidates = ownership.candidates(name, service.uid)
    existing = (check.name for check in checks if check.name in candidates)
    free = (each for each in candidates if each not in taken)
    return next(existing, next(free, name))


def is_proven(
    service: Service, name: str, image: str, fleet: Fleet, checks: Sequence[ImageCheck]
) -> bool:
    """Return whether the image was pulled somewhere for this service, or the user renounces it.

    `name` is that of the check for this spec. A pod that runs proves the image too, one of the
    earlier spec if the image is the same. A current pod counts by its spec, because an admission
    webhook may have replaced its image.
    """
    running = [pod for pod in fleet.current if pod.running]
    same = [pod for pod in fleet.outdated + fleet.leaving if pod.running and pod.image == image]
    pulled = [check for check in checks if check.name == name and check.pulled]
    return service.allow_unpulled or bool(running or same or pulled)


def next_check(
    name: str,
    held: RuntimePod | None,
    checks: Sequence[ImageCheck],
    pools: Sequence[Pool],
) -> tuple[CreateImageCheck | DeleteImageCheck, ...]:
    """Return the actions that keep one check of the image while a pod waits for its result.

    `name` is that of the check for this spec, empty if no rollout needs one. `held` is the pod that
    would make room, None if none does. A check stays as long as its image is needed, because its
    result is recorded nowhere else; one that was evicted stays too, so that an evicted pod is not
    created again and again.
    """
    useless = [check for check in checks if check.name != name and not check.terminating]
    actions: list[CreateImageCheck | DeleteImageCheck] = [
        DeleteImageCheck(check.name, check.uid, check.resource_version, "it is not needed")
        for check in useless
    ]
    if held is not None and not checks:
        pool = next(pool for pool in pools if pool.gpu_class == held.gpu_class)
        reason = f"pod {held.name} makes room when the new image was pulled on node {held.node}"
        actions.append(CreateImageCheck(name, pool, held.node, reason))
    return tuple(actions)
