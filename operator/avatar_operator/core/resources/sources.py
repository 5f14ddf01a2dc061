"""Folders with models and avatars, as AvatarServices and Avatars name them, and their parser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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


@dataclass(frozen=True, slots=True)
class ImageVolumeSource:
    """A folder in an OCI image, which the kubelet pulls and mounts; not the runtime image."""

    reference: str
    path: str
    """Path relative to the root of the image; "" is the root."""
    pull_policy: str


@dataclass(frozen=True, slots=True)
class DownloadSource:
    """Files of an HTTP server, which an init container downloads into the cache of the node."""

    url: str
    """URL of the manifest. The URLs of the files are relative to it."""
    sha256: str
    """SHA-256 of the manifest, which has those of the files."""
    credentials: str
    """Name of the Secret whose key `authorization` is sent; empty: none."""


Source = ClaimSource | HostPathSource | ImageSource | ImageVolumeSource | DownloadSource

FOLDERS: Final = ("persistentVolumeClaim", "hostPath", "image")
"""Kinds of sources that also the resources have which a Job reads."""
KINDS: Final = (*FOLDERS, "imageVolume", "download")
_SHA256: Final = r"^[0-9a-f]{64}$"
_MANIFEST_URL: Final = r"^https?://[^\s?#@]+/[^\s?#@/]+$"
_RELATIVE: Final = r"^((?!\.\.).)*$"
_PULL_POLICIES: Final = ("IfNotPresent", "Always", "Never")


def parse_source(
    parent: Fields, name: str, default: str, allowed: tuple[str, ...] = FOLDERS
) -> Source:
    """Return the folder that a field describes; faults are recorded in `parent`.

    An image with the default path does not count beside another kind: earlier versions of the CRD
    stored it in every service, and there it stays when another kind is applied.
    """
    if not parent.has(name):
        return ImageSource(default)
    fields = parent.child(name)
    kinds = [kind for kind in allowed if fields.has(kind)]
    if len(kinds) > 1 and fields.child("image").text("path") == default:
        kinds.remove("image")
    if len(kinds) != 1:
        listed = f"{', '.join(allowed[:-1])} and {allowed[-1]}"
        parent.add_rule(name, f"exactly one of {listed} must be set")
        return ImageSource(default)
    chosen = fields.child(kinds[0])
    match kinds[0]:
        case "persistentVolumeClaim":
            return _claim(chosen)
        case "imageVolume":
            return _image_volume(chosen)
        case "download":
            return _download(chosen)
    chosen.required("path", "an absolute path")
    path = chosen.text(
        "path", default, pattern=r"^/((?!\.\.).)*$", limit="an absolute path without '..'"
    )
    return HostPathSource(path) if kinds[0] == "hostPath" else ImageSource(path)


def _claim(fields: Fields) -> ClaimSource:
    fields.required("claimName", "the name of a PersistentVolumeClaim")
    path = fields.text("path", pattern=_RELATIVE, limit="a path without '..'")
    return ClaimSource(fields.object_name("claimName"), path.strip("/"))


def _image_volume(fields: Fields) -> ImageVolumeSource:
    fields.required("reference", "the reference of an OCI image")
    path = fields.text("path", pattern=_RELATIVE, limit="a path without '..'")
    policy = fields.one_of("pullPolicy", "IfNotPresent", _PULL_POLICIES)
    reference = fields.text("reference", pattern=r"^\S*$", limit="a reference without spaces")
    return ImageVolumeSource(reference, path.strip("/"), policy)


def _download(fields: Fields) -> DownloadSource:
    fields.required("url", "the URL of a manifest")
    fields.required("sha256", "the SHA-256 of the manifest")
    limit = "an http or https URL of a manifest, without a user, a query and a fragment"
    return DownloadSource(
        url=fields.text("url", pattern=_MANIFEST_URL, limit=limit),
        sha256=fields.text("sha256", pattern=_SHA256, limit="64 lowercase hexadecimal digits"),
        credentials=fields.child("credentialsSecretRef").object_name("name"),
    )
