"""The tenants that the gateway knows, their keys, and what they may use; watches update it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway.core import api_keys
from avatar_gateway.core.tenant_objects import OnRevocation, TenantObject, parse_tenant
from avatar_gateway.core.tenants import CredentialKind
from avatar_gateway.core.trusted_issuers import TrustedIssuers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_contracts.state import TenantKeys
    from avatar_gateway.core.api_keys import StoredKey
    from avatar_gateway.core.tenant_objects import Issuer
    from avatar_gateway.core.tenants import Principal

_log = logging.getLogger(__name__)
_MAX_PROBLEM: Final = 300
"""Characters of a problem in the state document."""


@dataclass(frozen=True, slots=True)
class ServiceAccess:
    """What decides who may use an AvatarService."""

    labels: Mapping[str, str]
    tenants: frozenset[str]
    """The only tenants that may use it, and nobody else; empty for everyone."""


_UNKNOWN: Final = ServiceAccess({}, frozenset())


@dataclass(frozen=True, slots=True)
class SecretKeys:
    """The content of a Secret with API keys."""

    keys: Mapping[str, StoredKey]
    revoked: frozenset[str]
    """Client secrets that it revokes."""
    problems: tuple[str, ...]


class TenantRegistry:
    """Tenants, Secrets with keys, namespaces and services. Does no I/O.

    A lookup of a key or of an issuer does not depend on the number of tenants.
    """

    def __init__(self, keys_namespace: str = "") -> None:
        """`keys_namespace` is the namespace of the Secrets with keys; empty if there is none."""
        self.changed = asyncio.Event()
        """Set at each change; who waits for it clears it."""
        self.issuer_problems: dict[str, str] = {}
        """By issuer: why its key set cannot be used."""
        self._keys_namespace = keys_namespace
        self._tenants: dict[str, TenantObject] = {}
        self._on_revocation: dict[str, OnRevocation] = {}
        """Also of tenants that were deleted."""
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._services: dict[str, ServiceAccess] = {}
        self._secrets: dict[str, SecretKeys] = {}
        self._users: dict[str, set[str]] = {}
        """The tenants that name a Secret."""
        self._by_id: dict[str, dict[str, StoredKey]] = {}
        """By key id, the keys by the name of their Secret."""
        self._revoked: dict[str, set[str]] = {}
        """By client secret, the Secrets that revoke it."""
        self._issuers = TrustedIssuers()

    @property
    def tenants(self) -> Mapping[str, TenantObject]:
        """Return all tenants by name."""
        return self._tenants

    # Objects

    def set_tenant(self, body: Mapping[str, Any]) -> None:
        """Add or update a tenant; one with a wrong field has no valid credential."""
        found = parse_tenant(body)
        known = self._tenants.get(found.name)
        if found == known:
            return
        if found.problem:
            _log.error("tenant disabled tenant=%s problem=%s", found.name, found.problem)
        self._forget(found.name)
        self._tenants[found.name] = found
        if not found.problem:
            # A mistake in the object ends no live session.
            self._on_revocation[found.name] = found.on_revocation
        for secret in found.secrets:
            self._users.setdefault(secret, set()).add(found.name)
        self._issuers.add(found.name, found.issuers)
        self.changed.set()

    def remove_tenant(self, name: str) -> None:
        """Remove a tenant; its credentials are invalid from now on."""
        self._forget(name)
        self.changed.set()

    def _forget(self, name: str) -> None:
        known = self._tenants.pop(name, None)
        if known is None:
            return
        self._issuers.remove(name, known.issuers)
        for secret in known.secrets:
            self._users[secret].discard(name)

    def set_secret(self, name: str, body: Mapping[str, Any]) -> None:
        """Add or update a Secret with keys."""
        found = SecretKeys(*api_keys.parse_secret(body))
        if found == self._secrets.get(name):
            return
        for problem in found.problems if self._users.get(name) else ():
            _log.error("API key not usable secret=%s problem=%s", name, problem)
        known = self._secrets.get(name)
        self._forget_secret(name)
        self._secrets[name] = found
        if known is not None:
            _log_removed(name, known.keys.keys() - found.keys.keys())
        for key_id, key in found.keys.items():
            self._by_id.setdefault(key_id, {})[name] = key
        for secret_id in found.revoked:
            self._revoked.setdefault(secret_id, set()).add(name)
        self.changed.set()

    def remove_secret(self, name: str) -> None:
        """Remove a Secret; its keys are invalid from now on."""
        if name in self._secrets:
            _log_removed(name, self._secrets[name].keys.keys())
        self._forget_secret(name)
        self.changed.set()

    def _forget_secret(self, name: str) -> None:
        known = self._secrets.pop(name, None)
        if known is None:
            return
        for key_id in known.keys:
            self._by_id[key_id].pop(name, None)
            if not self._by_id[key_id]:
                del self._by_id[key_id]
        for secret_id in known.revoked:
            self._revoked[secret_id].discard(name)
            if not self._revoked[secret_id]:
                del self._revoked[secret_id]

    def replace_tenants(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Replace all tenants."""
        listed = {str(body["metadata"]["name"]) for body in bodies}
        for name in [name for name in self._tenants if name not in listed]:
            self.remove_tenant(name)
        for body in bodies:
            self.set_tenant(body)

    def replace_secrets(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """Replace all Secrets with keys."""
        listed = {str(body["metadata"]["name"]): body for body in bodies}
        for name in [name for name in self._secrets if name not in listed]:
            self.remove_secret(name)
        for name, body in listed.items():
            self.set_secret(name, body)

    def set_namespace(self, name: str, labels: Mapping[str, str]) -> None:
        """Add or update a namespace."""
        self._namespaces[name] = labels
        self.changed.set()

    def remove_namespace(self, name: str) -> None:
        """Remove a namespace."""
        self._namespaces.pop(name, None)
        self.changed.set()

    def replace_namespaces(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Replace all namespaces."""
        self._namespaces = dict(labels)
        self.changed.set()

    def set_service(self, name: str, access: ServiceAccess) -> None:
        """Add or update a service, `NAMESPACE/NAME`."""
        if self._services.get(name) != access:
            self._services[name] = access
            self.changed.set()

    def remove_service(self, name: str) -> None:
        """Remove a service."""
        self._services.pop(name, None)

    def replace_services(
        self, services: Mapping[str, ServiceAccess], namespace: str | None
    ) -> None:
        """Replace all services of one namespace, or of all namespaces (None)."""
        kept = {
            name: access
            for name, access in self._services.items()
            if namespace is not None and not name.startswith(f"{namespace}/")
        }
        self._services = kept | dict(services)
        self.changed.set()

    # Decisions

    def permits(self, principal: Principal, service: str) -> bool:
        """Return whether a principal may use a service.

        A tenant may use no service that is not known, because its labels are not. For a key of the
        platform the result says nothing about whether the service exists.
        """
        if principal.model is not None and principal.model != service:
            return False
        access = self._services.get(service, _UNKNOWN)
        if principal.tenant is None:
            return access is _UNKNOWN or not access.tenants
        found = self._tenants.get(principal.tenant.name)
        if found is None or found.problem:
            return False
        # All of it also for a service that does not exist: the time shows no difference.
        is_admitted = not access.tenants or found.name in access.tenants
        namespace = service.partition("/")[0]
        labels = self._namespaces.get(namespace, {})
        is_selected = found.access.permits(namespace, labels, access.labels)
        return is_admitted and is_selected and access is not _UNKNOWN

    def forbids(self, principal: Principal, service: str) -> bool:
        """Return whether a principal may not use a service that exists."""
        return service in self._services and not self.permits(principal, service)

    def find_key(self, text: str, now: float) -> tuple[TenantObject, StoredKey] | None:
        """Return the tenant of an API key that is valid now.

        Several Secrets can have the key, for example a copy that no tenant names. Of several
        tenants the oldest has it, whatever the order in which the watch has told them.
        """
        key_id = api_keys.key_id_of(text)
        found = [
            (owner, key)
            for secret, key in self._by_id.get(key_id or "", {}).items()
            if key.matches(text) and key.is_current(now)
            if (owner := self._owner(secret)) is not None
        ]
        return min(found, key=lambda each: _age(each[0]), default=None)

    def key(self, tenant: str, key_id: str, now: float) -> StoredKey | None:
        """Return a key of a tenant that is valid now."""
        for secret, key in self._by_id.get(key_id, {}).items():
            owner = self._owner(secret)
            if owner is not None and owner.name == tenant and key.is_current(now):
                return key
        return None

    def trusting(self, claims: Mapping[str, object]) -> Sequence[tuple[TenantObject, Issuer]]:
        """Return the tenants that may trust a token with these claims, the oldest first."""
        found = [(self._tenants[name], issuer) for name, issuer in self._issuers.matching(claims)]
        return sorted(found, key=lambda each: _age(each[0]))

    def is_revoked(self, principal: Principal, now: float) -> bool:
        """Return whether the credential of a principal is not valid any more.

        A token that has expired is not revoked, and neither is a client secret.
        """
        secret = principal.client_secret
        if secret is not None and secret.secret_id in self._revoked:
            return True
        if principal.tenant is None:
            return False  # of the platform: its keys are files
        found = self._tenants.get(principal.tenant.name)
        if found is None:
            return True
        if found.problem:
            return False  # a mistake in the object ends no live session
        source = principal.source
        if source.kind is CredentialKind.API_KEY:
            return self.key(found.name, source.name, now) is None
        return all(issuer.issuer != source.name for issuer in found.issuers)

    def ends_sessions(self, tenant: str) -> bool:
        """Return whether live sessions of a tenant end when their credential is revoked."""
        return self._on_revocation.get(tenant) is OnRevocation.END

    def report(self, tenant: str, now: float) -> TenantKeys:
        """Return what the state document says of the credentials of a tenant."""
        found = self._tenants[tenant]
        secrets = [self._secrets[name] for name in self._owned(found)]
        keys = [key for secret in secrets for key in secret.keys.values() if key.is_current(now)]
        ends = [key.not_after for key in keys if key.not_after is not None]
        return {
            "valid": len(keys),
            "valid_until": int(max(ends)) if ends and len(ends) == len(keys) else 0,
            "problem": "; ".join(self._problems(found))[:_MAX_PROBLEM],
            "issuers_problem": "; ".join(self._issuer_problems(found))[:_MAX_PROBLEM],
        }

    def _problems(self, found: TenantObject) -> Iterable[str]:
        if found.problem:
            yield found.problem
        if found.secrets and not self._keys_namespace:
            yield "the gateway has no namespace for keys (gateway.tenants.keysNamespace)"
            return
        for name in found.secrets:
            secret, owner = self._secrets.get(name), self._owner(name)
            if owner is not None and owner.name != found.name:
                yield f"Secret {name} belongs to the older AvatarTenant {owner.name}"
            elif secret is None:
                yield f"Secret {self._keys_namespace}/{name} does not exist"
            else:
                yield from (f"Secret {name}: {problem}" for problem in secret.problems)

    def _issuer_problems(self, found: TenantObject) -> Iterable[str]:
        for issuer in found.issuers:
            if problem := self.issuer_problems.get(issuer.issuer):
                yield f"issuer {issuer.issuer[:100]}: {problem}"

    def _owned(self, found: TenantObject) -> Iterable[str]:
        for name in found.secrets:
            if name in self._secrets and self._owner(name) is found:
                yield name

    def _owner(self, secret: str) -> TenantObject | None:
        """Return the tenant that has the keys of a Secret: the oldest that names it.

        A new tenant cannot take the keys of another one.
        """
        users = [self._tenants[name] for name in self._users.get(secret, ())]
        return min(users, key=_age, default=None)


def _log_removed(secret: str, key_ids: Iterable[str]) -> None:
    for key_id in sorted(key_ids):
        _log.info("API key removed secret=%s key=%s", secret, key_id)


def _age(found: TenantObject) -> tuple[str, str]:
    return found.created, found.name
