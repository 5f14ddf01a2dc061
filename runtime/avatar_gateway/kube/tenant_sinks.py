"""Stores what decides on tenants: AvatarTenants, Secrets with keys, and labels of namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from avatar_gateway.tenant_registry import ServiceAccess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_gateway.tenant_registry import TenantRegistry

_NOBODY = frozenset({""})
"""No tenant has this name: a list that cannot be read permits nobody."""


class TenantSink:
    """Stores AvatarTenants."""

    def __init__(self, registry: TenantRegistry) -> None:
        self._registry = registry

    def replace(self, bodies: Sequence[Mapping[str, Any]], _: str | None) -> None:
        """Replace all tenants."""
        self._registry.replace_tenants(bodies)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update one tenant."""
        self._registry.set_tenant(body)

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one tenant."""
        self._registry.remove_tenant(body["metadata"]["name"])


class KeySink:
    """Stores the Secrets of the namespace for keys."""

    def __init__(self, registry: TenantRegistry) -> None:
        self._registry = registry

    def replace(self, bodies: Sequence[Mapping[str, Any]], _: str | None) -> None:
        """Replace all Secrets."""
        self._registry.replace_secrets(bodies)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update one Secret."""
        self._registry.set_secret(body["metadata"]["name"], body)

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one Secret."""
        self._registry.remove_secret(body["metadata"]["name"])


class NamespaceSink:
    """Stores the labels of namespaces."""

    def __init__(self, registry: TenantRegistry) -> None:
        self._registry = registry

    def replace(self, bodies: Sequence[Mapping[str, Any]], _: str | None) -> None:
        """Replace all namespaces."""
        self._registry.replace_namespaces(
            {body["metadata"]["name"]: _labels(body) for body in bodies}
        )

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update one namespace."""
        self._registry.set_namespace(body["metadata"]["name"], _labels(body))

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one namespace."""
        self._registry.remove_namespace(body["metadata"]["name"])


def parse_service_access(body: Mapping[str, Any]) -> ServiceAccess:
    """Return what decides who may use an AvatarService."""
    spec = body.get("spec")
    tenants = spec.get("tenants") if isinstance(spec, dict) else None
    if tenants is None:
        allowed = frozenset[str]()
    elif isinstance(tenants, list) and all(isinstance(name, str) for name in tenants):
        allowed = frozenset(tenants)
    else:
        allowed = _NOBODY
    return ServiceAccess(_labels(body), allowed)


def _labels(body: Mapping[str, Any]) -> Mapping[str, str]:
    found = body["metadata"].get("labels") or {}
    return {str(key): str(value) for key, value in found.items()}
