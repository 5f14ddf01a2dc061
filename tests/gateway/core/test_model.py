from __future__ import annotations

from typing import Any

import pytest

from avatar_gateway import errors
from avatar_gateway.core import model


def _body(**metadata: Any) -> dict[str, Any]:
    labels = {"avatar.musetalk.io/service": "concierge"}
    return {
        "metadata": {
            "name": "p1",
            "namespace": "acme",
            "uid": "u1",
            "labels": labels,
            "ownerReferences": [_owner()],
            "resourceVersion": "1",
            **metadata,
        },
        "spec": {"containers": [{"ports": [{"name": "sessions", "containerPort": 8088}]}]},
        "status": {"podIP": "10.0.0.1", "phase": "Running"},
    }


def _owner(**changes: Any) -> dict[str, Any]:
    owner = {"apiVersion": "avatar.musetalk.io/v1alpha1", "kind": "AvatarService"}
    return {**owner, "name": "concierge", "uid": "s1", "controller": True, **changes}


def _line(**changes: Any) -> dict[str, Any]:
    line = {"pod": "p1", "service": "acme/concierge", "capacity": 5, "sessions": 1, "free": 4}
    return {**line, "draining": False, "ready": True, "sequence": 7, **changes}


POD = model.Pod("acme", "p1", "u1", "acme/concierge", "10.0.0.1", 8088, 9090, False)


def test_a_pod_is_parsed_by_its_label_and_its_port_names() -> None:
    assert model.parse_pod(_body()) == POD
    assert POD.key == "acme/p1"


def test_a_pod_without_a_service_label_is_ignored() -> None:
    assert model.parse_pod(_body(labels={})) is None


@pytest.mark.parametrize(
    "owners",
    [
        [],
        [_owner(kind="ReplicaSet")],
        [_owner(apiVersion="example.com/v1alpha1")],
        [_owner(apiVersion="v1")],
        [_owner(name="other")],
        [_owner(controller=False)],
    ],
    ids=["none", "kind", "group", "core", "name", "not the controller"],
)
def test_a_pod_that_its_service_does_not_own_is_ignored(owners: list[dict[str, Any]]) -> None:
    assert model.parse_pod(_body(ownerReferences=owners)) is None
    assert model.parse_pod(_body(ownerReferences=[*owners, _owner()])) == POD


def test_a_reserve_pod_is_recognized_by_its_label() -> None:
    labels = {"avatar.musetalk.io/service": "concierge", "avatar.musetalk.io/reserve": "true"}
    pod = model.parse_pod(_body(labels=labels))
    assert pod is not None
    assert pod.reserve
    assert not POD.reserve


def test_a_pending_pod_has_no_ip_address_and_the_default_ports() -> None:
    body = _body()
    del body["spec"], body["status"]
    pod = model.parse_pod(body)
    assert pod is not None
    assert (pod.ip, pod.sessions_port, pod.admin_port, pod.terminating) == ("", 8080, 9090, False)


def test_a_deleted_or_failed_pod_is_terminating() -> None:
    deleted = model.parse_pod(_body(deletionTimestamp="2026-01-01T00:00:00Z"))
    body = _body()
    body["status"]["phase"] = "Failed"
    failed = model.parse_pod(body)
    assert deleted is not None
    assert failed is not None
    assert deleted.terminating
    assert failed.terminating


def test_a_state_line_is_parsed() -> None:
    assert model.parse_state(_line(), POD, 3.0) == model.State(5, 1, 4, False, True, 7, 3.0)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        pytest.param([], "state", id="a list"),
        pytest.param(_line(pod="other"), "pod", id="another pod at the same address"),
        pytest.param(_line(service="acme/other"), "service", id="another service"),
        pytest.param(_line(free=-1), "free", id="negative"),
        pytest.param(_line(free=True), "free", id="a flag for a count"),
        pytest.param(_line(capacity="5"), "capacity", id="text"),
        pytest.param(_line(ready=1), "ready", id="a count for a flag"),
        pytest.param({**_line(), "sequence": None}, "sequence", id="missing"),
    ],
)
def test_an_invalid_state_is_rejected_with_its_key(line: Any, key: str) -> None:
    with pytest.raises(errors.StateError) as rejected:
        model.parse_state(line, POD, 0.0)
    assert rejected.value.key == key


def test_a_pod_is_ready_if_its_ready_condition_is_true() -> None:
    for conditions, ready in (
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "False"}], False),
        ([{"type": "PodScheduled", "status": "True"}], False),
        ([{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}], True),
        ([], False),
    ):
        body = _body()
        body["status"]["conditions"] = conditions
        pod = model.parse_pod(body)
        assert pod is not None
        assert pod.ready is ready, conditions


def test_a_pod_that_was_taken_over_keeps_its_original_service_name() -> None:
    labels = {"avatar.musetalk.io/service": "second", "avatar.musetalk.io/made-for": "concierge"}
    pod = model.parse_pod(_body(labels=labels, ownerReferences=[_owner(name="second")]))
    assert pod is not None
    assert (pod.service, pod.original_service) == ("acme/second", "acme/concierge")
    assert POD.original_service == "acme/concierge"
    assert model.parse_state(_line(), pod, 3.0).free == 4
    with pytest.raises(errors.StateError):
        model.parse_state(_line(service="acme/second"), pod, 3.0)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("0.44", 0.44),
        ("3", 3.0),
        *((each, model.UNKNOWN_COST) for each in ("", "-1", "nan", "1e400", "9" * 17, "1.5\n", 7)),
    ],
    ids=["cost", "whole", "empty", "negative", "nan", "exponent", "long", "line", "number"],
)
def test_a_cost_that_is_no_plain_number_is_unknown(annotation: object, expected: float) -> None:
    pod = model.parse_pod(_body(annotations={"avatar.musetalk.io/cost-per-hour": annotation}))
    assert pod is not None
    assert pod.cost == expected


def test_a_pod_without_a_cost_is_parsed() -> None:
    assert model.parse_pod(_body(annotations=None)) == POD
