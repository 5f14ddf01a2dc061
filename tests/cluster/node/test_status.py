"""The status that is written for a pod."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.status import (
    PodFacts,
    Record,
    Running,
    State,
    Terminated,
    Waiting,
    initial,
    phase,
    pod_status,
)

T0, T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"
CREATING = Waiting("ContainerCreating")
RUNNING = Running(T0)


def ended(code: int) -> Terminated:
    return Terminated(code, "Error" if code else "Completed", T0, T1, "process://1")


def record(state: State, **fields: Any) -> Record:
    return Record("c", "image", state, **fields)


def facts(*main: Record, init: tuple[Record, ...] = (), policy: str = "Always") -> PodFacts:
    return PodFacts(init, main, policy, T0, "127.0.10.2", "127.0.10.1")


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


CRASHED = Record(
    "c", "image", Waiting("CrashLoopBackOff"), last=ended(1), container_id="process://1"
)


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (facts(record(CREATING)), "Pending"),
        (facts(record(RUNNING, container_id="x")), "Running"),
        (facts(record(RUNNING, container_id="x"), record(CREATING)), "Pending"),
        (facts(CRASHED), "Running"),
        (facts(record(ended(1))), "Running"),
        (facts(record(ended(0)), policy="Never"), "Succeeded"),
        (facts(record(ended(0)), record(ended(2)), policy="Never"), "Failed"),
        (facts(record(ended(0)), record(RUNNING), policy="Never"), "Running"),
        (facts(record(ended(2)), policy="OnFailure"), "Running"),
        (facts(record(CREATING), init=(record(RUNNING),)), "Pending"),
        (facts(record(CREATING), init=(record(ended(1)),)), "Pending"),
        (facts(record(CREATING), init=(record(ended(1)),), policy="Never"), "Failed"),
        (facts(record(RUNNING), init=(record(ended(0)),)), "Running"),
        (replace(facts(record(RUNNING)), failed=("NodeError", "why")), "Failed"),
    ],
)
def test_the_phase_follows_the_containers(pod: PodFacts, expected: str) -> None:
    assert phase(pod) == expected


def test_a_pod_is_ready_when_all_its_containers_are() -> None:
    pod = facts(record(RUNNING, ready=True, started=True))
    assert conditions(pod_status(pod, {}, T0)) == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"),
        ("True", None),
    )


def test_unready_and_incomplete_containers_are_named() -> None:
    status = pod_status(facts(record(CREATING), init=(record(RUNNING),)), {}, T0)
    found = {item["type"]: item["message"] for item in status["conditions"]}
    assert found["Ready"] == "containers with unready status: [c]"
    assert found["Initialized"] == "containers with incomplete status: [c]"


def test_a_closed_readiness_gate_keeps_a_pod_unready() -> None:
    pod = replace(facts(record(RUNNING, ready=True)), gates=("avatar.musetalk.io/live",))
    closed = pod_status(pod, {}, T0)
    assert conditions(closed)["Ready"] == ("False", "ReadinessGatesNotReady")
    opened = {"conditions": [{"type": "avatar.musetalk.io/live", "status": "True"}]}
    assert conditions(pod_status(pod, opened, T0))["Ready"] == ("True", None)


def test_a_completed_pod_has_the_reason_pod_completed() -> None:
    found = conditions(pod_status(facts(record(ended(0)), policy="Never"), {}, T0))
    assert found["Ready"] == ("False", "PodCompleted")
    assert found["ContainersReady"] == ("False", "PodCompleted")


def test_a_transition_time_changes_only_with_its_status() -> None:
    first = pod_status(facts(record(CREATING)), {}, T0)
    second = pod_status(facts(record(RUNNING)), first, T1)
    third = pod_status(facts(record(RUNNING, ready=True)), second, T2)
    times = [
        {item["type"]: item["lastTransitionTime"] for item in status["conditions"]}
        for status in (first, second, third)
    ]
    assert [moment["Ready"] for moment in times] == [T0, T0, T2]
    assert [moment["Initialized"] for moment in times] == [T0, T0, T0]


@given(st.integers(0, 1000), st.booleans())
def test_equal_facts_give_an_equal_status_at_any_time(restarts: int, ready: bool) -> None:
    pod = facts(record(RUNNING, restarts=restarts, ready=ready))
    first = pod_status(pod, {}, T0)
    assert pod_status(pod, first, T2) == first


def test_an_end_becomes_the_last_state_when_the_next_run_starts() -> None:
    crashed = record(RUNNING, ready=True, started=True).with_state(ended(137))
    assert (crashed.ready, crashed.started, crashed.last) == (False, False, None)
    waiting = crashed.with_state(Waiting("CrashLoopBackOff"))
    assert waiting.last == ended(137)
    assert waiting.with_state(RUNNING).last == ended(137)


def test_a_repeated_end_counts_once() -> None:
    assert record(RUNNING).with_state(ended(1)).with_state(ended(1)).last is None


def test_a_run_before_a_restart_of_the_node_counts_as_a_restart() -> None:
    manifest = {"name": "c", "image": "image"}
    assert initial(manifest, None, "ContainerCreating").restarts == 0
    old = {"restartCount": 2, "containerID": "process://1"}
    assert initial(manifest, old, "ContainerCreating").restarts == 3


def test_a_terminated_container_has_its_exit_code_and_reason() -> None:
    assert record(ended(137), container_id="process://1").body() == {
        "name": "c",
        "image": "image",
        "imageID": "process://image",
        "containerID": "process://1",
        "restartCount": 0,
        "started": False,
        "ready": False,
        "state": {
            "terminated": {
                "exitCode": 137,
                "reason": "Error",
                "startedAt": T0,
                "finishedAt": T1,
                "containerID": "process://1",
            }
        },
        "lastState": {},
    }
