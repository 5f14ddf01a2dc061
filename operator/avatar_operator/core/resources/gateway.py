"""Gateways: their pods, the demand that they report, and the callers counted from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from avatar_contracts.fields import Fault, Fields
from avatar_operator import names
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.errors import InvalidResource

MOST: Final = 2**53
"""The highest count: the largest integer that every JSON reader represents (RFC 8259, 6)."""


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """A gateway pod in the namespace of the operator."""

    name: str
    ip: str
    """Empty until the pod has an address."""
    running: bool


@dataclass(frozen=True, slots=True)
class Callers:
    """The callers of one service at one gateway."""

    waiting: int
    """Callers that wait now."""
    arrived: int
    """Callers since the gateway started."""


Demand = Mapping[ServiceKey, Callers]


@dataclass(frozen=True, slots=True)
class Tally:
    """The number of callers of each service since the operator reads the gateways."""

    arrived: Mapping[ServiceKey, int] = field(default_factory=dict)

    def with_report(self, before: Demand | None, after: Demand) -> Tally:
        """Return the tally with a report of a gateway; `before` is its previous report.

        Callers before the first report are not counted. A count that fell means that the
        gateway restarted.
        """
        if before is None:
            return self
        arrived = dict(self.arrived)
        for key, callers in after.items():
            last = before[key].arrived if key in before else 0
            new = callers.arrived - last if callers.arrived >= last else callers.arrived
            if new:
                arrived[key] = arrived.get(key, 0) + new
        return Tally(arrived)


def parse_pod(body: Mapping[str, object], namespace: str) -> GatewayPod | None:
    """Return the gateway pod of a body, None for any other pod."""
    metadata = Fields(body.get("metadata"), "metadata", [])
    labels = metadata.strings("labels")
    if metadata.text("namespace") != namespace or labels.get(names.LABEL_COMPONENT) != "gateway":
        return None
    if labels.get(names.LABEL_NAME) != names.FIELD_MANAGER:
        return None
    status = Fields(body.get("status"), "status", [])
    running = status.text("phase") == "Running" and not metadata.has("deletionTimestamp")
    return GatewayPod(metadata.text("name"), status.text("podIP"), running)


def parse_demand(document: Mapping[str, object]) -> Demand:
    """Return the callers of each service in the state document of a gateway.

    Raises:
        InvalidResource: with every key that is missing or wrong.
    """
    faults: list[Fault] = []
    state = Fields(document, "", faults)
    state.required("services", "sent by the gateway")
    found = {}
    for name, reported in state.fragment("services").items():
        fields = Fields(reported, f"services.{name}", faults)
        namespace, _, service = name.partition("/")
        found[ServiceKey(namespace, service)] = Callers(
            waiting=fields.integer("waiting", 0, 0, MOST),
            arrived=fields.integer("arrivals_total", 0, 0, MOST),
        )
    if faults:
        raise InvalidResource("state of gateway", state.text("pod", "?"), faults)
    return found
