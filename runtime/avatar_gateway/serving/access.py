"""Which services exist for a caller: those that it may use, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from avatar_contracts import refusals
from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.tenant_registry import TenantRegistry


class Access:
    """Decides whether a service exists for a caller.

    A service that a caller may not use is refused by the same code, at the same point and with the
    same words as one that does not exist.
    """

    def __init__(self, tenants: TenantRegistry, services: Callable[[], frozenset[str]]) -> None:
        self._tenants = tenants
        self._services = services

    def visible(self, principal: Principal) -> Sequence[str]:
        """Return the names of the services that a caller may use, sorted."""
        return sorted(name for name in self._services() if self._tenants.permits(principal, name))

    def is_visible(self, principal: Principal, model: str) -> bool:
        """Return whether a service exists and a caller may use it."""
        exists, is_permitted = model in self._services(), self._tenants.permits(principal, model)
        return exists and is_permitted

    def check(self, principal: Principal, model: str) -> None:
        """Refuse a service that does not exist for a caller.

        Raises:
            Rejection: it does not exist.
        """
        if not self.is_visible(principal, model):
            raise errors.Rejection(
                "model_not_found", f"service {model} does not exist", param="model"
            )

    def check_request(self, request: SessionRequest) -> None:
        """Refuse a request for a session of a service that does not exist for the caller.

        A session that is resumed gets the answer of one that no pod has.

        Raises:
            Rejection: the service does not exist.
        """
        if request.resume is None:
            self.check(request.principal, request.model)
        # A session of a service that was deleted goes on, so that its name may be unknown here.
        elif not self._tenants.permits(request.principal, request.model):
            raise errors.Rejection(refusals.RESUME_REFUSED, refusals.RESUME_REFUSED_MESSAGE)

    def current(self, request: SessionRequest) -> SessionRequest:
        """Return a request with the limits that its tenant has now.

        A caller may have waited for minutes, and its tenant may have changed since.
        """
        principal = request.principal
        found = self._tenants.tenants.get(principal.tenant_name)
        if found is None or found.problem or found.tenant == principal.tenant:
            return request
        return replace(request, principal=replace(principal, tenant=found.tenant))
