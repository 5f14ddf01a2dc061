"""The AvatarService that controls an object, as the object's owner references name it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from avatar_contracts import labels


@dataclass(frozen=True, slots=True)
class Owner:
    """The service that controls an object; it may have been deleted."""

    name: str
    uid: str


def controlling_services(body: Mapping[str, object]) -> Iterator[Owner]:
    """Yield the services that control a stored object; the API server allows one at most.

    Labels prove nothing, because everyone who may edit the object sets them.
    """
    metadata = body.get("metadata")
    references = metadata.get("ownerReferences") if isinstance(metadata, Mapping) else None
    for reference in references if isinstance(references, list) else ():
        if (
            isinstance(reference, Mapping)
            and reference.get("kind") == labels.SERVICE_KIND
            and str(reference.get("apiVersion")).startswith(f"{labels.GROUP}/")
            and reference.get("controller") is True
        ):
            yield Owner(str(reference.get("name", "")), str(reference.get("uid", "")))


def owner_of(body: Mapping[str, object]) -> Owner | None:
    """Return the service that controls a stored object, None if no AvatarService does."""
    return next(controlling_services(body), None)
