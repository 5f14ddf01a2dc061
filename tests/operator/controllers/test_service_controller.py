"""Tests of a reconcile, on a fake API server that can fail on request."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import time
from math import inf
from typing import TYPE_CHECKING

import pytest
from tests.operator.controllers.conftest import MASTER

from avatar_contracts import tokens
from avatar_operator.controllers.service_controller import HOLD_REMOVALS_S
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.manifests.objects import pdb
from avatar_operator.core.manifests.pod import hash_spec
from avatar_operator.core.resources.service import parse_service
from avatar_operator.core.text import rfc3339
from avatar_operator.core.workqueue import FIRST_DELAY_S

if TYPE_CHECKING:
    from tests.operator.controllers.conftest import Operator

    from avatar_operator.fence import Fence

GROUP = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE = f"{GROUP}/namespaces/acme/avatarservices/concierge"
STATUS = f"{SERVICE}/status"
PDB = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets/concierge-live"
PDBS_OF_TENANT = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets"
PODS = "/api/v1/namespaces/acme/pods"
SECRETS = "/api/v1/namespaces/acme/secrets"


async def test_a_new_service_gets_its_secret_its_pod_and_its_status(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingUp"))
    own = [("POST", SECRETS), ("POST", PDBS_OF_TENANT)]
    assert api.writes[:4] == [*own, ("POST", PODS), ("PATCH", STATUS)]
    assert operator.manager.is_ready()
    assert operator.manager.is_alive()
    await api.until(lambda: len(api.events) >= 2)
    reasons = [event["reason"] for event in api.events]
    assert reasons[:2] == ["PodCreated", "PodsStarting"]


async def test_the_objects_of_a_new_service_are_created_without_being_read(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.status)
    assert api.requests.count(f"{SECRETS}/concierge-control") == 0
    assert api.requests.count(PDBS_OF_TENANT) == 1


POLICIES = "/apis/networking.k8s.io/v1/namespaces/acme/networkpolicies"
RULES = '{"egress": [], "ingress": [], "policyTypes": ["Ingress", "Egress"]}'


@pytest.mark.parametrize("operator_environment", [{"AVATAR_NETWORK_POLICY": RULES}])
async def test_a_service_gets_its_network_policy_before_its_first_pod(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingUp"))
    assert api.writes.index(("POST", POLICIES)) < api.writes.index(("POST", PODS))
    del api.others[f"{POLICIES}/concierge-network"]
    await api.until(lambda: f"{POLICIES}/concierge-network" in api.others)  # after a resync


EGRESS = {"ports": [{"protocol": "TCP", "port": 443}]}
DOWNLOAD = {"url": "https://models.example.com/manifest.json", "sha256": "a" * 64}


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
@pytest.mark.parametrize(
    "operator_environment",
    [{"AVATAR_NETWORK_POLICY": RULES, "AVATAR_PREPARATION_EGRESS": json.dumps([EGRESS])}],
)
async def test_a_service_that_begins_to_download_may_connect_at_once(
    quiet_operator: Operator,
) -> None:
    operator, api = quiet_operator, quiet_operator.api
    operator.apply(replicas=1)
    await api.until(lambda: f"{POLICIES}/concierge-network" in api.others)
    assert api.others[f"{POLICIES}/concierge-network"]["spec"]["egress"] == []
    operator.apply(replicas=1, model={"source": {"download": DOWNLOAD}})
    policy = ("PATCH", f"{POLICIES}/concierge-network")
    await api.until(lambda: policy in api.writes)  # without a resync


@pytest.mark.parametrize("operator_environment", [{"AVATAR_NETWORK_POLICY": RULES}])
async def test_a_network_policy_of_somebody_else_stays_and_ours_has_another_name(
    operator: Operator,
) -> None:
    api = operator.api
    theirs = {"metadata": {"name": "concierge-network", "uid": "n", "resourceVersion": "1"}}
    api.others[f"{POLICIES}/concierge-network"] = theirs
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Degraded") == ("True", "NameTaken"))
    assert api.pods
    assert [path for path in api.others if path.startswith(POLICIES)] == [
        f"{POLICIES}/concierge-network",
        f"{POLICIES}/concierge-network-s1",
    ]
    assert api.others[f"{POLICIES}/concierge-network"] == theirs


DEFAULTS = '{"priorityClassName": "avatars"}'


@pytest.mark.parametrize("operator_environment", [{"AVATAR_RUNTIME_DEFAULTS": DEFAULTS}])
async def test_a_new_pod_has_the_defaults_of_the_chart(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingUp"))
    (pod,) = api.pods
    assert pod["spec"]["priorityClassName"] == "avatars"
    # The plan sees the same service, so the pod is not outdated from the start.
    await api.until(lambda: api.status)
    assert len(api.pods) == 1
    assert api.condition("Progressing") == ("True", "ScalingUp")


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_rejected_pod_is_reported_and_retried(quiet_operator: Operator) -> None:
    operator, api = quiet_operator, quiet_operator.api
    api.faults["POST", PODS] = (403, "exceeded quota")
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Degraded") == ("True", "QuotaExceeded"))
    assert api.pods == []
    del api.faults["POST", PODS]
    await api.until(lambda: api.pods and api.condition("Degraded") == ("False", "Applied"))


async def test_a_pod_that_already_exists_is_not_a_failure(operator: Operator) -> None:
    api = operator.api
    api.faults["POST", PODS] = (409, "already exists")
    operator.apply(replicas=1)
    await api.until(lambda: api.status)
    assert api.condition("Degraded") == ("False", "Applied")


async def test_an_invalid_spec_is_reported_in_the_status(operator: Operator) -> None:
    api = operator.api
    operator.apply(fps=7)
    await api.until(lambda: api.condition("Stalled") == ("True", "InvalidSpec"))
    assert "spec.fps is 7" in api.status["conditions"][0]["message"]


async def test_an_event_that_cannot_be_created_does_not_stop_the_reconcile(
    operator: Operator,
) -> None:
    api = operator.api
    api.faults["POST", "/api/v1/namespaces/acme/events"] = (403, "no")
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)


async def test_a_pod_that_never_started_is_deleted_on_a_scale_down(operator: Operator) -> None:
    api = operator.api
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: not api.pods)
    assert ("DELETE", f"{PODS}/{pod['metadata']['name']}") in api.writes
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))


async def test_a_running_pod_without_a_state_is_never_deleted(operator: Operator) -> None:
    api = operator.api
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    pod["status"] = {
        "phase": "Running",
        "podIP": "127.0.0.254",  # nothing listens there
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "runtime", "state": {"running": {}}}],
    }
    pod["spec"]["nodeName"] = "n1"
    operator.observe(Kind.PODS, api.stamp(pod))
    await api.until(lambda: api.condition("StateFresh") == ("False", "StateMissing"))
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingDown"))
    assert api.pods == [pod]
    assert not [write for write in api.writes if write[0] == "DELETE"]


async def test_the_pods_of_a_deleted_service_are_deleted_too(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    api.services = []
    operator.manager.observe_deletion(Kind.SERVICES, "s1")
    await api.until(lambda: not api.pods)


async def test_a_pod_that_is_observed_before_its_service_is_not_deleted(operator: Operator) -> None:
    api = operator.api
    service = api.stamp(operator.make.service_body(replicas=1))
    await api.until(lambda: operator.manager.is_ready())
    api.services = [service]
    pod = operator.make.pod_body()
    api.pods = [api.stamp(pod)]
    operator.observe(Kind.PODS, pod)
    await api.until(lambda: SERVICE in api.requests)
    assert not [write for write in api.writes if write[0] == "DELETE"]


async def test_a_field_that_another_manager_applies_is_reported_and_not_overwritten(
    operator: Operator,
) -> None:
    api = operator.api
    conflict = 'Apply failed with 1 conflict: conflict with "flux": .spec.minAvailable'
    api.faults["PATCH", PDB] = (409, conflict)
    applied = pdb(operator.make.service(), "concierge-live")
    applied["spec"] = {"minAvailable": 1}
    api.pdbs = [api.stamp(applied)]
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Degraded") == ("True", "FieldConflict"))
    assert api.condition("Ready") == ("True", "ScaledToZero")
    assert api.writes.count(("PATCH", PDB)) == 1
    del api.faults["PATCH", PDB]
    await api.until(lambda: api.condition("Degraded") == ("False", "Applied"))


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_names_that_objects_of_others_have_are_named_and_left_alone(
    quiet_operator: Operator,
) -> None:
    operator, api = quiet_operator, quiet_operator.api
    stranger = {"metadata": {"name": "concierge-control", "uid": "x"}, "data": {"mine": "eA=="}}
    api.secrets[f"{SECRETS}/concierge-control"] = copy.deepcopy(stranger)
    api.pdbs = [api.stamp({"metadata": {"name": "concierge-live", "uid": "y"}, "spec": {}})]
    foreign_pdb = copy.deepcopy(api.pdbs[0])
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("Degraded") == ("True", "NameTaken"))
    assert api.secrets[f"{SECRETS}/concierge-control"] == stranger
    assert foreign_pdb in api.pdbs
    assert f"{SECRETS}/concierge-control-s1" in api.secrets
    (pod,) = api.pods
    assert "concierge-control-s1" in str(pod["spec"])
    (degraded,) = [each for each in api.status["conditions"] if each["type"] == "Degraded"]
    assert "Secret concierge-control does not belong to this AvatarService" in degraded["message"]
    assert "PodDisruptionBudget concierge-live does not belong" in degraded["message"]
    await api.until(lambda: [each["reason"] for each in api.events].count("NameTaken") == 2)


async def test_a_pod_name_that_a_stranger_has_is_skipped_and_said(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (own,) = api.pods
    api.pods.remove(own)
    stranger = api.stamp({"metadata": {"name": own["metadata"]["name"], "uid": "x"}})
    api.strangers = [stranger]
    operator.manager.observe_deletion(Kind.PODS, own["metadata"]["uid"])
    await api.until(lambda: api.pods)
    assert api.pods[0]["metadata"]["name"] == own["metadata"]["name"][:-1] + "1"
    await api.until(lambda: "NameTaken" in [each["reason"] for each in api.events])


async def test_a_paused_service_only_gets_a_status(operator: Operator) -> None:
    api = operator.api
    body = operator.make.service_body(replicas=1)
    body["metadata"]["annotations"] = {"avatar.musetalk.io/paused": "true"}
    api.services = [api.stamp(body)]
    operator.observe(Kind.SERVICES, body)
    await api.until(lambda: api.condition("Progressing") == ("False", "Paused"))
    assert api.condition("Ready") == ("False", "Paused")
    assert {path for _, path in api.writes} <= {STATUS, "/api/v1/namespaces/acme/events"}
    del body["metadata"]["annotations"]
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: api.pods)


@pytest.mark.slow
async def test_the_first_plan_of_a_new_leader_removes_nothing(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    fence.close()
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    loop = asyncio.get_running_loop()
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    began_at = loop.time()
    await api.until(lambda: api.condition("Progressing") == ("True", "ScalingDown"))
    assert api.pods == [pod]  # the first plan writes this status
    await api.until(lambda: not api.pods)
    assert loop.time() - began_at >= HOLD_REMOVALS_S


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_failed_action_is_retried_without_any_change(quiet_operator: Operator) -> None:
    api = quiet_operator.api
    api.faults["POST", PODS] = (403, "exceeded quota")
    quiet_operator.apply(replicas=1)
    # More often than the writes of the status trigger it.
    await api.until(lambda: api.writes.count(("POST", PODS)) >= 6)
    assert api.condition("Degraded") == ("True", "QuotaExceeded")


def _delete_pod(operator: Operator) -> None:
    """Delete the only pod, as somebody else would."""
    (pod,) = operator.api.pods
    operator.api.pods.clear()
    operator.api.send_event("/api/v1/pods", "DELETED", pod)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_reconcile_that_changed_something_and_failed_is_retried_soon(
    quiet_operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    operator, api = quiet_operator, quiet_operator.api
    caplog.set_level(logging.WARNING, "avatar_operator.controllers.worker")
    api.faults["PATCH", STATUS] = (500, "no leader")
    operator.apply(replicas=1)
    await api.until(lambda: api.writes.count(("PATCH", STATUS)) >= 5)  # 0.1 s is doubled 4 times
    _delete_pod(operator)
    await api.until(lambda: api.pods)
    failed = api.writes.count(("PATCH", STATUS))
    await api.until(lambda: api.writes.count(("PATCH", STATUS)) > failed + 1)
    delays = [record.args[1] for record in caplog.records if isinstance(record.args, tuple)]
    retries = [delay for delay in delays if isinstance(delay, float)]
    longest = retries.index(max(retries))
    assert retries[longest] > 4 * FIRST_DELAY_S
    assert retries[longest + 1] <= FIRST_DELAY_S, retries


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_retry_does_not_check_the_control_secret_again(quiet_operator: Operator) -> None:
    operator, api = quiet_operator, quiet_operator.api
    api.faults["PATCH", STATUS] = (500, "no leader")
    operator.apply(replicas=1)
    await api.until(lambda: api.pods)
    secret = f"{SECRETS}/concierge-control"
    checks = api.requests.count(secret)
    _delete_pod(operator)
    await api.until(lambda: api.pods)
    assert api.requests.count(secret) == checks
    del api.faults["PATCH", STATUS]
    await api.until(lambda: api.status)
    _delete_pod(operator)  # of a service at rest
    await api.until(lambda: api.pods)
    assert api.requests.count(secret) > checks


STUCK = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "True"}],
    "containerStatuses": [
        {"name": "runtime", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "x"}}}
    ],
}


async def test_a_pod_that_does_not_start_is_recorded_and_not_tried_at_once(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods)
    pod = copy.deepcopy(api.pods[0])
    pod["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    pod["spec"]["nodeName"], pod["status"] = "n1", STUCK
    operator.observe(Kind.PODS, api.stamp(pod))
    await api.until(lambda: api.status.get("failures") and not api.pods)
    (failure,) = api.status["failures"]
    assert (failure["rounds"], failure["pods"]) == (1, 1)
    assert (failure["pod"], failure["message"]) == (pod["metadata"]["name"], "ImagePullBackOff: x")
    assert api.condition("Ready") == ("False", "PodsFailing")
    lists = api.lists
    await api.until(lambda: api.lists > lists + 1)  # the resyncs create no other pod
    assert api.pods == []


async def test_another_leader_reads_from_the_status_what_failed(stopped_operator: Operator) -> None:
    operator, api = stopped_operator, stopped_operator.api
    body = operator.make.service_body(replicas=1)
    spec_hash = hash_spec(parse_service(body), "runtime:1", tokens.generation(MASTER))
    at = rfc3339(time.time() + 3600)
    known = {"specHash": spec_hash, "rounds": 3, "pods": 1, "time": at, "pod": "p", "message": "x"}
    body["status"] = {"failures": [known]}
    api.services = [api.stamp(body)]
    operator.observe(Kind.SERVICES, body)
    operator.start()
    await api.until(lambda: api.condition("Ready") == ("False", "PodsFailing"))
    assert api.pods == []
    assert api.status["failures"][0]["rounds"] == 3
