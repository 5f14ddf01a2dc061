"""Finds whether the NetworkPolicy of the pods can allow the endpoints of `spec.upstream`.

A NetworkPolicy knows addresses and no names, so the operator cannot derive a rule from a URL. It
can say when no rule allows the port of an endpoint: then no session can have an answer, although
the pods are Ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_contracts.upstream import endpoints
from avatar_operator.core.status.findings import Finding
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.resources.service import Service

    Egress = Sequence[Mapping[str, object]]
    """The egress rules of a NetworkPolicy."""

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SETTING: Final = "networkPolicy.runtime.extraEgress of the chart"


def find(service: Service, egress: Egress | None) -> tuple[Finding, ...]:
    """Return the condition UpstreamAllowed; nothing without a NetworkPolicy or an upstream."""
    targets = sorted({_target(each.url) for each in endpoints(service.upstream).values()})
    if egress is None or not targets:
        return ()
    closed = [f"{host}:{port}" for host, port in targets if not _allows(egress, port)]
    if closed:
        message = (
            f"the NetworkPolicy of the pods allows no connection to {', '.join(closed)}: add their "
            f"addresses and ports to {_SETTING}, unless another NetworkPolicy allows them"
        )
        return (Finding(Condition.UPSTREAM_ALLOWED, False, Reason.EGRESS_CLOSED, message),)
    message = (
        "the NetworkPolicy of the pods allows the ports of spec.upstream; it has addresses and no "
        "names, so whether it allows those of the endpoints is not known"
    )
    return (Finding(Condition.UPSTREAM_ALLOWED, True, Reason.EGRESS_OPEN, message),)


def _target(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _allows(egress: Egress, port: int) -> bool:
    """Return whether a rule allows a TCP port to any address; a rule without ports allows all."""
    return any(
        not (ports := rule.get("ports"))
        or (isinstance(ports, list) and any(_matches(each, port) for each in ports))
        for rule in egress
    )


def _matches(entry: object, port: int) -> bool:
    """Return whether an entry of `ports` may match; a named port may have any number."""
    if not isinstance(entry, dict) or entry.get("protocol", "TCP") != "TCP":
        return False
    first = entry.get("port")
    if not isinstance(first, int):
        return True
    last = entry.get("endPort")
    return first <= port <= (last if isinstance(last, int) else first)
