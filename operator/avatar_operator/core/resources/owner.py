"""Owner: the AvatarService that controls an object, as the object's owner references name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core.resources.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Owner:
    """The service that controls an object; it may have been deleted."""

    name: str
    uid: str


def controller(metadata: Fields) -> Owner | None:
    """Return the service that controls an object, None if no AvatarService does."""
    for owner in metadata.children("ownerReferences"):
        is_service = owner.text("kind") == names.SERVICE_KIND
        is_ours = owner.text("apiVersion").startswith(f"{names.GROUP}/")
        if is_service and is_ours and owner.flag("controller", default=False):
            return Owner(owner.text("name"), owner.text("uid"))
    return None


def owner_of(body: Mapping[str, object]) -> Owner | None:
    """Return the service that controls a stored object, None if no AvatarService does."""
    return controller(Fields(body.get("metadata"), "", []))
