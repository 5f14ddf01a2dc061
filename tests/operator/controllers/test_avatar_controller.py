"""The avatar controller on a fake API server: what it writes, and what it never writes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.cache.entries import Kind

if TYPE_CHECKING:
    from tests.operator.conftest import Body
    from tests.operator.controllers.conftest import Operator

JOBS = "/apis/batch/v1/namespaces/acme/jobs"
FINALIZER = "avatar.musetalk.io/in-use"
FACES = {"persistentVolumeClaim": {"claimName": "faces"}}
INSTALLATION = "system/avatar-operator"
OK = {"ok": True, "frames": 50, "width": 640, "height": 480, "content_hash": "abc"}


def apply(operator: Operator, *, claimed: str = INSTALLATION, **spec: Any) -> Body:
    body = operator.make.avatar_body(**spec)
    body["status"] = {"operator": claimed} if claimed else {}
    operator.api.avatars[:] = [operator.api.stamp(body)]
    operator.observe(Kind.AVATARS, body)
    return body


def status(operator: Operator) -> Any:
    return operator.api.avatars[0].get("status", {}) if operator.api.avatars else {}


def condition(operator: Operator, kind: str) -> tuple[str, str]:
    for each in status(operator).get("conditions", []):
        if each["type"] == kind:
            return each["status"], each["reason"]
    return "", ""


def end(operator: Operator, result: Body, *, code: int = 0) -> None:
    """End the Job of the avatar with a result in its pod."""
    (job,) = operator.api.jobs
    labels = job["spec"]["template"]["metadata"]["labels"]
    terminated = {"exitCode": code, "message": json.dumps(result), "reason": "Completed"}
    pod = {
        "metadata": {
            "name": f"{job['metadata']['name']}-x",
            "namespace": "acme",
            "uid": "pod-of-job",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "uid": job["metadata"]["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "prepare", "state": {"terminated": terminated}}],
        },
    }
    operator.observe(Kind.PODS, operator.api.stamp(pod))
    at = job["metadata"]["creationTimestamp"]
    kind = "Failed" if code else "Complete"
    job["status"] = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": at}]}
    operator.observe(Kind.JOBS, operator.api.stamp(job))


async def test_an_avatar_is_prepared_by_a_job(operator: Operator) -> None:
    api = operator.api
    apply(operator)
    await api.until(lambda: api.jobs and status(operator).get("phase") == "Scheduling")
    assert api.avatars[0]["metadata"]["finalizers"] == [FINALIZER]
    assert condition(operator, "Reconciling") == ("True", "JobScheduling")
    assert condition(operator, "Available") == ("False", "NotPrepared")
    end(operator, OK)
    await api.until(lambda: condition(operator, "Ready") == ("True", "Prepared"))
    found = status(operator)
    assert (found["frames"], found["size"], found["contentHash"]) == (50, "640x480", "abc")
    assert (found["path"], found["preview"]) == ("anna", "anna/preview.jpg")
    assert (found["operator"], found["gpuClass"]) == (INSTALLATION, "rtx-4090")
    assert condition(operator, "Stalled") == condition(operator, "Reconciling") == ("", "")
    await api.until(lambda: len(api.events) == 2)
    assert [event["reason"] for event in api.events] == ["JobCreated", "Prepared"]
    assert {event["involvedObject"]["kind"] for event in api.events} == {"Avatar"}


async def test_at_rest_nothing_is_written(operator: Operator) -> None:
    api = operator.api
    apply(operator)
    await api.until(lambda: api.jobs)
    end(operator, OK)
    await api.until(lambda: condition(operator, "Ready") == ("True", "Prepared"))
    await api.until(lambda: len(api.events) == 2)
    writes, lists = len(api.writes), api.lists
    await api.until(lambda: api.lists > lists + 1)
    assert len(api.writes) == writes


async def test_the_gpu_of_a_job_counts_before_its_pod_exists(operator: Operator) -> None:
    api = operator.api
    apply(operator)
    await api.until(lambda: api.jobs)
    store = operator.manager._store
    assert [use.counts for use in store.gpu_uses(0.0)] == [{"nvidia.com/gpu": 1}]
    end(operator, OK)
    assert store.gpu_uses(0.0) == ()


async def test_an_invalid_spec_is_stalled_and_creates_no_job(operator: Operator) -> None:
    api = operator.api
    apply(operator, consent=None)
    await api.until(lambda: condition(operator, "Stalled") == ("True", "InvalidSpec"))
    assert "spec.consent is missing" in status(operator)["conditions"][0]["message"]
    assert (api.jobs, status(operator)["phase"]) == ([], "Invalid")


async def test_a_refused_source_is_reported_and_not_tried_again(operator: Operator) -> None:
    api = operator.api
    apply(operator)
    await api.until(lambda: api.jobs)
    report = {"verdict": "refused", "sentence": "no face in 1-9", "frames": 9, "invalid_frames": 9}
    end(operator, {"ok": False, "permanent": True, "message": "no face", "report": report}, code=1)
    await api.until(lambda: condition(operator, "Stalled") == ("True", "SourceRefused"))
    assert status(operator)["report"]["sentence"] == "no face in 1-9"
    await api.until(lambda: len(api.events) == 2)
    assert (api.events[-1]["reason"], api.events[-1]["type"]) == ("SourceRefused", "Warning")
    assert len(api.jobs) == 1


async def test_a_job_that_the_api_server_refuses_is_reported(operator: Operator) -> None:
    api = operator.api
    api.faults["POST", JOBS] = (403, "quota exceeded")
    apply(operator)
    await api.until(lambda: condition(operator, "Ready") == ("False", "JobRefused"))
    del api.faults["POST", JOBS]
    operator.manager._on_change(operator.manager._store.avatar_index.drop_avatar("none"))
    await api.until(lambda: api.jobs)


async def test_a_service_waits_for_its_avatar_and_leaves_it_the_gpu(operator: Operator) -> None:
    api = operator.api
    operator.apply(avatars=["anna"], avatarSource=FACES, replicas=2)
    apply(operator)
    await api.until(lambda: api.jobs)
    await api.until(lambda: api.condition("AvatarsReady") == ("False", "AvatarsNotReady"))
    assert api.condition("Ready") == ("False", "AvatarsNotReady")
    assert api.pods == []
    assert operator.manager._shares.lacking_classes() == frozenset()
    end(operator, OK)
    await api.until(lambda: api.condition("AvatarsReady") == ("True", "AvatarsPrepared"))
    await api.until(lambda: api.pods)


async def test_a_deletion_waits_until_no_service_names_the_avatar(operator: Operator) -> None:
    api = operator.api
    operator.apply(avatars=["anna"], avatarSource=FACES, replicas=0)
    apply(operator)
    await api.until(lambda: api.jobs)
    end(operator, OK)
    await api.until(lambda: condition(operator, "InUse") == ("True", "NamedByServices"))
    (avatar,) = api.avatars
    avatar["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    operator.observe(Kind.AVATARS, api.stamp(avatar))
    await api.until(lambda: condition(operator, "Ready") == ("False", "DeletionWaits"))
    assert status(operator)["phase"] == "Deleting"
    assert avatar["metadata"]["finalizers"] == [FINALIZER]
    operator.apply(avatars=[], avatarSource=FACES, replicas=0)
    await api.until(lambda: api.avatars == [])


async def test_an_avatar_of_another_installation_is_not_touched(operator: Operator) -> None:
    api = operator.api
    lease = "/apis/coordination.k8s.io/v1/namespaces/other/leases/operator"
    api.leases[lease] = {
        "metadata": {"name": "operator", "namespace": "other", "resourceVersion": "1"},
        "spec": {
            "holderIdentity": "p1",
            "leaseTransitions": 1,
            "leaseDurationSeconds": 4,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        },
    }
    apply(operator, claimed="other/operator")
    await api.until(lambda: lease in api.requests)
    lists = api.lists
    await api.until(lambda: api.lists > lists)
    assert (api.jobs, status(operator)) == ([], {"operator": "other/operator"})


@pytest.mark.parametrize(
    "operator_environment", [{"AVATAR_PREPARATION_EGRESS": '[{"ports": [{"port": 443}]}]'}]
)
async def test_the_network_policy_exists_before_the_job(operator: Operator) -> None:
    api = operator.api
    apply(operator)
    await api.until(lambda: api.jobs)
    policies = "/apis/networking.k8s.io/v1/namespaces/acme/networkpolicies"
    policy = copy.deepcopy(api.others[f"{policies}/anna-prepare"])
    assert policy["spec"]["egress"] == []
    assert policy["metadata"]["ownerReferences"][0]["kind"] == "Avatar"
    posts = [path for method, path in api.writes if method == "POST"]
    assert posts.index(policies) < posts.index(JOBS)


async def test_many_avatars_at_once_start_one_job(operator: Operator) -> None:
    """Their reconciles run at the same time, and each waits for the API server."""
    api = operator.api
    bodies = [operator.make.avatar_body(f"anna-{i}", uid=f"uid-{i}") for i in range(40)]
    for body in bodies:
        body["status"] = {"operator": INSTALLATION}
        api.avatars.append(api.stamp(body))
    for body in bodies:
        operator.observe(Kind.AVATARS, body)
    await api.until(lambda: all(each.get("status", {}).get("phase") for each in api.avatars))
    phases = [each["status"]["phase"] for each in api.avatars]
    assert len(api.jobs) == 1
    assert sorted(phases) == ["Scheduling"] + ["Waiting"] * 39
    assert len(operator.manager._store.gpu_uses(0.0)) == 1
