"""Lost nodes, slow new pods and foreign namespaces, which hollow pods can simulate.

One operator process that may serve two namespaces, with its own account's rights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from localcluster import errors, operator_process
from localcluster.controlplane import audit
from localcluster.controlplane.cluster import running
from localcluster.fakes import hollow_pods, simulated_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.fakes.simulated_cluster import SimulatedCluster

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

OURS: Final = ("acme", "globex")
FOREIGN: Final = "initech"
LIVE: Final = "avatar.musetalk.io/live"
RESERVE: Final = "avatar.musetalk.io/reserve"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    folder = tmp_path_factory.mktemp("hollow") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, OURS) as opened,
    ):
        yield opened


async def test_services_of_other_namespaces_are_left_alone(simulated: SimulatedCluster) -> None:
    await simulated.cluster.kubectl("create", "namespace", FOREIGN)
    await simulated.apply(FOREIGN, "theirs", replicas=1)
    for namespace in OURS:
        await simulated.apply(namespace, "ours", replicas=1)
    for namespace in OURS:
        await simulated.ready(namespace, "ours", pods=1)
    status = simulated.status(FOREIGN, "theirs")  # as the CRD defaults it
    assert (status["observedGeneration"], status["state"]) == (-1, "NotReconciled")
    assert simulated.pods.of(FOREIGN) == []
    for namespace in OURS:
        await simulated.delete(namespace, "ours")
    writes = audit.read(simulated.cluster.audit_log, operator_process.USER)
    namespaces = {write.namespace for write in writes} - {""}  # GPUProfiles have none
    assert namespaces == {operator_process.SYSTEM, *OURS}
    assert [write for write in writes if write.code == 403] == []


async def test_a_node_ends_no_pod_that_has_the_name_of_one_that_has_ended(
    simulated: SimulatedCluster,
) -> None:
    pods = "/api/v1/namespaces/acme/pods"
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "9000"}}}
    body = {"metadata": {"name": "again"}, "spec": {"containers": [container]}}
    first = await simulated.api.post(pods, body)
    await simulated.api.delete(f"{pods}/again", {"gracePeriodSeconds": 0})
    second = await simulated.api.post(pods, body)
    await simulated.hollow_nodes._end_pod(first)  # a node may handle two events of a deleted pod
    left = (await simulated.api.get(f"{pods}/again"))["metadata"]
    assert (left["uid"], left.get("deletionTimestamp")) == (second["metadata"]["uid"], None)
    await simulated.api.delete(f"{pods}/again", {"gracePeriodSeconds": 0})


@pytest.mark.parametrize(
    ("verb", "resource", "where"),
    [
        ("create", "pods", "-n=initech"),
        ("delete", "pods", "-n=initech"),
        ("patch", "secrets", "-n=initech"),
        ("patch", "avatarservices --subresource=status", "-n=initech"),
        ("create", "poddisruptionbudgets.policy", "-n=initech"),
        ("get", "secrets", "-A"),
        ("list", "secrets", "-n=acme"),
        ("list", "events", "-A"),
        ("list", "configmaps", "-A"),
    ],
)
async def test_operator_of_two_namespaces_may_not_reach_further(
    simulated: SimulatedCluster, verb: str, resource: str, where: str
) -> None:
    asked = ("auth", "can-i", verb, *resource.split(), f"--as={operator_process.USER}")
    with pytest.raises(errors.CommandFailed):  # kubectl exits with 1 when the answer is no
        await simulated.cluster.kubectl(*asked, where)
    if where == f"-n={FOREIGN}":
        assert await simulated.cluster.kubectl(*asked, "-n=acme") == "yes\n"


async def test_pod_on_a_lost_node_is_replaced_and_comes_back_with_its_sessions(
    simulated: SimulatedCluster,
) -> None:
    name = ("acme", "lost")
    await simulated.apply(*name, replicas=1)
    await simulated.ready(*name, pods=1)
    (first,) = simulated.hollow_pods(*name)
    await simulated.hollow_nodes.set_sessions(first, 3)
    await simulated.until(lambda: marked(simulated, *name) == {first.name}, "the pod is marked")

    await simulated.hollow_nodes.disconnect(first.node)
    said = f"{first.name} is on the lost node {first.node} with 3 sessions"
    await simulated.until(
        lambda: any(said in message for message in simulated.messages(*name, "Ready")),
        "Ready says why not",
    )
    await simulated.until(lambda: len(simulated.hollow_pods(*name)) == 2, "another pod comes")
    await simulated.ready(*name, pods=1)
    assert simulated.status(*name)["sessions"] == 0
    assert simulated.condition(*name, "Degraded")["reason"] == "NodeLost"
    assert said in simulated.condition(*name, "Degraded")["message"]
    await simulated.until(lambda: marked(simulated, *name) == set(), "its marks go", 20)
    # Nobody's sessions are in the way of an administrator who clears the dead pod away.
    await simulated.cluster.kubectl("delete", "pod", first.name, "-n=acme", "--dry-run=server")

    await simulated.hollow_nodes.reconnect(first.node)  # it was cut off only: its sessions went on
    await simulated.until(lambda: marked(simulated, *name) == {first.name}, "it is marked again")
    await simulated.until(lambda: len(simulated.pods_of(*name)) == 1, "the empty one goes")
    await simulated.ready(*name, pods=1)
    assert simulated.status(*name)["sessions"] == 3
    assert simulated.hollow_pods(*name) == [first]
    assert simulated.condition(*name, "Degraded")["status"] == "False"
    await simulated.hollow_nodes.set_sessions(first, 0)
    await simulated.delete(*name)
    assert simulated.hollow_nodes.deleted_with_sessions == []


def marked(simulated: SimulatedCluster, namespace: str, name: str) -> set[str]:
    """Return the pods of a service that carry the mark of live sessions."""
    pods = [pod["metadata"] for pod in simulated.pods_of(namespace, name)]
    return {pod["name"] for pod in pods if pod["labels"].get(LIVE) == "true"}


async def test_rollout_halts_when_new_pods_are_slow_and_the_old_spec_brings_it_back(
    simulated: SimulatedCluster,
) -> None:
    name = ("globex", "slow")
    await simulated.apply(*name, replicas=2)
    await simulated.ready(*name, pods=2)
    old = simulated.hollow_pods(*name)
    for hollow_pod in old:
        await simulated.hollow_nodes.set_first_frame(hollow_pod, 150)
        await simulated.hollow_nodes.set_sessions(hollow_pod, 1)
    await simulated.until(lambda: simulated.status(*name)["sessions"] == 2, "two sessions")

    await simulated.apply(*name, replicas=2, objective="latency")
    await simulated.until(lambda: len(simulated.hollow_pods(*name)) > 2, "a new pod comes")
    (new,) = (hollow_pod for hollow_pod in simulated.hollow_pods(*name) if hollow_pod not in old)
    await simulated.hollow_nodes.set_first_frame(new, 900)
    await simulated.until(
        lambda: simulated.condition(*name, "Progressing").get("reason") == "RolloutHalted",
        "the rollout halts",
    )
    why = (
        "new pods are slower: "
        "first frame p95 is 900 ms, must be at most 2 times that of old pods, 150 ms"
    )
    assert (degraded := simulated.condition(*name, "Degraded"))["reason"] == "NewPodsSlower"
    assert degraded["message"] == why
    halted = simulated.condition(*name, "Progressing")["message"]
    assert halted == f"the rollout is halted, pods of the earlier spec continue to serve; {why}"
    assert simulated.condition(*name, "Ready")["status"] == "True"
    await simulated.until(
        lambda: not any(hollow_pod.draining for hollow_pod in old), "the old pods serve on"
    )

    # Nobody talks to the new pod any more, so that it has no figure: the halt holds all the same.
    await simulated.hollow_nodes.set_first_frame(new, None)
    for hollow_pod in old:
        await simulated.hollow_nodes.set_sessions(hollow_pod, 0)
    await simulated.until(lambda: simulated.status(*name)["sessions"] == 0, "no sessions")
    assert simulated.condition(*name, "Degraded")["message"] == why
    assert [hollow_pod for hollow_pod in simulated.hollow_pods(*name) if hollow_pod.draining] == []

    await simulated.apply(*name, replicas=2)
    await simulated.until(lambda: simulated.hollow_pods(*name) == old, "only the old pods are left")
    await simulated.ready(*name, pods=2)
    assert simulated.condition(*name, "Degraded")["status"] == "False"
    await simulated.delete(*name)
    assert simulated.hollow_nodes.deleted_with_sessions == []


SHARING: Final = {
    "minReplicas": 1,
    "maxReplicas": 4,
    "freeSessions": {"min": 1, "percent": 0},
    "scaleDownAfterSeconds": 600,
    "sharedReserve": True,
}


async def test_a_reserve_is_shared_and_outlives_the_service_that_made_it(
    simulated: SimulatedCluster,
) -> None:
    taker, keeper = ("acme", "taker"), ("acme", "keeper")
    await simulated.apply(*taker, autoscaling=SHARING)
    await simulated.ready(*taker, pods=1)
    await simulated.apply(*keeper, autoscaling={**SHARING, "reserve": 1})
    await simulated.ready(*keeper, pods=2)
    (own,) = simulated.hollow_pods(*taker)
    (warm,) = reserved(simulated, *keeper)
    lent = simulated.hollow_nodes.hollow_pods[warm["metadata"]["uid"]]

    await simulated.hollow_nodes.set_sessions(own, hollow_pods.CAPACITY)
    await simulated.until(lambda: len(simulated.pods_of(*taker)) == 2, "the taker has another pod")
    await simulated.hollow_nodes.set_sessions(lent, 1)  # a caller of the keeper who was on the way
    await simulated.ready(*taker, pods=2)
    moved = next(
        each for each in simulated.pods_of(*taker) if each["metadata"]["name"] == lent.name
    )
    assert moved["metadata"]["uid"] == warm["metadata"]["uid"]
    assert moved["metadata"]["labels"]["avatar.musetalk.io/made-for"] == "keeper"
    assert RESERVE not in moved["metadata"]["labels"]
    assert [owner["name"] for owner in moved["metadata"]["ownerReferences"]] == ["taker"]
    await simulated.until(
        lambda: simulated.status(*taker)["sessions"] == hollow_pods.CAPACITY + 1, "9 sessions"
    )
    await simulated.until(lambda: lent.name in marked(simulated, *taker), "it is protected")
    await simulated.until(
        lambda: len(reserved(simulated, *keeper)) == 1, "the keeper makes another one"
    )
    await simulated.ready(*keeper, pods=2)
    reasons = ("get", "events", "-n=acme", "-o", "jsonpath={.items[*].reason}")
    assert "PodAdopted" in (await simulated.cluster.kubectl(*reasons)).split()

    await simulated.delete(*keeper)  # and its pods, of which this one is none
    assert lent.name in {each["metadata"]["name"] for each in simulated.pods_of(*taker)}
    assert simulated.status(*taker)["sessions"] == hollow_pods.CAPACITY + 1
    assert len(lent.tokens) == 1  # the one that it was started with
    assert simulated.hollow_nodes.deleted_with_sessions == []

    for hollow_pod in (own, lent):
        await simulated.hollow_nodes.set_sessions(hollow_pod, 0)
    await simulated.until(lambda: marked(simulated, *taker) == set(), "the marks go", 20)
    await simulated.delete(*taker)
    assert simulated.hollow_nodes.deleted_with_sessions == []
    writes = audit.read(simulated.cluster.audit_log, operator_process.USER)
    assert [write for write in writes if write.code == 403] == []


async def test_where_no_gpu_is_free_the_reserve_is_taken_over_once_it_is_heard(
    simulated: SimulatedCluster,
) -> None:
    taker, keeper, rest = ("globex", "taker"), ("globex", "keeper"), ("globex", "rest")
    await simulated.apply(*taker, autoscaling=SHARING)
    await simulated.ready(*taker, pods=1)
    await simulated.apply(*keeper, autoscaling={**SHARING, "reserve": 1})
    await simulated.ready(*keeper, pods=2)
    others = hollow_pods.GPUS * simulated_cluster.NODES - 3
    await simulated.apply(*rest, replicas=others)
    await simulated.ready(*rest, pods=others)
    (own,) = simulated.hollow_pods(*taker)
    (warm,) = reserved(simulated, *keeper)
    lent = simulated.hollow_nodes.hollow_pods[warm["metadata"]["uid"]]
    await simulated.hollow_nodes.set_silent([lent], True)
    said = f"no state for 3.5 s from {lent.name}"
    await simulated.until(
        lambda: simulated.condition(*keeper, "StateFresh")["message"] == said, "it is silent"
    )
    await simulated.hollow_nodes.set_sessions(own, hollow_pods.CAPACITY)
    await simulated.until(
        lambda: simulated.condition(*taker, "ScalingLimited").get("reason") == "NoFreeGPU",
        "the taker says what it lacks",
    )
    assert len(simulated.pods_of(*taker)) == 1
    await simulated.apply("acme", "other", replicas=0)
    await simulated.ready("acme", "other", pods=0)  # by then nothing else wakes the taker
    await simulated.hollow_nodes.set_silent([lent], False)
    await simulated.until(lambda: len(simulated.pods_of(*taker)) == 2, "the taker has another pod")
    uids = {pod["metadata"]["uid"] for pod in simulated.pods_of(*taker)}
    assert warm["metadata"]["uid"] in uids
    await simulated.hollow_nodes.set_sessions(own, 0)
    for service in (taker, keeper, rest, ("acme", "other")):
        await simulated.delete(*service)
    assert simulated.hollow_nodes.deleted_with_sessions == []


def reserved(simulated: SimulatedCluster, namespace: str, name: str) -> list[dict[str, Any]]:
    """Return the pods of a service that are its reserve."""
    pods = simulated.pods_of(namespace, name)
    return [pod for pod in pods if pod["metadata"]["labels"].get(RESERVE) == "true"]


async def test_pods_wait_for_nodes_to_come_and_say_so(simulated: SimulatedCluster) -> None:
    name = ("globex", "grown")
    nodes = ("hollow-node-0", "hollow-node-1")
    await simulated.cluster.kubectl("cordon", *nodes)  # no GPU is left
    await simulated.apply(*name, replicas=1, placement={"whenFull": "createPending"})
    await simulated.until(
        lambda: simulated.condition(*name, "Ready").get("reason") == "WaitingForNode",
        "the service waits for a node",
    )
    (pod,) = simulated.pods_of(*name)
    message = simulated.condition(*name, "Ready")["message"]
    waiting = f"waiting for a node: {pod['metadata']['name']} (rtx-4090): not scheduled: 0/"
    assert message.startswith(waiting)
    assert "nodes hollow-node-0 and hollow-node-1 excluded: cordoned" in message
    await simulated.hollow_nodes.add_node("hollow-node-2")
    await simulated.ready(*name, pods=1)
    assert simulated.pods_of(*name)[0]["spec"]["nodeName"] == "hollow-node-2"
    await simulated.cluster.kubectl("uncordon", *nodes)
    await simulated.delete(*name)
