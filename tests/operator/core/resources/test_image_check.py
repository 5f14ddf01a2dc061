from __future__ import annotations

from typing import Any

import pytest

from avatar_operator.core.resources.image_check import ImageCheck, parse_image_check
from avatar_operator.core.resources.pod import parse_runtime_pod

WAITING = {"reason": "ErrImagePull", "message": "no such image"}


OWNER = {
    "apiVersion": "avatar.musetalk.io/v1alpha1",
    "kind": "AvatarService",
    "name": "concierge",
    "uid": "s1",
    "controller": True,
}


def body(**status: Any) -> dict[str, Any]:
    metadata = {"name": "c", "uid": "u", "resourceVersion": "7", "ownerReferences": [OWNER]}
    spec = {"containers": [{"name": "image-check"}]}
    return {"metadata": metadata, "spec": spec, "status": status}


def container(**fields: Any) -> dict[str, Any]:
    return {"containerStatuses": [fields]}


def test_another_pod_is_no_image_check() -> None:
    assert parse_image_check({**body(), "spec": {"containers": [{"name": "runtime"}]}}) is None
    foreign = body()
    foreign["metadata"]["ownerReferences"] = [{**OWNER, "controller": False}]
    assert parse_image_check(foreign) is None


def test_an_image_check_is_no_runtime_pod_whatever_its_labels_are() -> None:
    assert parse_runtime_pod(body()) is None


def test_a_new_check_has_no_result() -> None:
    assert parse_image_check(body()) == ImageCheck("c", "u", "7", "s1", False, "", False)


def test_a_deleted_check_is_terminating() -> None:
    deleted = body()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    found = parse_image_check(deleted)
    assert found is not None
    assert found.terminating


@pytest.mark.parametrize(
    ("status", "pulled", "trouble"),
    [
        (container(state={"running": {}}), True, ""),
        (container(state={"terminated": {"exitCode": 0}}), True, ""),
        (container(state={"terminated": {"reason": "StartError"}}), True, ""),
        (container(state={"waiting": {"reason": "CreateContainerError"}}), True, ""),
        (container(state={"waiting": WAITING}), False, "ErrImagePull: no such image"),
        (container(state={"waiting": {"reason": "ContainerCreating"}}), False, ""),
        (container(state={}), False, ""),
        (container(state={"waiting": WAITING}, imageID="sha256:1"), True, ""),
        ({"phase": "Failed", "reason": "Evicted"}, False, "Evicted"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "no cpu"}]},
            False,
            "not scheduled: no cpu",
        ),
        ({"conditions": [{"type": "PodScheduled", "status": "True"}]}, False, ""),
    ],
)
def test_the_result_is_whether_the_image_is_there(
    status: dict[str, Any], pulled: bool, trouble: str
) -> None:
    found = parse_image_check(body(**status))
    assert found is not None
    assert (found.pulled, found.trouble) == (pulled, trouble)
