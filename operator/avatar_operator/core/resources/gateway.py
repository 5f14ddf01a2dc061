"""Counts the callers of each service from what the gateways say, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from avatar_operator import names
from avatar_operator.core.resources.fields import Fields
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.errors import Fault, InvalidResource

MOST: Final = 2**53  # of a count; what JSON can carry exactly


@dataclass(frozen=True, slots=True)
class GatewayPod:
    """A gateway that runs beside the operator."""

    name: str
    ip: str  # "" while it has none
    running: bool


@dataclass(frozen=True, slots=True)
class Callers:
    """What one gateway says of one service."""

    waiting: int  # now
    arrived: int  # since the gateway started


Demand = Mapping[ServiceKey, Callers]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many callers came to each service while we listened."""

    arrived: Mapping[ServiceKey, int] = field(default_factory=dict)

    def with_news(self, before: Demand | None, after: Demand) -> Tally:
        """Return the tally with what a gateway says now; `before` is what it said last.

        Who came before the first word is not known, and a count that fell is of
        a gateway that began anew.
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
    """Return the gateway that a pod is, None if it is none of ours."""
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
    """Return what a gateway's state says of each service.

    Raises:
        InvalidResource: with every key that is missing or wrong.
    """
    faults: list[Fault] = []
    state = Fields(document, "", faults)
    state.required("services", "sent by the gateway")
    found = {}
    for name, told in state.fragment("services").items():
        fields = Fields(told, f"services.{name}", faults)
        namespace, _, service = name.partition("/")
        found[ServiceKey(namespace, service)] = Callers(
            waiting=fields.integer("waiting", 0, 0, MOST),
            arrived=fields.integer("arrivals_total", 0, 0, MOST),
        )
    if faults:
        raise InvalidResource("state of gateway", state.text("pod", "?"), faults)
    return found
