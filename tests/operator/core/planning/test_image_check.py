from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.planning import planner
from avatar_operator.core.resources.image_check import ImageCheck
from avatar_operator.core.status import conditions
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

    from avatar_operator.core.status.findings import Finding

PULL = "ImagePullBackOff: no such image"


@pytest.fixture
def full(scenarios: Scenarios, make: Make) -> Scenario:
    """A service on the only GPU, whose image has changed."""
    scenario = scenarios(gpus=1, replicas=1)
    scenario.add("old", make.state(0), spec_hash="old", image="before")
    return scenario


def name(scenario: Scenario) -> str:
    return f"concierge-{scenario.hash[:5]}-image"


def check(scenario: Scenario, *, pulled: bool = False, trouble: str = "") -> ImageCheck:
    return ImageCheck(name(scenario), "uid-check", "7", "s1", pulled, trouble, terminating=False)


def test_a_working_pod_makes_no_room_before_the_image_is_checked(full: Scenario) -> None:
    assert full.actions() == [("CreateImageCheck", name(full))]
    (action,) = full.plan().actions
    assert isinstance(action, planner.CreateImageCheck)
    assert (action.node, action.pool.gpu_class) == ("n1", "rtx-4090")
    full.image_checks = [check(full)]
    assert full.actions() == []
    full.image_checks = [check(full, trouble=PULL)]
    assert full.actions() == []


def test_a_check_has_another_name_if_a_pod_of_others_has_its_name(full: Scenario) -> None:
    taken, second = name(full), f"{name(full)}-s1"
    full.names_elsewhere = {taken}
    assert full.actions() == [("CreateImageCheck", second)]
    full.image_checks = [replace(check(full), name=second)]
    assert full.actions() == []
    full.names_elsewhere = set()  # after a resync the check that exists is kept
    assert full.actions() == []
    full.image_checks = [replace(check(full, pulled=True), name=second)]
    assert full.actions() == [("DrainPod", "old")]


def test_it_makes_room_when_the_image_was_pulled(full: Scenario) -> None:
    full.image_checks = [check(full, pulled=True)]
    assert full.actions() == [("DrainPod", "old")]


@pytest.mark.parametrize(
    "change",
    [
        {"image": "image"},  # the same image, on the node already
        {"ready": False},  # it serves nobody
        {"drain_asked": True},
    ],
    ids=str,
)
def test_nothing_is_checked_if_the_pod_may_go_anyway(
    full: Scenario, make: Make, change: dict[str, object]
) -> None:
    full.pods = [replace(full.pods[0], **change)]  # type: ignore[arg-type]
    assert full.actions() == [("DrainPod", "old")]


def test_the_user_may_renounce_the_check(full: Scenario) -> None:
    full.service = replace(full.service, allow_unpulled=True)
    assert full.actions() == [("DrainPod", "old")]


def test_a_free_gpu_needs_no_check(full: Scenario, make: Make) -> None:
    full.nodes = [make.node(gpus=2)]
    assert [kind for kind, _ in full.actions()] == ["CreatePod"]


def test_a_running_pod_of_the_new_spec_proves_its_image(full: Scenario, make: Make) -> None:
    full.service = replace(full.service, replicas=2)
    full.nodes = [make.node(gpus=2)]
    full.add("new", make.state(0), image="replaced by a webhook")
    assert full.actions() == [("DrainPod", "old")]


def test_a_check_that_is_not_needed_is_deleted(full: Scenario, make: Make) -> None:
    other = replace(check(full), name="concierge-other-image")
    full.image_checks = [other]
    assert full.actions() == [("DeleteImageCheck", "concierge-other-image")]
    full.image_checks = [replace(other, terminating=True)]
    assert full.actions() == []  # its successor waits until it is gone
    full.pods = [replace(full.pods[0], spec_hash=full.hash)]
    full.image_checks = [check(full, pulled=True)]
    assert full.actions() == [("DeleteImageCheck", name(full))]


def test_the_status_says_what_is_waited_for(full: Scenario) -> None:
    def found() -> dict[Condition, Finding]:
        findings = conditions.find(full.service, full.plan(), full.states)
        return {finding.condition: finding for finding in findings}

    assert found()[Condition.PROGRESSING].message == (
        "pods to be replaced: old; no GPU is free, and old makes room when image was pulled"
    )
    assert not found()[Condition.DEGRADED].status
    full.image_checks = [check(full, trouble=PULL)]
    assert found()[Condition.PROGRESSING].message.endswith(f"when image was pulled ({PULL})")
    degraded = found()[Condition.DEGRADED]
    assert (degraded.status, degraded.reason) == (True, Reason.IMAGE_NOT_PULLED)
    assert degraded.message == (
        f"image cannot be pulled: {PULL}; the pods of the earlier spec continue to serve"
    )
    assert found()[Condition.READY].status
    assert found()[Condition.STALLED].reason is Reason.IMAGE_NOT_PULLED
