"""AvatarTenant: the part of it that concerns the operator, and its parser.

The gateway enforces the limits of sessions and minutes; the operator enforces those of GPUs and
cost, and reports all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fault, Fields
from avatar_contracts.tenant_access import Access, parse_access
from avatar_operator import names
from avatar_operator.core.resources.autoscaling import DAY_S
from avatar_operator.core.resources.fields import parse_identity
from avatar_operator.core.resources.placement import CLASS_PATTERN
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WEIGHT: Final = 1000
MAX_PRIORITY: Final = 1000
MAX_SESSIONS: Final = 10**6
MAX_MINUTES: Final = 10**9
MAX_GPUS: Final = 10**5
_COST: Final = r"\A(?=.{1,16}\Z)(?=.*[1-9])[0-9]+(\.[0-9]+)?\Z"
_LABEL: Final = r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z"
_LABEL_LIMIT: Final = (
    "at most 63 lowercase letters, digits and '-', starting and ending with a letter or digit"
)


@dataclass(frozen=True, slots=True)
class Quota:
    """What the services that belong to a tenant may use together; None stands for no limit."""

    gpus: int | None = None
    cost_per_hour: Decimal | None = None

    def __bool__(self) -> bool:
        return self.gpus is not None or self.cost_per_hour is not None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits that the gateway enforces; None stands for no limit."""

    sessions: int | None = None
    sessions_per_service: int | None = None
    session_s: int | None = None
    minutes_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """An AvatarTenant: what it may use, and its place among other tenants."""

    name: str
    access: Access = field(default_factory=Access)
    gpu_classes: frozenset[str] = frozenset()
    """Names of GPUProfiles; empty: all."""
    quota: Quota = field(default_factory=Quota)
    limits: SessionLimits = field(default_factory=SessionLimits)
    weight: int = 1
    """Its share of GPUs that are short, relative to other tenants."""
    priority: int = 0
    """Tenants of a higher priority get GPUs that are short first."""
    secrets: int = 0
    """Number of Secrets with API keys."""
    issuers: int = 0
    """Number of issuers of JSON Web Tokens."""


def parse_tenant(body: Mapping[str, object]) -> Tenant:
    """Return the tenant that a body describes.

    Raises:
        InvalidResource: at least one field is wrong; the error lists all of them.
    """
    faults: list[Fault] = []
    name = parse_identity(body, faults).name
    if not re.search(_LABEL, name):
        Fields({}, "metadata", faults).add_fault("name", name or None, _LABEL_LIMIT)
    spec = Fields(body.get("spec"), "spec", faults)
    access, limits = spec.child("access"), spec.child("limits")
    if not (access.items("namespaces") or access.has("namespaceSelector")):
        access.add_rule(None, "must name at least one namespace, or have a namespaceSelector")
    cost = limits.text("costPerHour", pattern=_COST, limit='a positive number, such as "12.50"')
    tenant = Tenant(
        name=name,
        access=parse_access(access),
        gpu_classes=frozenset(
            access.texts("gpuClasses", pattern=CLASS_PATTERN, limit="the name of a GPUProfile")
        ),
        quota=Quota(limits.optional_integer("gpus", 0, MAX_GPUS), Decimal(cost) if cost else None),
        limits=SessionLimits(
            limits.optional_integer("sessions", 0, MAX_SESSIONS),
            limits.optional_integer("sessionsPerService", 1, MAX_SESSIONS),
            limits.optional_integer("sessionSeconds", 1, DAY_S),
            limits.optional_integer("minutesPerMonth", 0, MAX_MINUTES),
        ),
        weight=spec.integer("weight", 1, 1, MAX_WEIGHT),
        priority=spec.integer("priority", 0, 0, MAX_PRIORITY),
        secrets=len(spec.child("apiKeys").items("secretRefs")),
        issuers=len(spec.items("jwt")),
    )
    if faults:
        raise InvalidResource(names.TENANT_KIND, name, faults)
    return tenant
