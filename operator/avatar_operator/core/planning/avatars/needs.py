"""Decides whether a service waits for the avatars that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.resources.avatar import Storage
    from avatar_operator.core.resources.service import Service


@dataclass(frozen=True, slots=True)
class KnownAvatar:
    """An Avatar resource in the namespace of a service."""

    name: str
    storage: Storage
    available: bool
    """Whether the volume has this or an earlier version of it."""
    message: str
    """Why it is not ready."""


@dataclass(frozen=True, slots=True)
class Needs:
    """The avatars of a service that come from Avatar resources."""

    waiting: tuple[str, ...]
    """NAME: REASON of each avatar that is not available."""
    elsewhere: tuple[str, ...]
    """Names of avatars whose resource writes to another volume than the service reads."""
    count: int
    """Avatars that the service names and that a resource prepares in its volume."""
    blocks: bool
    """Whether a new pod would find no avatar that it may serve."""


def judge(service: Service, known: Mapping[str, KnownAvatar]) -> Needs | None:
    """Return what the service needs of Avatar resources, None if it names none of them."""
    named = [known[name] for name in service.avatars if name in known]
    if not named:
        return None
    own = [avatar for avatar in named if avatar.storage == service.avatar_source]
    waiting = [avatar for avatar in own if not avatar.available]
    return Needs(
        waiting=tuple(f"{avatar.name}: {avatar.message}" for avatar in waiting),
        elsewhere=tuple(avatar.name for avatar in named if avatar not in own),
        count=len(own),
        blocks=len(waiting) == len(service.avatars),
    )


def stops(needs: Needs | None, fleet: Fleet) -> bool:
    """Return whether no pod is created; pods that exist prove that the volume has avatars."""
    return needs is not None and needs.blocks and not fleet.live
