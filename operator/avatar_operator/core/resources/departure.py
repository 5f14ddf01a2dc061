"""Reads from a node whether it is about to leave the cluster, and how soon.

Node autoscalers and clouds announce it in different ways: by cordoning the node, by a taint, or by
a condition. Pods on such a node are replaced, whether they tolerate the taint or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Departure:
    """That a node is about to leave."""

    reason: str
    """Follows the name of the node in a sentence."""
    at_once: bool = False
    """Whether it leaves within minutes, so that its pods cannot wait for a replacement."""

    def sentence(self, node: str) -> str:
        """Say why pods leave this node."""
        if self == CORDONED:
            return f"its node {node} is cordoned"
        return f"its node {node} leaves: {self.reason}"


CORDONED: Final = Departure("cordoned")

_KARPENTER: Final = "Karpenter disrupts it"
_SPOT: Final = "the cloud takes it back (spot or preemption notice)"

TAINTS: Final[Mapping[str, Departure]] = {
    "karpenter.sh/disrupted": Departure(_KARPENTER),
    "karpenter.sh/disruption": Departure(_KARPENTER),  # before 1.0
    "ToBeDeletedByClusterAutoscaler": Departure("the cluster autoscaler deletes it"),
    # Azure: before a preemption or a redeployment. The node is cordoned and drained.
    "remediator.kubernetes.azure.com/unschedulable": Departure("AKS drains it", at_once=True),
    # Google Compute Engine: 30 s before a preemption, up to an hour before a maintenance.
    "cloud.google.com/impending-node-termination": Departure(_SPOT, at_once=True),
    # AWS Node Termination Handler: two minutes before the interruption of a spot instance.
    "aws-node-termination-handler/spot-itn": Departure(_SPOT, at_once=True),
    "aws-node-termination-handler/asg-lifecycle-termination": Departure(
        "its Auto Scaling group terminates it", at_once=True
    ),
    "aws-node-termination-handler/scheduled-maintenance": Departure("AWS announces a maintenance"),
    "aws-node-termination-handler/rebalance-recommendation": Departure(
        "AWS recommends to leave it (rebalance)"
    ),
    "node.cloudprovider.kubernetes.io/shutdown": Departure("its machine is off", at_once=True),
    "node.kubernetes.io/out-of-service": Departure("it is out of service", at_once=True),
}
"""What the taints of autoscalers and clouds announce, with any effect."""

CANDIDATE: Final = "DeletionCandidateOfClusterAutoscaler"
"""The cluster autoscaler may delete a node with this taint later: a hint, not an announcement."""

EVENT_CONDITION: Final = "VMEventScheduled"
"""AKS: True while Azure has announced an event for the machine, which the message names."""

_EVENTS: Final = re.compile("Preempt|Terminate|Redeploy|Reboot", re.IGNORECASE)  # a Freeze is short


def scheduled_event(reason: str, message: str) -> str:
    """Return the announced event that ends the pods of a node, "" if none does."""
    found = _EVENTS.search(f"{reason} {message}")
    return found[0].capitalize() if found else ""


def find(unschedulable: bool, taints: Iterable[Taint], event: str) -> Departure | None:
    """Return why a node leaves, the most urgent reason first; None if it stays.

    `event` is the result of `scheduled_event`.
    """
    found = [TAINTS[taint.key] for taint in taints if taint.key in TAINTS]
    if event:
        found.append(Departure(f"Azure has scheduled an event: {event}", at_once=True))
    if unschedulable:
        found.append(CORDONED)
    return min(found, key=lambda departure: not departure.at_once, default=None)
