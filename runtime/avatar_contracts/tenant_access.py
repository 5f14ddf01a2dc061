"""Which AvatarServices an AvatarTenant may use; gateway and operator decide it by the same rule.

A service is usable by a tenant if the tenant's `spec.access` permits it, and if the service's
`spec.tenants` is empty or names the tenant. A service belongs to a tenant if no other tenant may
use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.label_selectors import Selector, parse_selector

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from avatar_contracts.fields import Fields

MAX_NAMESPACES: Final = 100


@dataclass(frozen=True, slots=True)
class Access:
    """The part of `spec.access` that selects AvatarServices."""

    namespaces: frozenset[str] = frozenset()
    namespace_selector: Selector | None = None
    """Labels of further namespaces; None for none."""
    service_selector: Selector | None = None
    """Labels of the services; None for all services of the namespaces."""

    def permits(
        self, namespace: str, namespace_labels: Mapping[str, str], labels: Mapping[str, str]
    ) -> bool:
        """Return whether a service with these labels, in this namespace, may be used."""
        return self.permits_namespace(namespace, namespace_labels) and (
            self.service_selector is None or self.service_selector.matches(labels)
        )

    def permits_namespace(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Return whether services of a namespace with these labels may be used."""
        selector = self.namespace_selector
        return namespace in self.namespaces or (selector is not None and selector.matches(labels))


def parse_access(access: Fields) -> Access:
    """Return the access that `spec.access` describes; faults are added to `access`."""
    namespaces = access.texts("namespaces")
    if len(namespaces) > MAX_NAMESPACES:
        rule = f"must have at most {MAX_NAMESPACES} items, has {len(namespaces)}"
        access.add_rule("namespaces", rule)
    return Access(
        frozenset(namespaces),
        parse_selector(access, "namespaceSelector"),
        parse_selector(access, "serviceSelector"),
    )


def admits(tenants: Collection[str], tenant: str) -> bool:
    """Return whether `spec.tenants` of a service admits a tenant; an empty list admits all."""
    return not tenants or tenant in tenants
