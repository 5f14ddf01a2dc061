"""The parsers of the Jobs that prepare avatars, and of their pods."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.resources import pod_status
from avatar_operator.core.resources.preparation import (
    LONGEST_MESSAGE,
    Report,
    Result,
    parse_job,
    parse_pod,
    parse_result,
)

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make

OK = {"ok": True, "frames": 50, "width": 640, "height": 480, "content_hash": "abc"}


def pod_body(phase: str = "Pending", **status: Any) -> Body:
    return {
        "metadata": {
            "name": "anna-prepare-0-x",
            "namespace": "acme",
            "uid": "p1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"avatar.musetalk.io/avatar": "anna"},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "uid": "j1", "controller": True}
            ],
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": phase, **status},
    }


def ended(name: str, code: int, message: str = "") -> Body:
    return {
        "name": name,
        "state": {
            "terminated": {
                "exitCode": code,
                "message": message,
                "reason": "Error" if code else "Completed",
                "finishedAt": "2026-01-01T00:01:00Z",
            }
        },
    }


def test_a_job_of_an_avatar_is_read(make: Make) -> None:
    job = parse_job(make.job_body())
    assert job is not None
    assert (job.avatar, job.avatar_uid, job.spec_hash, job.attempt) == ("anna", "a1", "current", 0)
    assert (job.gpu_class, job.ended_at, job.succeeded) == ("rtx-4090", None, False)


def test_a_job_of_others_is_not_read(make: Make) -> None:
    body = make.job_body()
    body["metadata"]["ownerReferences"][0]["kind"] = "AvatarService"
    assert parse_job(body) is None
    body["metadata"]["ownerReferences"] = []
    assert parse_job(body) is None


@pytest.mark.parametrize(
    ("kind", "succeeded", "failure"),
    [("Complete", True, ("", "")), ("Failed", False, ("DeadlineExceeded", "too long"))],
)
def test_the_end_of_a_job_is_read(
    make: Make, kind: str, succeeded: bool, failure: tuple[str, str]
) -> None:
    body = make.job_body()
    condition = {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"}
    condition |= {"reason": "DeadlineExceeded", "message": "too long"}
    body["status"] = {"conditions": [{"type": "Suspended", "status": "False"}, condition]}
    job = parse_job(body)
    assert job is not None
    assert job.ended_at == job.created_at + 120
    assert (job.succeeded, job.failure) == (succeeded, failure)


def test_a_pod_that_only_has_the_label_is_not_read() -> None:
    body = pod_body()
    body["metadata"]["ownerReferences"] = []
    assert parse_pod(body) is None
    body = pod_body()
    body["metadata"]["labels"] = {}
    assert parse_pod(body) is None


def test_the_trouble_of_a_pod_is_that_of_the_scheduler_or_of_a_container() -> None:
    message = 'persistentvolumeclaim "films" not found'
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    body = pod_body(conditions=[condition | {"message": message}])
    body["spec"] = {}
    pod = parse_pod(body)
    assert pod is not None
    assert (pod.rejected, pod.running, pod.trouble) == (True, False, f"not scheduled: {message}")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pod = parse_pod(pod_body(containerStatuses=[{"name": "prepare", "state": waiting}]))
    assert pod is not None
    assert pod.trouble == "ImagePullBackOff: no such image"


def test_the_result_of_the_container_is_read() -> None:
    report = {
        "verdict": "usable",
        "sentence": "Usable.",
        "frames": 50,
        "invalid_frames": 2,
        "faults": ["blurred: 3 frames (1-3): hold still"],
    }
    statuses = [ended("prepare", 0, json.dumps(OK | {"report": report}))]
    pod = parse_pod(pod_body("Succeeded", containerStatuses=statuses))
    assert pod is not None
    assert pod.ended_at is not None
    assert pod.result == Result(
        ok=True,
        frames=50,
        width=640,
        height=480,
        content_hash="abc",
        report=Report("usable", "Usable.", 50, 2, ("blurred: 3 frames (1-3): hold still",)),
    )


def test_the_first_container_that_failed_has_the_result() -> None:
    message = json.dumps({"ok": False, "permanent": True, "message": "its SHA-256 is 0"})
    pod = parse_pod(
        pod_body(
            "Failed",
            initContainerStatuses=[ended("fetch", 1, message)],
            containerStatuses=[{"name": "prepare", "state": {"waiting": {}}}],
        )
    )
    assert pod is not None
    assert pod.result == Result(ok=False, message="its SHA-256 is 0", permanent=True)


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        ("", 137, "the container ended with exit status 137 (OOMKilled)"),
        ("line\nlast line\n", 1, "last line"),
        (json.dumps(OK), 1, "the container ended with exit status 1 (OOMKilled)"),
        ("[]", 0, "[]"),
        ("[" * 5000, 0, ("[" * 5000)[:LONGEST_MESSAGE]),
    ],
)
def test_a_container_without_a_result_has_failed(message: str, code: int, expected: str) -> None:
    result = parse_result(message, code, "OOMKilled")
    assert (result.ok, result.message) == (False, expected)


@pytest.mark.parametrize(("code", "permanent"), [(65, True), (75, False), (1, False), (2, False)])
def test_the_exit_status_says_what_a_lost_result_cannot(code: int, permanent: bool) -> None:
    assert parse_result("a line", code).permanent is permanent
    told = json.dumps({"ok": False, "permanent": not permanent, "message": "why"})
    assert parse_result(told, code).permanent is not permanent


def test_a_pod_that_was_evicted_says_so() -> None:
    pod = parse_pod(pod_body("Failed", reason="Evicted", message="the node was low on memory"))
    assert pod is not None
    assert pod.result == Result(ok=False, message="Evicted: the node was low on memory")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_report_is_bounded(value: object) -> None:
    names = ("verdict", "sentence", "frames", "invalid_frames", "faults", "warnings")
    for ok in (True, False):
        report = dict.fromkeys(names, value)
        document = {"ok": ok, "message": value, "content_hash": value, "report": report}
        found = parse_result(json.dumps(document), 0)
        assert found.ok is ok
        assert len(found.message) <= LONGEST_MESSAGE
        assert found.report is not None
        assert len(found.report.faults) <= 16


def test_a_report_of_a_strangers_image_controls_no_terminal() -> None:
    report = {"verdict": "good\n", "sentence": "\x1b[2J", "faults": ["a\rb"], "warnings": ["\x07"]}
    document = {"ok": False, "message": "\x1b]0;x\x07", "report": report}
    found = parse_result(json.dumps(document), 1)
    assert found.report is not None
    shown = (
        found.message + found.report.verdict + found.report.sentence + found.report.faults[0]
        + found.report.warnings[0]
    )  # fmt: skip
    assert shown.isprintable()


def test_a_pod_knows_its_avatar_and_when_it_got_its_node() -> None:
    body = pod_body("Running")
    body["spec"] = {"nodeName": "n1"}
    scheduled = {"type": "PodScheduled", "status": "True"}
    scheduled["lastTransitionTime"] = "2026-01-01T00:00:05Z"
    body["status"]["conditions"] = [scheduled]
    pod = parse_pod(body)
    assert pod is not None
    assert pod.avatar is not None
    assert pod.avatar.name == body["metadata"]["labels"]["avatar.musetalk.io/avatar"]
    assert pod.scheduled_at == pod_status.parse_seconds("2026-01-01T00:00:05Z")
    body["spec"] = {}
    pod = parse_pod(body)
    assert pod is not None
    assert pod.scheduled_at is None
