"""Tests of the manager: start, leadership, lists and watches, on a fake API server."""

from __future__ import annotations

import asyncio
import copy
from math import inf
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from avatar_contracts.tokens import control_token
from avatar_operator import names
from avatar_operator.controllers import (
    key_controller,
    manager,
    service_controller,
    status_loop,
    worker,
)
from avatar_operator.controllers.service_controller import HOLD_REMOVALS_S
from avatar_operator.core.cache import watch_health
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.keys import KeyRing
from avatar_operator.kube import informers

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make
    from tests.operator.controllers.conftest import Operator

    from avatar_operator.fence import Fence

MASTER = "a-master-key-of-the-operator"
GROUP = "/apis/avatar.musetalk.io/v1alpha1"
SERVICE = f"{GROUP}/namespaces/acme/avatarservices/concierge"
STATUS = f"{SERVICE}/status"
PDB = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets/concierge-live"
PODS = "/api/v1/namespaces/acme/pods"
JOBS = "/apis/batch/v1/jobs"
PDBS = "/apis/policy/v1/poddisruptionbudgets"
PDBS_OF_TENANT = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets"


@pytest.mark.slow
async def test_resyncs_of_a_service_at_rest_write_nothing(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    await api.until(lambda: api.events)
    writes, lists = list(api.writes), api.lists
    await api.until(lambda: api.lists >= lists + 2)
    assert api.writes == writes


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_second_list_soon_follows_the_first(operator: Operator) -> None:
    await operator.api.until(lambda: operator.api.lists >= 2)
    assert operator.manager.is_ready()


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
@pytest.mark.parametrize("event_type", ["MODIFIED", "DELETED"])
async def test_a_pdb_changed_by_someone_else_is_soon_applied_again(
    operator: Operator, event_type: str
) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    await api.until(lambda: PDBS in api.watches)
    (pdb,) = copy.deepcopy(api.pdbs)
    write = ("PATCH", PDB) if event_type == "MODIFIED" else ("POST", PDBS_OF_TENANT)
    writes = api.writes.count(write)
    api.send_event(PDBS, "MODIFIED", api.stamp(copy.deepcopy(pdb)))  # correct
    pdb["spec"]["minAvailable"] = 0
    api.pdbs[:] = [pdb] if event_type == "MODIFIED" else []
    api.send_event(PDBS, event_type, api.stamp(pdb))
    await api.until(lambda: api.writes.count(write) == writes + 1)


@pytest.mark.slow
async def test_a_deletion_that_the_watch_missed_is_found_by_the_next_list(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    first = api.pods.pop()
    await api.until(lambda: api.pods)  # the deletion was found and the pod replaced
    assert api.pods[0]["metadata"]["name"] == first["metadata"]["name"]


@pytest.mark.slow
async def test_a_deleted_service_is_forgotten(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.events)
    api.services = []
    operator.manager.observe_deletion(Kind.SERVICES, "s1")
    operator.observe(Kind.NODES, operator.make.node_body("n2"))
    writes, lists = len(api.writes), api.lists
    await api.until(lambda: api.lists >= lists + 2)
    assert len(api.writes) == writes


@pytest.mark.slow
async def test_the_operator_waits_for_a_missing_crd(operator: Operator) -> None:
    api = operator.api
    api.faults["GET", f"{GROUP}/avatarservices"] = (404, "no such kind")
    operator.apply(replicas=0)
    await api.until(lambda: f"{GROUP}/avatarservices" in api.requests)
    assert not operator.manager.is_ready()
    assert api.writes == []
    del api.faults["GET", f"{GROUP}/avatarservices"]
    await api.until(lambda: api.status)
    assert operator.manager.is_ready()


@pytest.mark.slow
async def test_a_pdb_that_was_changed_by_someone_else_is_applied_again(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.pdbs)
    api.pdbs[0] = {**api.pdbs[0], "spec": {"minAvailable": 1}}
    await api.until(lambda: api.pdbs[0]["spec"]["minAvailable"] == 1_000_000)


async def test_a_standby_lists_everything_and_writes_nothing(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    fence.close()
    operator.apply(replicas=1)
    lists = api.lists
    await api.until(lambda: api.lists > lists + 1)  # the previous resync has ended
    assert operator.manager.is_ready()
    assert api.writes == []
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    await api.until(lambda: api.pods and api.status)
    (pod,) = api.pods
    assert pod["metadata"]["annotations"]["avatar.musetalk.io/epoch"] == "8"


async def test_a_leader_that_was_interrupted_continues_when_it_leads_again(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.status)
    fence.close()
    operator.manager.lead(None)
    body = operator.apply(replicas=1)
    writes = list(api.writes)
    lists = api.lists
    await api.until(lambda: api.lists > lists)
    assert api.writes == writes
    fence.open_until(inf, epoch=9)  # a late renewal: no other replica led, no new election
    await api.until(lambda: api.pods)
    assert body["spec"]["replicas"] == 1


@pytest.mark.slow
async def test_leading_again_under_the_same_epoch_is_not_a_new_term(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    body = operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    loop = asyncio.get_running_loop()
    settled_at = loop.time() + HOLD_REMOVALS_S  # after the first plan of the term
    await api.until(lambda: api.lists >= 3 and loop.time() > settled_at)
    fence.close()
    operator.manager.lead(None)
    body["spec"]["replicas"] = 0
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    writes = len(api.writes)
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    await api.until(lambda: not api.pods)
    assert (
        api.writes[writes][0] == "DELETE"
    )  # the first plan may remove pods, unlike that of a new leader


def running(pod: Body) -> Body:
    """Return a pod with the status that a kubelet writes."""
    pod["spec"]["nodeName"] = "n1"
    pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return pod


async def test_pods_are_watched_from_the_version_of_their_list(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and "/api/v1/pods" in api.watches)
    assert sorted(path for path, _ in api.watched_from) == [
        *("/api/v1/nodes", "/api/v1/pods"),
        JOBS,
        PDBS,
    ]
    assert all(int(version) >= 100 for _, version in api.watched_from)
    api.send_event("/api/v1/pods", "MODIFIED", api.stamp(running(copy.deepcopy(api.pods[0]))))
    await api.until(lambda: api.condition("Ready") == ("True", "Serving"))
    first = api.pods.pop()
    api.send_event("/api/v1/pods", "DELETED", api.stamp(first))
    await api.until(lambda: api.pods)


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_broken_watch_continues_from_its_last_version(operator: Operator) -> None:
    api = operator.api
    await api.until(lambda: "/api/v1/pods" in api.watches)
    bookmark = {"metadata": {"resourceVersion": "4711"}}
    api.send_event("/api/v1/pods", "BOOKMARK", bookmark)
    api.watches["/api/v1/pods"].put_nowait({})  # it ends
    await api.until(lambda: ("/api/v1/pods", "4711") in api.watched_from)
    assert api.requests.count("/api/v1/pods") == 1  # listed once


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_an_expired_watch_is_listed_again_and_missed_deletions_are_found(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status and "/api/v1/pods" in api.watches)
    api.pods.clear()  # without an event, and the next list is empty
    api.send_event("/api/v1/pods", "ERROR", {"code": 410, "message": "too old resource version"})
    await api.until(lambda: api.pods)
    assert api.requests.count("/api/v1/pods") == 2


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_services_are_listed_again_when_any_watch_ends(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status and "/api/v1/pods" in api.watches)
    api.services = []  # without an event: the cause that ended the watch of pods ended kopf's too
    api.watches["/api/v1/pods"].put_nowait({})
    await api.until(lambda: not api.pods)
    # At startup, when the watch ended, and the second list after startup.
    await api.until(lambda: api.requests.count(f"{GROUP}/avatarservices") == 3)


SECRET = "/api/v1/namespaces/system/secrets/control"


async def test_the_master_key_is_read_before_anything_is_listed(
    stopped_operator: Operator,
) -> None:
    api, manager = stopped_operator.api, stopped_operator.manager
    assert manager.keys is None
    stopped_operator.start()
    await api.until(manager.is_ready)
    assert manager.keys == KeyRing(MASTER)
    assert api.requests[0] == SECRET


async def test_a_pod_that_was_observed_before_the_start_is_followed(
    stopped_operator: Operator, make: Make
) -> None:
    received: asyncio.Queue[str] = asyncio.Queue()

    async def state(request: web.Request) -> web.Response:
        received.put_nowait(request.headers["Authorization"])
        return web.Response()

    address = "127.0.9.17"  # the port is fixed, so the address belongs to this test alone
    application = web.Application()
    application.router.add_get("/control/v1/state", state)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, names.ADMIN_PORT).start()
    pod = make.pod_body("p0", status={"podIP": address})
    stopped_operator.observe(Kind.PODS, pod)
    stopped_operator.start()
    token = control_token(MASTER, "acme/concierge")
    async with asyncio.timeout(10):
        assert await received.get() == f"Bearer {token}"
    await runner.cleanup()


async def test_a_standby_waits_until_the_leader_has_created_the_master_key(
    stopped_operator: Operator, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_controller, "WAIT_S", 0.01)
    api = stopped_operator.api
    fence.close()
    api.faults["GET", SECRET] = (404, "not found")
    stopped_operator.start()
    await api.until(lambda: api.requests.count(SECRET) >= 3)
    assert stopped_operator.manager.keys is None
    assert set(api.requests) == {SECRET}
    assert stopped_operator.manager.is_alive()
    del api.faults["GET", SECRET]
    await api.until(stopped_operator.manager.is_ready)
    assert stopped_operator.manager.keys == KeyRing(MASTER)


async def test_an_operator_that_waits_for_the_master_key_is_alive_and_not_ready(
    stopped_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_controller, "RETRY_S", 0.05)
    monkeypatch.setattr(manager, "STALLED_S", 0.3)
    monkeypatch.setattr(manager, "TICK_S", 0.01)
    api = stopped_operator.api
    api.faults["GET", SECRET] = (403, "forbidden")
    stopped_operator.start()
    await api.until(lambda: api.requests.count(SECRET) >= 12)  # twice as long as STALLED_S
    assert stopped_operator.manager.is_alive()
    assert not stopped_operator.manager.is_ready()


async def test_a_master_key_that_cannot_be_read_is_logged_and_read_again(
    stopped_operator: Operator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_controller, "RETRY_S", 0.01)
    api = stopped_operator.api
    api.faults["GET", SECRET] = (403, "forbidden")
    stopped_operator.start()
    await api.until(lambda: api.requests.count(SECRET) >= 2)
    assert "waiting for the master key in Secret system/control" in caplog.text
    assert "forbidden" in stopped_operator.manager.waits_for
    del api.faults["GET", SECRET]
    await api.until(stopped_operator.manager.is_ready)


async def test_the_metrics_of_services_are_removed_when_the_leadership_is_lost(
    operator: Operator, fence: Fence
) -> None:
    api = operator.api
    series = 'avatar_operator_desired_replicas{namespace="acme",service="concierge"}'
    operator.apply(replicas=1)
    await api.until(lambda: api.status)
    assert f"{series} 1.0" in operator.metrics.render().decode()
    fence.close()
    operator.manager.lead(None)
    assert series not in operator.metrics.render().decode()


async def test_the_metrics_of_a_deleted_service_are_removed(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.status)
    assert "avatar_operator_desired_replicas{" in operator.metrics.render().decode()
    api.services = []
    operator.manager.observe_deletion(Kind.SERVICES, "s1")
    assert "avatar_operator_desired_replicas{" not in operator.metrics.render().decode()


@pytest.mark.slow
async def test_a_new_number_of_pods_counts_as_one_scaling_decision(operator: Operator) -> None:
    api = operator.api

    def decisions(action: str) -> str:
        text = operator.metrics.render().decode()
        name = f'avatar_operator_decisions_total{{action="{action}"}} '
        return next(line for line in text.splitlines() if line.startswith(name)).split()[-1]

    body = operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    assert (decisions("ScaleUp"), decisions("ScaleDown")) == ("0.0", "0.0")
    body["spec"]["replicas"] = 1
    body["metadata"]["generation"] = 4
    operator.observe(Kind.SERVICES, api.stamp(body))
    await api.until(lambda: api.status.get("desiredReplicas") == 1)
    await api.until(lambda: decisions("ScaleUp") != "0.0")
    assert (decisions("ScaleUp"), decisions("ScaleDown")) == ("1.0", "0.0")
    text = operator.metrics.render().decode()
    assert 'avatar_operator_actions_total{action="CreatePod"} 1.0' in text


async def test_an_invalid_profile_is_logged(
    operator: Operator, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    operator.observe(Kind.PROFILES, make.profile_body(curves=[{"model": "m"}]))
    assert "object is not used" in caplog.text
    assert "frameBatchMs" in caplog.text


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_new_node_lets_every_service_plan_again(operator: Operator) -> None:
    api = operator.api
    operator.api.nodes.clear()
    operator.apply(replicas=1)
    await api.until(lambda: api.condition("GPUAvailable")[0] == "False")
    assert api.pods == []
    operator.observe(Kind.NODES, api.stamp(operator.make.node_body()))
    await api.until(lambda: api.pods)


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_deleted_node_lets_every_service_plan_again(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=3)
    await api.until(lambda: api.pods)
    operator.observe(Kind.PODS, api.stamp(running(copy.deepcopy(api.pods[0]))))
    await api.until(lambda: api.status and len(api.pods) == 2)
    before = api.status["conditions"]
    operator.manager.observe_deletion(Kind.NODES, "n1")
    api.nodes.clear()
    await api.until(lambda: api.status["conditions"] != before)


async def test_the_correct_pdb_of_another_service_is_not_ours(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    operator.manager.on_pdb("unknown", None)
    operator.manager.on_pdb("uid-pdb", "s1")
    api.pdbs.clear()
    writes = len(api.writes)
    operator.manager.on_pdb("uid-pdb", "s2")
    await api.until(lambda: ("POST", PDBS_OF_TENANT) in api.writes[writes:])


PROFILE_STATUS = ("PATCH", f"{GROUP}/gpuprofiles/rtx-4090/status")


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_changed_status_of_a_profile_is_corrected(operator: Operator) -> None:
    api = operator.api
    await api.until(operator.manager.is_ready)
    condition = {"type": "NodesRecognised", "status": "False", "reason": "LabelsAmbiguous"}
    body = {**operator.make.profile_body(), "status": {"conditions": [condition]}}
    operator.observe(Kind.PROFILES, api.stamp(body))
    await api.until(lambda: PROFILE_STATUS in api.writes)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_node_that_fits_two_profiles_is_reported_in_their_status(
    stopped_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_loop, "DELAY_S", 0.0)
    api = stopped_operator.api
    api.nodes.clear()
    api.profiles.append(stopped_operator.make.profile_body("twin"))
    stopped_operator.start()
    await api.until(stopped_operator.manager.is_ready)
    for _ in range(20):  # the checks that the first list triggered
        await asyncio.sleep(0)
    assert PROFILE_STATUS not in api.writes
    stopped_operator.observe(Kind.NODES, api.stamp(stopped_operator.make.node_body()))
    await api.until(lambda: PROFILE_STATUS in api.writes)


@pytest.mark.slow
async def test_a_deleted_control_secret_is_applied_again_after_a_resync(
    operator: Operator,
) -> None:
    api = operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    secret = "/api/v1/namespaces/acme/secrets/concierge-control"
    del api.secrets[secret]
    await api.until(lambda: secret in api.secrets)


async def test_a_blocked_event_loop_is_not_alive(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operator.api.until(operator.manager.is_ready)
    assert operator.manager.is_alive()
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + manager.STALLED_S + manager.TICK_S)
    assert not operator.manager.is_alive()


@pytest.mark.slow
async def test_a_frozen_watch_is_not_alive(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_health, "FROZEN_S", 0.0)
    api = operator.api
    await api.until(lambda: operator.manager.is_ready() and api.lists >= 2)
    assert operator.manager.is_alive()
    pod = operator.make.pod_body("p0")
    api.pods.append(pod)

    def is_frozen() -> bool:
        api.stamp(pod)  # each list finds another version, and no event reports it
        return not operator.manager.is_alive()

    await api.until(is_frozen)


async def test_a_new_leader_deletes_orphans_immediately(
    operator: Operator, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CHECK_S", 3600.0)
    api = operator.api
    fence.close()
    await api.until(operator.manager.is_ready)
    api.pods.append(api.stamp(operator.make.pod_body("p0")))
    operator.observe(Kind.PODS, api.pods[0])
    await asyncio.sleep(0)
    fence.open_until(inf, epoch=8)
    operator.manager.lead(8)
    await api.until(lambda: not api.pods)


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_the_pods_of_a_deleted_service_at_rest_are_deleted(operator: Operator) -> None:
    api = operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and "/api/v1/pods" in api.watches)
    pod = api.stamp(running(copy.deepcopy(api.pods[0])))
    api.pods[:] = [pod]
    api.send_event("/api/v1/pods", "MODIFIED", pod)
    await api.until(lambda: api.condition("Ready") == ("True", "Serving"))
    api.services = []
    operator.manager.observe_deletion(Kind.SERVICES, "s1")
    await api.until(lambda: not api.pods)


DESIRED = 'avatar_operator_desired_replicas{namespace="acme",service="concierge"}'


async def until_exported(operator: Operator, series: str) -> None:
    async with asyncio.timeout(10):
        # A reconcile at rest sends no request that could be awaited.
        while series not in operator.metrics.render().decode():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_new_leader_reconciles_services_at_rest(
    quiet_operator: Operator, fence: Fence
) -> None:
    operator, api = quiet_operator, quiet_operator.api
    operator.apply(replicas=0)
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    for epoch in (8, 8, 9):  # the second time without another leader in between
        fence.close()
        operator.manager.lead(None)
        assert DESIRED not in operator.metrics.render().decode()
        fence.open_until(inf, epoch=epoch)
        operator.manager.lead(epoch)
        await until_exported(operator, DESIRED)


@pytest.mark.slow
@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_new_leader_does_not_wait_indefinitely_for_the_state_of_a_pod(
    quiet_operator: Operator, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_controller, "SETTLE_S", 0.5)
    operator, api = quiet_operator, quiet_operator.api
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and "/api/v1/pods" in api.watches)
    pod = running(copy.deepcopy(api.pods[0]))
    pod["status"] |= {
        "podIP": "127.0.0.254",  # nothing listens there
        "containerStatuses": [{"name": "runtime", "state": {"running": {}}}],
    }
    api.pods[:] = [api.stamp(pod)]
    api.send_event("/api/v1/pods", "MODIFIED", pod)
    await api.until(lambda: api.condition("StateFresh") == ("False", "StateMissing"))
    operator.manager.lead(None)
    fence.open_until(inf, epoch=9)
    operator.manager.lead(9)
    await until_exported(operator, DESIRED)


@pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)
async def test_a_service_that_lacks_gpus_uses_those_that_a_foreign_pod_frees(
    stopped_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informers, "SECOND_LIST_S", 3600.0)
    api = stopped_operator.api
    foreign = stopped_operator.make.pod_body("foreign", gpus=2)
    foreign["metadata"]["labels"] = {}
    api.pods.append(api.stamp(foreign))
    stopped_operator.start()
    stopped_operator.apply(replicas=1)
    await api.until(lambda: api.condition("GPUAvailable") == ("False", "NoFreeGPU"))
    await api.until(lambda: "/api/v1/pods" in api.watches)
    api.pods.clear()
    api.send_event("/api/v1/pods", "DELETED", api.stamp(foreign))
    await api.until(lambda: api.pods)
