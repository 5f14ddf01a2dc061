"""Keeps the AvatarTenants, and which services each of them may use.

A service belongs to a tenant if no other tenant may use it. This depends on the tenants, the labels
of the namespaces and the labels of the services. It is computed when it is read: thousands of
objects are listed before the first plan.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from avatar_contracts.fields import Fields
from avatar_contracts.tenant_access import admits
from avatar_operator.core.cache.entries import TenantBody
from avatar_operator.core.cache.objects import Cache
from avatar_operator.core.resources.tenant import Tenant, parse_tenant
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_operator.core.resources.service import ServiceKey


class _Service(NamedTuple):
    key: ServiceKey
    labels: Mapping[str, str]
    tenants: tuple[str, ...]
    """`spec.tenants`."""


class TenantIndex:
    """The tenants with their last status, and the services that each may use."""

    def __init__(self) -> None:
        self.bodies: Cache[TenantBody] = Cache()
        self._tenants: dict[str, Tenant] = {}  # valid ones, by name
        self._namespaces: Cache[tuple[str, Mapping[str, str]]] = Cache()  # name and labels
        self._labels: dict[str, Mapping[str, str]] = {}  # of namespaces, by name
        self._services: dict[str, _Service] = {}  # by UID
        self._users: dict[str, tuple[str, ...]] | None = None  # by UID; None after a change
        self._usable: dict[str, set[str]] = {}  # UIDs by the name of the tenant
        self._candidates: dict[str, tuple[Tenant, ...]] = {}  # by namespace

    def put_tenant(self, uid: str, version: int, body: Mapping[str, object]) -> tuple[bool, str]:
        """Store a tenant; return whether what it may use changed, and what is wrong with it."""
        tenant, fault = None, ""
        try:
            tenant = parse_tenant(body)
        except InvalidResource as error:
            fault = str(error)
        metadata = Fields(body.get("metadata"), "metadata", [])
        name = metadata.text("name")
        known = self.bodies.get(uid)
        stored = TenantBody(
            name=name,
            uid=uid,
            version=version,
            generation=metadata.integer("generation", 0, 0, 2**63),
            status=Fields(body, "", []).fragment("status"),
            fault=fault,
        )
        if not self.bodies.put(uid, version, stored):
            return False, ""
        before = self._tenants.get(name)
        if tenant is None:
            self._tenants.pop(name, None)
        else:
            self._tenants[name] = tenant
        changed = known is None or before != tenant
        if changed:
            self._forget()
        return changed, fault if changed else ""

    def drop_tenant(self, uid: str) -> bool:
        """Remove a tenant, and return whether it was known."""
        body = self.bodies.drop(uid)
        if body is None:
            return False
        if all(other.name != body.name for other in self.bodies.values()):
            self._tenants.pop(body.name, None)
        self._forget()
        return True

    def put_namespace(self, uid: str, version: int, body: Mapping[str, object]) -> bool:
        """Store the labels of a namespace, and return whether they changed."""
        metadata = Fields(body.get("metadata"), "metadata", [])
        name, labels = metadata.text("name"), metadata.strings("labels")
        if not self._namespaces.put(uid, version, (name, labels)):
            return False
        self._labels[name] = labels
        self._forget()
        return True

    def drop_namespace(self, uid: str) -> bool:
        """Remove a namespace, and return whether it was known."""
        known = self._namespaces.drop(uid)
        if known is None:
            return False
        if all(name != known[0] for name, _ in self._namespaces.values()):
            self._labels.pop(known[0], None)
        self._forget()
        return True

    def namespace_uids(self) -> tuple[str, ...]:
        """Return the UIDs of all known namespaces."""
        return self._namespaces.uids()

    def put_service(
        self, uid: str, key: ServiceKey, labels: Mapping[str, str], tenants: tuple[str, ...]
    ) -> bool:
        """Store what decides on the tenants of a service, and return whether it may matter."""
        service = _Service(key, labels, tenants)
        if self._services.get(uid) == service:
            return False
        self.drop_service(uid)
        self._services[uid] = service
        if self._users is not None:
            self._add(uid, service, self._users)
        return self.exist()

    def drop_service(self, uid: str) -> bool:
        """Remove a service, and return whether that may matter to a tenant."""
        known = self._services.pop(uid, None)
        if known is not None and self._users is not None:
            for name in self._users.pop(uid, ()):
                self._usable[name].discard(uid)
        return known is not None and self.exist()

    def needs_namespaces(self) -> bool:
        """Return whether the labels of namespaces decide on anything."""
        return any(each.access.namespace_selector is not None for each in self._tenants.values())

    def exist(self) -> bool:
        """Return whether there is any tenant."""
        return bool(self.bodies.uids())

    def get(self, name: str) -> Tenant | None:
        """Return a valid tenant, None if there is none of this name."""
        return self._tenants.get(name)

    def owner(self, uid: str) -> Tenant | None:
        """Return the tenant that a service belongs to, None if it belongs to none."""
        users = self._read().get(uid, ())
        return self._tenants[users[0]] if len(users) == 1 else None

    def only_user(self, namespace: str) -> Tenant | None:
        """Return the tenant that alone may use services of a namespace, None if there is none."""
        self._read()
        found = self._with_access_to(namespace)
        return found[0] if len(found) == 1 else None

    def usable(self, name: str) -> frozenset[str]:
        """Return the UIDs of the services that a tenant may use."""
        self._read()
        return frozenset(self._usable.get(name, ()))

    def owned(self, name: str) -> tuple[str, ...]:
        """Return the UIDs of the services that belong to a tenant, sorted by their names."""
        users = self._read()
        found = [uid for uid in self._usable.get(name, ()) if len(users[uid]) == 1]
        return tuple(sorted(found, key=lambda uid: self._services[uid].key))

    def owned_services(self) -> Iterable[tuple[str, Tenant]]:
        """Yield the UID and the owner of each service that belongs to a tenant."""
        for uid, users in self._read().items():
            if len(users) == 1:
                yield uid, self._tenants[users[0]]

    def key(self, uid: str) -> ServiceKey:
        """Return the key of a known service."""
        return self._services[uid].key

    def _forget(self) -> None:
        self._users = None

    def _read(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the tenants that may use each service, by its UID."""
        if self._users is None:
            self._users, self._usable, self._candidates = {}, defaultdict(set), {}
            for uid, service in self._services.items():
                self._add(uid, service, self._users)
        return self._users

    def _add(self, uid: str, service: _Service, users: dict[str, tuple[str, ...]]) -> None:
        found = tuple(
            tenant.name
            for tenant in self._with_access_to(service.key.namespace)
            if admits(service.tenants, tenant.name)
            and (
                tenant.access.service_selector is None
                or tenant.access.service_selector.matches(service.labels)
            )
        )
        if found:
            users[uid] = found
        for name in found:
            self._usable[name].add(uid)

    def _with_access_to(self, namespace: str) -> tuple[Tenant, ...]:
        found = self._candidates.get(namespace)
        if found is None:
            labels = self._labels.get(namespace, {})
            found = tuple(
                tenant
                for tenant in self._tenants.values()
                if tenant.access.permits_namespace(namespace, labels)
            )
            self._candidates[namespace] = found
        return found
