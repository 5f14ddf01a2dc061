"""What the status of a pod says: exact times, bounds and sentences."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_contracts.fields import Fields
from avatar_operator.core.resources import pod_status

TIME = "2026-01-01T00:00:00Z"
SECONDS = 1767225600.0
OTHER = {"name": "sidecar", "restartCount": 9, "state": {"running": {}}}

GROUP = """  + Exception Group Traceback (most recent call last):
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "torch/__init__.py", line 2608, in _manager_path
    | RuntimeError: no file
    +------------------------------------
"""


def status(**given: Any) -> Fields:
    return Fields(given, "status", [])


def runtime(**given: Any) -> Fields:
    """A status in which another container comes before that of the runtime."""
    return status(containerStatuses=[OTHER, {"name": "runtime", **given}])


def scheduled(**condition: Any) -> dict[str, Any]:
    other = {"type": "Ready", "status": "False", "message": "not this one"}
    return {"conditions": [other, {"type": "PodScheduled", **condition}]}


def test_only_the_runtime_container_counts() -> None:
    assert pod_status.is_running(runtime(state={"running": {}}))
    assert not pod_status.is_running(runtime(state={"waiting": {}}))
    assert not pod_status.is_running(status(containerStatuses=[OTHER]))
    assert not pod_status.is_running(status())
    assert pod_status.restarts(runtime(restartCount=3)) == 3
    assert pod_status.restarts(runtime()) == 0
    assert pod_status.restarts(status(containerStatuses=[OTHER])) == 0
    waiting = {"waiting": {"reason": "ErrImagePull"}}
    assert pod_status.waiting_reason(runtime(state=waiting)) == "ErrImagePull"
    assert pod_status.waiting_reason(runtime(state={"running": {}})) == ""
    assert pod_status.waiting_reason(status()) == ""


@pytest.mark.parametrize("count", [0, 2**31])
def test_a_number_of_restarts_has_32_bits(count: int) -> None:
    assert pod_status.restarts(runtime(restartCount=count)) == count


@pytest.mark.parametrize("count", [-1, 2**31 + 1, "3"])
def test_a_wrong_number_of_restarts_is_none(count: object) -> None:
    assert pod_status.restarts(runtime(restartCount=count)) == 0


UNSCHEDULABLE = {"status": "False", "reason": "Unschedulable", "lastTransitionTime": TIME}


def test_a_rejection_has_its_time() -> None:
    assert pod_status.rejected_at(status(**scheduled(**UNSCHEDULABLE))) == SECONDS
    unknown = {**UNSCHEDULABLE, "lastTransitionTime": "yesterday"}
    assert pod_status.rejected_at(status(**scheduled(**unknown))) == 0.0


@pytest.mark.parametrize(
    "change",
    [{"status": "True"}, {"status": "Unknown"}, {"reason": "SchedulingGated"}, {"type": "Ready"}],
    ids=str,
)
def test_other_conditions_are_no_rejection(change: dict[str, str]) -> None:
    assert pod_status.rejected_at(status(**scheduled(**{**UNSCHEDULABLE, **change}))) is None


def test_a_pod_for_which_the_scheduler_makes_room_is_not_rejected() -> None:
    found = status(**scheduled(**UNSCHEDULABLE), nominatedNodeName="n1")
    assert pod_status.rejected_at(found) is None
    assert pod_status.rejected_at(status()) is None


def test_a_pod_is_bound_when_it_is_scheduled() -> None:
    when = {"lastTransitionTime": TIME}
    assert pod_status.bound_at(status(**scheduled(status="True", **when))) == SECONDS
    assert pod_status.bound_at(status(**scheduled(status="False", **when))) is None
    assert pod_status.bound_at(status(**scheduled(status="True"))) is None
    assert pod_status.bound_at(status()) is None


@pytest.mark.parametrize(
    ("condition", "trouble"),
    [
        (
            {"message": "0/2 nodes are available: 2 had taint {team: x}. preemption: 0/2."},
            "not scheduled: 0/2 nodes are available: 2 had taint",
        ),
        (
            {"message": "1 had taint {a: b}, 2 had {c: d}, 3 others. "},
            "not scheduled: 1 had taint, 2 had, 3 others",
        ),
        ({"message": "one. two. three"}, "not scheduled: one"),
        ({"message": "nodes are full."}, "not scheduled: nodes are full"),
        ({"message": "", "reason": "SchedulingGated"}, "not scheduled: SchedulingGated"),
        ({"message": "a", "reason": "Unschedulable"}, "not scheduled: a"),
    ],
)
def test_a_rejection_is_one_sentence_without_values_of_taints(
    condition: dict[str, str], trouble: str
) -> None:
    assert pod_status.trouble(status(**scheduled(status="False", **condition))) == trouble


def ended(message: str = "", code: object = 1, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"message": message, "exitCode": code, "reason": reason}}


@pytest.mark.parametrize(
    ("container", "trouble"),
    [
        ({"state": {"waiting": {"reason": "ContainerCreating", "message": "x"}}}, ""),
        ({"state": {"waiting": {"reason": "PodInitializing", "message": "x"}}}, ""),
        (
            {"state": {"waiting": {"reason": "ErrImagePull", "message": "a\n b"}}},
            "ErrImagePull: a b",
        ),
        ({"state": {"waiting": {"reason": "ErrImagePull"}}}, "ErrImagePull"),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": ended("first\n\nlast line\n\n", 3),
            },
            "CrashLoopBackOff: exit code 3: last line",
        ),
        ({"state": ended(GROUP)}, "exit code 1: RuntimeError: no file"),
        ({"state": ended("  +-+--- 1 ---\n  +----\n |  ")}, "exit code 1"),
        ({"state": ended("-- end --")}, "exit code 1: -- end --"),
        ({"state": ended("", 137, "OOMKilled")}, "OOMKilled 137"),
        ({"state": ended("gone", 0, "Completed")}, "Completed 0: gone"),
        ({"state": ended("gone", 2, "")}, "exit code 2: gone"),
        ({"state": ended("a", -(2**31))}, f"exit code {-(2**31)}: a"),
        ({"state": ended("a", 2**31)}, f"exit code {2**31}: a"),
        ({"state": ended("a", 2**31 + 1)}, "exit code 0: a"),
        ({"state": ended("a", -(2**31) - 1)}, "exit code 0: a"),
        ({"state": ended('{"message": "no GPU", "level": "error"}')}, "exit code 1: no GPU"),
        ({"state": ended('{"message": " "}')}, 'exit code 1: {"message": " "}'),
        ({"state": ended('{"message": 7}')}, 'exit code 1: {"message": 7}'),
        ({"state": {"running": {}}, "lastState": ended("a")}, "restarted after exit code 1: a"),
        ({"state": {"running": {}}, "lastState": ended("a"), "ready": True}, ""),
        ({"state": {"running": {}}, "ready": False}, ""),
    ],
)
def test_the_trouble_of_a_container_is_one_sentence(
    container: dict[str, Any], trouble: str
) -> None:
    assert pod_status.trouble(runtime(**container)) == trouble


def test_a_pod_without_a_container_has_its_own_message() -> None:
    assert pod_status.trouble(status(message="node was low", reason="Evicted")) == "node was low"
    assert pod_status.trouble(status(reason="Evicted")) == "Evicted"
    assert pod_status.trouble(status()) == ""
    bound = scheduled(status="True", message="ignored")
    assert pod_status.trouble(status(**bound, reason="Evicted")) == "Evicted"


@pytest.mark.parametrize(
    ("length", "shown"), [(199, "x" * 199), (200, "x" * 200), (201, "x" * 199 + "…")]
)
def test_a_sentence_has_200_characters_at_most(length: int, shown: str) -> None:
    assert pod_status.trouble(status(message="x" * length)) == shown


def test_a_pod_ended_when_its_last_container_ended() -> None:
    def finished(at: str) -> dict[str, Any]:
        return {"state": {"terminated": {"finishedAt": at}}}

    two = [finished("2026-01-01T00:00:05Z"), finished(TIME), {"state": {"running": {}}}]
    assert pod_status.ended_at(status(containerStatuses=two), 9.0) == SECONDS + 5
    assert pod_status.ended_at(status(containerStatuses=[{"state": {}}]), 9.0) == 9.0
    assert pod_status.ended_at(status(), 9.0) == 9.0


def _starting(**state: Any) -> Fields:
    """A status in which the model is downloaded before the runtime starts."""
    mesh = {"name": "istio-proxy", "restartCount": 7, "state": {"running": {}}}
    cache = {"name": "cache-models", "restartCount": 4, **state}
    waits = {"name": "runtime", "state": {"waiting": {"reason": "PodInitializing"}}}
    return status(initContainerStatuses=[mesh, cache], containerStatuses=[waits])


def test_a_download_that_fails_is_the_trouble_of_the_pod() -> None:
    said = "avatar-runtime: https://models/unet.pth: its SHA-256 is a, must be b\n"
    last = {"terminated": {"exitCode": 65, "reason": "Error", "message": said}}
    failing = _starting(state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=last)
    assert pod_status.waiting_reason(failing) == "CrashLoopBackOff"
    assert pod_status.restarts(failing) == 4
    text = "CrashLoopBackOff: exit code 65: avatar-runtime: https://models/unet.pth: its SHA-256"
    assert pod_status.trouble(failing).startswith(text)
    ended = _starting(state=last)
    assert pod_status.trouble(ended).startswith("exit code 65: avatar-runtime: https://models")


def test_a_complete_download_says_nothing_more() -> None:
    complete = _starting(state={"terminated": {"exitCode": 0, "reason": "Completed"}})
    assert pod_status.waiting_reason(complete) == "PodInitializing"
    assert pod_status.restarts(complete) == 0
    assert pod_status.trouble(complete) == ""


def test_a_sidecar_that_runs_is_not_what_the_pod_waits_for() -> None:
    mesh = {"name": "istio-proxy", "restartCount": 7, "state": {"running": {}}}
    own = {"name": "runtime", "restartCount": 1, "state": {"running": {}}}
    assert pod_status.restarts(status(initContainerStatuses=[mesh], containerStatuses=[own])) == 1
