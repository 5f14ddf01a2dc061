"""Folders with models and avatars, as AvatarServices and Avatars name them, and their parser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar_contracts.fields import Fields


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """A folder in a PersistentVolumeClaim."""

    claim_name: str
    path: str
    """Path relative to the root of the volume; "" is the root."""


@dataclass(frozen=True, slots=True)
class HostPathSource:
    """A folder on the node."""

    path: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A folder in the runtime image."""

    path: str


Source = ClaimSource | HostPathSource | ImageSource


def parse_source(parent: Fields, name: str, default: str) -> Source:
    """Return the folder that a field describes; faults are recorded in `parent`.

    An image with the default path does not count beside another kind: earlier versions of the CRD
    stored it in every service, and there it stays when another kind is applied.
    """
    if not parent.has(name):
        return ImageSource(default)
    fields = parent.child(name)
    kinds = [kind for kind in ("persistentVolumeClaim", "hostPath", "image") if fields.has(kind)]
    if len(kinds) > 1 and fields.child("image").text("path") == default:
        kinds.remove("image")
    if len(kinds) != 1:
        parent.add_rule(
            name, "exactly one of persistentVolumeClaim, hostPath and image must be set"
        )
        return ImageSource(default)
    chosen = fields.child(kinds[0])
    if kinds[0] == "persistentVolumeClaim":
        chosen.required("claimName", "the name of a PersistentVolumeClaim")
        path = chosen.text("path", pattern=r"^((?!\.\.).)*$", limit="a path without '..'")
        return ClaimSource(chosen.object_name("claimName"), path.strip("/"))
    chosen.required("path", "an absolute path")
    path = chosen.text(
        "path", default, pattern=r"^/((?!\.\.).)*$", limit="an absolute path without '..'"
    )
    return HostPathSource(path) if kinds[0] == "hostPath" else ImageSource(path)
