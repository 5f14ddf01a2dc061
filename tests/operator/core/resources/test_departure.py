"""Which taints and conditions announce that a node leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.resources import departure
from avatar_operator.core.resources.node import Taint, parse_node

if TYPE_CHECKING:
    from tests.operator.conftest import Make


@pytest.mark.parametrize("key", departure.TAINTS)
@pytest.mark.parametrize("effect", ["NoSchedule", "PreferNoSchedule", "NoExecute"])
def test_an_announcement_counts_with_any_effect(key: str, effect: str) -> None:
    assert departure.find(False, [Taint(key, "", effect)], "") == departure.TAINTS[key]


@pytest.mark.parametrize(
    "key", ["nvidia.com/gpu", "node.kubernetes.io/disk-pressure", departure.CANDIDATE, ""]
)
def test_other_taints_announce_nothing(key: str) -> None:
    assert departure.find(False, [Taint(key, "", "NoSchedule")], "") is None


def test_the_most_urgent_reason_is_given() -> None:
    soon = Taint("aws-node-termination-handler/spot-itn", "", "NoSchedule")
    found = departure.find(True, [Taint("karpenter.sh/disrupted", "", "NoSchedule"), soon], "")
    assert found == departure.TAINTS[soon.key]
    assert departure.find(True, [], "") == departure.CORDONED


@pytest.mark.parametrize(
    ("status", "message", "event"),
    [
        ("True", "Preempt scheduled at Mon, 19 Sep 2026 18:29:47 GMT", "Preempt"),
        ("True", "TerminateScheduled", "Terminate"),
        ("True", "RedeployScheduled", "Redeploy"),
        ("True", "RebootScheduled", "Reboot"),
        ("True", "FreezeScheduled", ""),
        ("False", "Preempt is not scheduled", ""),
        ("Unknown", "Preempt", ""),
    ],
)
def test_events_of_azure_are_read_from_the_condition(
    make: Make, status: str, message: str, event: str
) -> None:
    body = make.node_body()
    condition = {"type": "VMEventScheduled", "status": status, "reason": "VMEventScheduled"}
    body["status"]["conditions"].append({**condition, "message": message})
    node = parse_node(body)
    assert node.event == event
    assert (node.departure is not None) == bool(event)
    assert node.ready


def test_an_autoscalers_hint_is_no_announcement(make: Make) -> None:
    body = make.node_body()
    body["spec"]["taints"] = [{"key": departure.CANDIDATE, "effect": "PreferNoSchedule"}]
    node = parse_node(body)
    assert node.is_candidate
    assert node.departure is None
