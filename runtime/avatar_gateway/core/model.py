"""Services, pods and their states, as the gateway knows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import labels
from avatar_contracts.owners import controlling_resources
from avatar_contracts.state import Load, parse_load
from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN_COST: Final = inf
"""Comes after every cost that is known."""
POD_SELECTOR: Final = f"{labels.LABEL_NAME}={labels.RUNTIME_NAME}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A runtime pod as the Kubernetes API describes it."""

    namespace: str
    name: str
    uid: str
    service: str
    """The AvatarService, `NAMESPACE/NAME`."""
    ip: str
    """Empty until the pod has one."""
    sessions_port: int
    admin_port: int
    terminating: bool
    """Whether it is being deleted or has ended."""
    ready: bool = False
    """Whether its Ready condition is true. When it becomes ready, its state is read immediately."""
    reserve: bool = False
    """Whether the operator keeps it in the reserve for when the other pods are full."""
    made_for: str = ""
    """The AvatarService that it was taken over from, `NAMESPACE/NAME`; empty if it was not."""
    gpu_class: str = ""
    """The GPU class that it was created for; empty if its label is missing."""
    cost: float = UNKNOWN_COST
    """Of an hour of its GPU class; only compared with that of other pods."""

    @property
    def original_service(self) -> str:
        """Return the AvatarService that the runtime process was started for."""
        return self.made_for or self.service

    @property
    def host(self) -> str:
        """Return the IP address as a part of a URL."""
        return f"[{self.ip}]" if ":" in self.ip else self.ip

    @property
    def key(self) -> str:
        """Return the name that is unique in the cluster."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class State:
    """The last state that a pod reported."""

    capacity: int
    sessions: int
    free: int
    draining: bool
    ready: bool
    sequence: int
    at: float
    """When the line arrived, seconds on the gateway's monotonic clock."""

    def says_same(self, other: State) -> bool:
        """Return whether another state differs at most in its number and its time."""
        return (
            self.sessions == other.sessions
            and self.free == other.free
            and self.capacity == other.capacity
            and self.draining == other.draining
            and self.ready == other.ready
        )


def parse_pod(body: Mapping[str, Any]) -> Pod | None:
    """Parse a Pod object; return None if it does not belong to a service.

    A label alone is not enough: a user who may create pods could send callers to any address.
    """
    metadata, status = body["metadata"], body.get("status", {})
    own = metadata.get("labels", {})
    service, made_for = own.get(labels.LABEL_SERVICE), own.get(labels.LABEL_MADE_FOR)
    if not service or all(owner.name != service for owner in controlling_resources(body)):
        return None
    ports = {
        port.get("name"): port["containerPort"]
        for container in body.get("spec", {}).get("containers", [])
        for port in container.get("ports", [])
    }
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        service=f"{metadata['namespace']}/{service}",
        ip=status.get("podIP", ""),
        sessions_port=ports.get(labels.SESSIONS_PORT_NAME, labels.SESSIONS_PORT),
        admin_port=ports.get(labels.ADMIN_PORT_NAME, labels.ADMIN_PORT),
        terminating="deletionTimestamp" in metadata
        or status.get("phase") in ("Succeeded", "Failed"),
        ready=any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions", [])
        ),
        reserve=own.get(labels.LABEL_RESERVE) == labels.RESERVED,
        made_for=f"{metadata['namespace']}/{made_for}" if made_for else "",
        gpu_class=own.get(labels.LABEL_GPU_CLASS, ""),
        cost=_cost(metadata.get("annotations") or {}),
    )


def _cost(annotations: Mapping[str, Any]) -> float:
    """Return the cost in the annotations of a pod, which others may have written."""
    text = annotations.get(labels.ANNOTATION_COST_PER_HOUR)
    if not isinstance(text, str) or re.fullmatch(r"[0-9]{1,16}(\.[0-9]{1,16})?", text) is None:
        return UNKNOWN_COST
    return float(text)


def parse_state(document: Any, pod: Pod, now: float) -> State:
    """Parse one line of a pod's state stream.

    Raises:
        StateError: a value is missing or invalid, or another pod answers at this IP address.
    """
    if not isinstance(document, dict):
        raise errors.StateError("state", type(document).__name__, "an object")
    # IP addresses are reused: the state of another pod must not count for this one.
    for key, expected in (("pod", pod.name), ("service", pod.original_service)):
        if document.get(key) != expected:
            raise errors.StateError(key, document.get(key), repr(expected))
    load = parse_load(document)
    if not isinstance(load, Load):
        raise errors.StateError(load[0].key, load[0].value, load[0].limit)
    sequence = document.get("sequence")
    if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 0:
        raise errors.StateError("sequence", sequence, "a whole number, 0 or more")
    return State(
        capacity=load.capacity,
        sessions=load.sessions,
        free=load.free,
        draining=load.draining,
        ready=load.ready,
        sequence=sequence,
        at=now,
    )
