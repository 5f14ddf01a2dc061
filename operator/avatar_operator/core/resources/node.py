"""Node: its type and its parser.

The API server has checked the body, so a missing or unexpected field reads as its harmless default:
a node without GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator import names
from avatar_operator.core.resources import departure
from avatar_operator.core.resources.departure import Taint as Taint
from avatar_operator.core.resources.fields import find_condition, split_body
from avatar_operator.core.resources.quantities import read_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fields
    from avatar_operator.core.resources.devices import DeviceGroup


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its GPUs."""

    name: str
    labels: Mapping[str, str]
    gpus: int
    """Allocatable nvidia.com/gpu."""
    ready: bool
    unschedulable: bool
    taints: tuple[Taint, ...]
    others: tuple[tuple[str, int], ...] = ()
    """Allocatable resources for parts of GPUs, and for GPUs of other vendors."""
    capacity: tuple[tuple[str, int], ...] = ()
    """Capacity of all GPU resources, failed devices included."""
    is_hami: bool = False
    """Whether HAMi offers the GPUs; it offers each one several times."""
    event: str = ""
    """The event that the cloud has announced for the machine, see `departure`."""
    devices: tuple[DeviceGroup, ...] = ()
    """GPUs that a DRA driver publishes; they are not part of the node's body."""

    @property
    def departure(self) -> departure.Departure | None:
        """Why the node is about to leave the cluster, None if it stays."""
        return departure.find(self.unschedulable, self.taints, self.event)

    @property
    def is_candidate(self) -> bool:
        """Whether the cluster autoscaler may delete the node later."""
        return any(taint.key == departure.CANDIDATE for taint in self.taints)


def parse_node(body: Mapping[str, object]) -> Node:
    """Return the node that a body describes."""
    metadata, spec, status = split_body(body)
    taints = tuple(
        Taint(taint.text("key"), taint.text("value"), taint.text("effect"))
        for taint in spec.children("taints")
    )
    allocatable = read_resources(status.fragment("allocatable"))
    return Node(
        name=metadata.text("name"),
        labels=metadata.strings("labels"),
        gpus=allocatable.pop(names.GPU_RESOURCE, 0),
        ready=condition_status(status, "Ready") == "True",
        unschedulable=spec.flag("unschedulable", False),
        taints=taints,
        others=tuple(sorted(allocatable.items())),
        capacity=tuple(sorted(read_resources(status.fragment("capacity")).items())),
        is_hami=names.ANNOTATION_HAMI in metadata.strings("annotations"),
        event=_scheduled_event(status),
    )


def read_count(value: object) -> int:
    """Return a quantity as a whole number, rounded up as Kubernetes does; anything else is 0."""
    quantity = read_quantity(value)
    return 0 if quantity is None else math.ceil(quantity)


def read_resources(quantities: Mapping[str, object]) -> dict[str, int]:
    """Return the GPU resources among the quantities, without those that are 0."""
    counts = {
        name: read_count(quantity)
        for name, quantity in quantities.items()
        if name in (names.GPU_RESOURCE, names.SHARED_RESOURCE, *names.UNSUPPORTED_RESOURCES)
        or name.startswith(names.MIG_RESOURCES)
    }
    return {name: count for name, count in counts.items() if count}


def _scheduled_event(status: Fields) -> str:
    condition = find_condition(status, departure.EVENT_CONDITION)
    if condition is None or condition.text("status") != "True":
        return ""
    return departure.scheduled_event(condition.text("reason"), condition.text("message"))


def condition_status(status: Fields, kind: str) -> str:
    """Return the status of a condition, Unknown if it is missing."""
    condition = find_condition(status, kind)
    return "Unknown" if condition is None else condition.text("status")
