"""What the store keeps of an object besides its parsed value, and what a change affects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_operator import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.resources.service import ServiceKey


class Kind(Enum):
    """The kinds of watched objects, by the names of their resources."""

    SERVICES = names.SERVICES
    PROFILES = names.PROFILES
    AVATARS = names.AVATARS
    TENANTS = names.TENANTS
    NAMESPACES = "namespaces"
    NODES = "nodes"
    JOBS = "jobs"
    PODS = "pods"
    SLICES = "resourceslices"
    CLAIMS = "resourceclaims"
    DEVICE_CLASSES = "deviceclasses"


DEVICE_KINDS: Final = (Kind.SLICES, Kind.CLAIMS, Kind.DEVICE_CLASSES)
"""The kinds of resource.k8s.io/v1, which not every cluster serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBody:
    """An object that is planned from its body, and its last status.

    Both are stored as JSON text, which takes a quarter of the memory of Python objects: each
    is read once per plan, and there are thousands of services.
    """

    key: ServiceKey
    generation: int
    deleting: bool
    finalizers: tuple[str, ...] = ()
    """What keeps an object that is being deleted."""
    body_text: bytes
    status_text: bytes

    @property
    def body(self) -> Mapping[str, object]:
        """The spec and the metadata that plans need; parsed at each access."""
        return _parse(self.body_text)

    @property
    def status(self) -> Mapping[str, object]:
        """The status; parsed at each access."""
        return _parse(self.status_text)


class ServiceBody(PlannedBody):
    """A service."""

    __slots__ = ()


class AvatarBody(PlannedBody):
    """An avatar."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ProfileBody:
    """A GPU profile: identity and last status, besides its parsed value."""

    name: str
    uid: str
    version: int
    generation: int
    status: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TenantBody:
    """An AvatarTenant: identity and last status, besides its parsed value."""

    name: str
    uid: str
    version: int
    generation: int
    status: Mapping[str, object]
    fault: str = ""
    """Why it is not used; empty if it is valid."""


@dataclass(frozen=True, slots=True)
class ChangeImpact:
    """What a change of one object affects; empty if the change affects nothing."""

    services: tuple[str, ...] = ()
    """UIDs of the services to reconcile."""

    avatars: tuple[str, ...] = ()
    """UIDs of the avatars to reconcile."""

    new_spec: str | None = None
    """UID of a service whose spec changed."""

    all_services: bool = False
    """Whether every service must be reconciled."""

    tenants: bool = False
    """Whether it may have changed which services tenants may use, or what they may use of them."""

    node: str = ""
    """Name of a node that changed or was deleted; services with pods on it come first."""

    freed_gpus: bool = False
    """Whether GPUs became free, for services that lack some."""

    pod: str | None = None
    """UID of a runtime pod that changed or was deleted."""

    gateway: str | None = None
    """UID of a gateway pod that changed or was deleted."""

    deleted_service: ServiceKey | None = None
    """Key of a service that was deleted."""

    fault: str = ""
    """Why an object is not used."""


def to_text(document: Mapping[str, object]) -> bytes:
    """Return a document as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def _parse(text: bytes) -> Mapping[str, object]:
    document = json.loads(text)
    assert isinstance(document, dict)
    return document
