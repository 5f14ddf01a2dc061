"""Creates the Events of services, avatars and tenants."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from avatar_operator.core.manifests.objects import TenantReference, event_body
from avatar_operator.core.text import rfc3339
from avatar_operator.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avatar_operator.core.resources.avatar import Avatar
    from avatar_operator.core.resources.service import Service
    from avatar_operator.core.status.service_status import Notice
    from avatar_operator.kube import client

_log = logging.getLogger(__name__)


async def emit(
    api: client.KubernetesClient,
    involved: Service | Avatar | TenantReference,
    notices: Iterable[Notice],
    now: float,
) -> None:
    """Create one Event for each notice; a failure is only logged. `now` is since 1970."""
    at = rfc3339(now)
    for each in notices:
        body = event_body(involved, each.reason, each.message, warning=each.warning, at=at)
        try:
            await api.create_event(body)
        except ClusterError as error:
            if isinstance(involved, TenantReference):
                kind, name = "tenant", involved.name
            else:
                kind, name = type(involved).__name__.lower(), str(involved.key)
            _log.warning("cannot create an Event %s=%s fault=%s", kind, name, error)
