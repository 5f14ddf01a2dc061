"""The AvatarService or Avatar that controls an object, as its owner references name it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from avatar_contracts import labels


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource that controls an object; it may have been deleted."""

    name: str
    uid: str
    kind: str = labels.SERVICE_KIND


def controlling_resources(
    body: Mapping[str, object], kind: str = labels.SERVICE_KIND
) -> Iterator[Owner]:
    """Yield the resources of this kind that control an object; the API server allows one at most.

    Labels prove nothing, because everyone who may edit the object sets them.
    """
    metadata = body.get("metadata")
    references = metadata.get("ownerReferences") if isinstance(metadata, Mapping) else None
    for reference in references if isinstance(references, list) else ():
        if (
            isinstance(reference, Mapping)
            and reference.get("kind") == kind
            and str(reference.get("apiVersion")).startswith(f"{labels.GROUP}/")
            and reference.get("controller") is True
        ):
            yield Owner(str(reference.get("name", "")), str(reference.get("uid", "")), kind)


def owner_of(body: Mapping[str, object], kind: str = labels.SERVICE_KIND) -> Owner | None:
    """Return the resource of this kind that controls a stored object, None if there is none."""
    return next(controlling_resources(body, kind), None)
