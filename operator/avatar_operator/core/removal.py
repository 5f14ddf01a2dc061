"""Decides what an uninstall reports and removes: the objects of one installation of the operator.

An object belongs to the installation that its status names, or to this one if it names none. The
pods of a service count until they are gone, also after the service was deleted: each of them waits
for its sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core import claims
from avatar_operator.core.resources.fields import Body, parse_identity, split_body

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHOWN: Final = 50
"""Objects that a report names; it counts the others."""

_LARGEST: Final = 2**31
_HEADINGS: Final = {
    names.SERVICE_KIND: "AvatarServices",
    names.AVATAR_KIND: "Avatars",
}


@dataclass(frozen=True, slots=True)
class Remaining:
    """An AvatarService or an Avatar that exists."""

    kind: str
    namespace: str
    name: str
    uid: str
    installation: str
    """The installation of the operator that manages it; empty if its status names none."""

    sessions: int = 0
    replicas: int = 0
    is_deleted: bool = False
    """Whether it waits for its pods or its finalizers."""

    def __str__(self) -> str:
        counts = f": {self.replicas} pods, {self.sessions} sessions"
        shown = counts if self.kind == names.SERVICE_KIND else ""
        return f"{self.kind} {self.namespace}/{self.name}{shown}"


def read(kind: str, body: Body) -> Remaining:
    """Read an AvatarService or an Avatar; a wrong count in a status reads as 0."""
    identity = parse_identity(body, [])
    metadata, _, status = split_body(body)
    return Remaining(
        kind=kind,
        namespace=identity.namespace,
        name=identity.name,
        uid=identity.uid,
        installation=claims.read_claim({"operator": status.raw("operator")}),
        sessions=status.integer("sessions", 0, 0, _LARGEST),
        replicas=status.integer("replicas", 0, 0, _LARGEST),
        is_deleted=metadata.has("deletionTimestamp"),
    )


def select(found: Sequence[Remaining], installation: str) -> tuple[Remaining, ...]:
    """Return the objects of an installation, in the order of their names."""
    own = (each for each in found if each.installation in ("", installation))
    return tuple(sorted(own, key=lambda each: (each.kind, each.namespace, each.name)))


def count_pods(pods: Sequence[Body], found: Sequence[Remaining], installation: str) -> int:
    """Return the number of runtime pods that no service of another installation owns."""
    others = {each.uid for each in found if each.installation not in ("", installation)}
    return sum(not others & set(_owners(body)) for body in pods)


def _owners(pod: Body) -> Iterator[str]:
    metadata, _, _ = split_body(pod)
    for owner in metadata.children("ownerReferences"):
        yield owner.text("uid")


def notice(own: Sequence[Remaining], pods: int) -> Iterator[str]:
    """Yield the lines that say what an uninstall without a cleanup leaves behind."""
    if not own and not pods:
        yield "no AvatarServices and no Avatars are left"
        return
    kinds = [
        f"{sum(each.kind == kind for each in own)} {heading}" for kind, heading in _HEADINGS.items()
    ]
    yield f"{', '.join(kinds)} and {pods} runtime pods stay in the cluster"
    yield from lines(own)
    if pods:
        yield "the pods keep their GPUs, and no operator removes them"
    yield "to remove all of them with the release, set cleanup.enabled=true before the uninstall"


def lines(own: Sequence[Remaining]) -> Iterator[str]:
    """Yield a line for each object, for at most `SHOWN` of them."""
    for each in own[:SHOWN]:
        yield f"  {each}"
    if len(own) > SHOWN:
        yield f"  and {len(own) - SHOWN} more"
