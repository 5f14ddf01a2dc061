"""Decides which stored object belongs to a service, and which name a service uses for its object.

A name proves nothing, because every user of a namespace can choose it, and labels prove nothing,
because everyone may set them. An object belongs to a service only if its controller reference has
the UID of the service: only those who may write the object itself can set that reference. An object
that another tool manages according to its label does not belong to a service either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_contracts.owners import Owner, owner_of
from avatar_operator import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.resources.fields import Body

_UID_LENGTH: Final = 8  # characters of the service's UID in its second name

_LISTS_OF_OTHERS: Final = "ownerReferences"  # a pod that another service adopted is a further owner


@dataclass(frozen=True, slots=True)
class Choice:
    """The name that a service uses for one of its objects."""

    name: str
    stored: Body | None
    """The object as stored, None if it does not exist yet."""

    taken: tuple[str, ...] = ()
    """Names before this one that objects of others have.

    An object of an earlier service of the same name is not among them: it is about to be deleted.
    """


def candidates(name: str, uid: str) -> tuple[str, str]:
    """Return the names that an object of a service may have, the preferred one first.

    The UID of the service does not exist before the service, so no object can have the second name
    already, unless someone chooses it to block this service.
    """
    return name, f"{name}-{uid[:_UID_LENGTH]}"


def belongs_to(stored: Mapping[str, object], uid: str, kind: str = names.SERVICE_KIND) -> bool:
    """Return whether a stored object is an object of the resource with this UID."""
    metadata = Fields(stored.get("metadata"), "", [])
    manager = metadata.strings("labels").get(names.LABEL_MANAGED_BY, names.FIELD_MANAGER)
    owner = owner_of(stored, kind)
    return owner is not None and owner.uid == uid and manager == names.FIELD_MANAGER


def choose(found: Iterable[tuple[str, Body | None]], service: Owner) -> Choice | None:
    """Return the own object if there is one, else the first free name; None if there is neither.

    `found` has the candidates in order, each with the stored object of that name.
    """
    free: Choice | None = None
    taken: list[str] = []
    for name, stored in found:
        if stored is None:
            free = free or Choice(name, None, tuple(taken))
        elif belongs_to(stored, service.uid, service.kind):
            return Choice(name, stored, tuple(taken))
        elif not _is_left_behind(stored, service):
            taken.append(name)
    return free


def _is_left_behind(stored: Mapping[str, object], service: Owner) -> bool:
    """Return whether an object belongs to an earlier service with this name."""
    owner = owner_of(stored, service.kind)
    return owner is not None and owner.name == service.name and owner.uid != service.uid


def describe_taken(taken: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each name that an object of others has, by the kind of the object."""
    return [
        f"{kind} {name} does not belong to this AvatarService; another name is used"
        for kind, found in sorted(taken.items())
        for name in found
    ]


def differs(stored: Mapping[str, object], rendered: Mapping[str, object]) -> bool:
    """Return whether a stored object lacks something of the rendered one; more is allowed."""
    return not _contains(stored, rendered)


def identity(stored: Mapping[str, object]) -> dict[str, str]:
    """Return UID and version of a stored object, which make a write fail if it was replaced."""
    metadata = Fields(stored.get("metadata"), "", [])
    return {key: metadata.text(key) for key in ("uid", "resourceVersion")}


def name_of(stored: Mapping[str, object]) -> str:
    """Return the name of a stored object."""
    return Fields(stored.get("metadata"), "", []).text("name")


def _contains(stored: object, rendered: object) -> bool:
    if not isinstance(rendered, dict):
        return stored == rendered
    return isinstance(stored, dict) and all(
        key == _LISTS_OF_OTHERS or _contains(stored.get(key), value)
        for key, value in rendered.items()
    )
