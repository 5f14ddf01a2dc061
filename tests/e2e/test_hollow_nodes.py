"""Lost nodes, slow new pods and foreign namespaces: what puppets can play and processes cannot.

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

    from localcluster.fakes.simulated_cluster import Theatre

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

OURS: Final = ("acme", "globex")
FOREIGN: Final = "initech"
LIVE: Final = "avatar.musetalk.io/live"
RESERVE: Final = "avatar.musetalk.io/reserve"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    folder = tmp_path_factory.mktemp("puppets") / "cluster"
    async with (
        running(folder) as cluster,
        simulated_cluster.open_in(cluster, OURS) as opened,
    ):
        yield opened


async def test_services_of_other_namespaces_are_left_alone(stage: Theatre) -> None:
    await stage.cluster.kubectl("create", "namespace", FOREIGN)
    await stage.apply(FOREIGN, "theirs", replicas=1)
    for namespace in OURS:
        await stage.apply(namespace, "ours", replicas=1)
    for namespace in OURS:
        await stage.ready(namespace, "ours", pods=1)
    assert stage.status(FOREIGN, "theirs") == {}
    assert stage.pods.of(FOREIGN) == []
    for namespace in OURS:
        await stage.delete(namespace, "ours")
    writes = audit.read(stage.cluster.audit_log, operator_process.USER)
    namespaces = {write.namespace for write in writes} - {""}  # GPUProfiles have none
    assert namespaces == {operator_process.SYSTEM, *OURS}
    assert [write for write in writes if write.code == 403] == []


@pytest.mark.parametrize(
    ("verb", "resource", "where"),
    [
        ("create", "pods", "-n=initech"),
        ("delete", "pods", "-n=initech"),
        ("get", "secrets", "-n=initech"),
        ("patch", "avatarservices --subresource=status", "-n=initech"),
        ("create", "poddisruptionbudgets.policy", "-n=initech"),
        ("get", "secrets", "-A"),
        ("list", "secrets", "-n=acme"),
        ("list", "events", "-A"),
        ("list", "configmaps", "-A"),
    ],
)
async def test_operator_of_two_namespaces_may_not_reach_further(
    stage: Theatre, verb: str, resource: str, where: str
) -> None:
    asked = ("auth", "can-i", verb, *resource.split(), f"--as={operator_process.USER}")
    with pytest.raises(errors.CommandFailed):  # kubectl exits with 1 when the answer is no
        await stage.cluster.kubectl(*asked, where)
    if where == f"-n={FOREIGN}":
        assert await stage.cluster.kubectl(*asked, "-n=acme") == "yes\n"


async def test_pod_on_a_lost_node_is_replaced_and_comes_back_with_its_sessions(
    stage: Theatre,
) -> None:
    name = ("acme", "lost")
    await stage.apply(*name, replicas=1)
    await stage.ready(*name, pods=1)
    (first,) = stage.puppets(*name)
    await stage.stage.set_sessions(first, 3)
    await stage.until(lambda: marked(stage, *name) == {first.name}, "the pod is marked")

    await stage.stage.lose(first.node)
    said = f"{first.name} is on the lost node {first.node} with 3 sessions"
    await stage.until(
        lambda: any(said in message for message in stage.told(*name, "Ready")), "Ready says why not"
    )
    await stage.until(lambda: len(stage.puppets(*name)) == 2, "another pod comes")
    await stage.ready(*name, pods=1)
    assert stage.status(*name)["sessions"] == 0
    assert stage.condition(*name, "Degraded")["reason"] == "NodeLost"
    assert said in stage.condition(*name, "Degraded")["message"]
    await stage.until(lambda: marked(stage, *name) == set(), "its marks go", 20)
    # Nobody's sessions are in the way of an administrator who clears the dead pod away.
    await stage.cluster.kubectl("delete", "pod", first.name, "-n=acme", "--dry-run=server")

    await stage.stage.find(first.node)  # it was cut off only: its sessions went on
    await stage.until(lambda: marked(stage, *name) == {first.name}, "it is marked again")
    await stage.until(lambda: len(stage.pods_of(*name)) == 1, "the empty one goes")
    await stage.ready(*name, pods=1)
    assert stage.status(*name)["sessions"] == 3
    assert stage.puppets(*name) == [first]
    assert stage.condition(*name, "Degraded")["status"] == "False"
    await stage.stage.set_sessions(first, 0)
    await stage.delete(*name)
    assert stage.stage.cut == []


def marked(stage: Theatre, namespace: str, name: str) -> set[str]:
    """Return the pods of a service that carry the mark of live sessions."""
    pods = [pod["metadata"] for pod in stage.pods_of(namespace, name)]
    return {pod["name"] for pod in pods if pod["labels"].get(LIVE) == "true"}


async def test_rollout_halts_when_new_pods_are_slow_and_the_old_spec_brings_it_back(
    stage: Theatre,
) -> None:
    name = ("globex", "slow")
    await stage.apply(*name, replicas=2)
    await stage.ready(*name, pods=2)
    old = stage.puppets(*name)
    for puppet in old:
        await stage.stage.set_first_frame(puppet, 150)
        await stage.stage.set_sessions(puppet, 1)
    await stage.until(lambda: stage.status(*name)["sessions"] == 2, "two sessions")

    await stage.apply(*name, replicas=2, objective="latency")
    await stage.until(lambda: len(stage.puppets(*name)) > 2, "a new pod comes")
    (new,) = (puppet for puppet in stage.puppets(*name) if puppet not in old)
    await stage.stage.set_first_frame(new, 900)
    await stage.until(
        lambda: stage.condition(*name, "Progressing").get("reason") == "RolloutHalted",
        "the rollout halts",
    )
    why = "new pods are slower: first frame p95 900 ms, old pods 150 ms, allowed 2 times as much"
    assert (degraded := stage.condition(*name, "Degraded"))["reason"] == "NewPodsSlower"
    assert degraded["message"] == why
    halted = stage.condition(*name, "Progressing")["message"]
    assert halted == f"the rollout is halted, pods of the earlier spec continue to serve; {why}"
    assert stage.condition(*name, "Ready")["status"] == "True"
    await stage.until(lambda: not any(puppet.draining for puppet in old), "the old pods serve on")

    # Nobody talks to the new pod any more, so that it has no figure: the halt holds all the same.
    await stage.stage.set_first_frame(new, None)
    for puppet in old:
        await stage.stage.set_sessions(puppet, 0)
    await stage.until(lambda: stage.status(*name)["sessions"] == 0, "no sessions")
    assert stage.condition(*name, "Degraded")["message"] == why
    assert [puppet for puppet in stage.puppets(*name) if puppet.draining] == []

    await stage.apply(*name, replicas=2)
    await stage.until(lambda: stage.puppets(*name) == old, "only the old pods are left")
    await stage.ready(*name, pods=2)
    assert stage.condition(*name, "Degraded")["status"] == "False"
    await stage.delete(*name)
    assert stage.stage.cut == []


SHARING: Final = {
    "minReplicas": 1,
    "maxReplicas": 4,
    "freeSessions": {"min": 1, "percent": 0},
    "scaleDownAfterSeconds": 600,
    "sharedReserve": True,
}


async def test_a_reserve_is_shared_and_outlives_the_service_that_made_it(stage: Theatre) -> None:
    taker, keeper = ("acme", "taker"), ("acme", "keeper")
    await stage.apply(*taker, autoscaling=SHARING)
    await stage.ready(*taker, pods=1)
    await stage.apply(*keeper, autoscaling={**SHARING, "reserve": 1})
    await stage.ready(*keeper, pods=2)
    (own,) = stage.puppets(*taker)
    (warm,) = reserved(stage, *keeper)
    lent = stage.stage.puppets[warm["metadata"]["uid"]]

    await stage.stage.set_sessions(own, hollow_pods.CAPACITY)
    await stage.until(lambda: len(stage.pods_of(*taker)) == 2, "the taker has another pod")
    await stage.stage.set_sessions(lent, 1)  # a caller of the keeper who was on the way
    await stage.ready(*taker, pods=2)
    moved = next(each for each in stage.pods_of(*taker) if each["metadata"]["name"] == lent.name)
    assert moved["metadata"]["uid"] == warm["metadata"]["uid"]
    assert moved["metadata"]["labels"]["avatar.musetalk.io/made-for"] == "keeper"
    assert RESERVE not in moved["metadata"]["labels"]
    assert [owner["name"] for owner in moved["metadata"]["ownerReferences"]] == ["taker"]
    await stage.until(
        lambda: stage.status(*taker)["sessions"] == hollow_pods.CAPACITY + 1, "9 sessions"
    )
    await stage.until(lambda: lent.name in marked(stage, *taker), "it is protected")
    await stage.until(lambda: len(reserved(stage, *keeper)) == 1, "the keeper makes another one")
    await stage.ready(*keeper, pods=2)
    reasons = ("get", "events", "-n=acme", "-o", "jsonpath={.items[*].reason}")
    assert "PodAdopted" in (await stage.cluster.kubectl(*reasons)).split()

    await stage.delete(*keeper)  # and its pods, of which this one is none
    assert lent.name in {each["metadata"]["name"] for each in stage.pods_of(*taker)}
    assert stage.status(*taker)["sessions"] == hollow_pods.CAPACITY + 1
    assert len(lent.tokens) == 1  # the one that it was started with
    assert stage.stage.cut == []

    for puppet in (own, lent):
        await stage.stage.set_sessions(puppet, 0)
    await stage.until(lambda: marked(stage, *taker) == set(), "the marks go", 20)
    await stage.delete(*taker)
    assert stage.stage.cut == []
    writes = audit.read(stage.cluster.audit_log, operator_process.USER)
    assert [write for write in writes if write.code == 403] == []


async def test_where_no_gpu_is_free_the_reserve_is_taken_over_once_it_is_heard(
    stage: Theatre,
) -> None:
    taker, keeper, rest = ("globex", "taker"), ("globex", "keeper"), ("globex", "rest")
    await stage.apply(*taker, autoscaling=SHARING)
    await stage.ready(*taker, pods=1)
    await stage.apply(*keeper, autoscaling={**SHARING, "reserve": 1})
    await stage.ready(*keeper, pods=2)
    others = hollow_pods.GPUS * simulated_cluster.NODES - 3
    await stage.apply(*rest, replicas=others)
    await stage.ready(*rest, pods=others)
    (own,) = stage.puppets(*taker)
    (warm,) = reserved(stage, *keeper)
    lent = stage.stage.puppets[warm["metadata"]["uid"]]
    await stage.stage.set_mute([lent], True)
    said = f"no state for 3 s from {lent.name}"
    await stage.until(
        lambda: stage.condition(*keeper, "StateFresh")["message"] == said, "it is silent"
    )
    await stage.stage.set_sessions(own, hollow_pods.CAPACITY)
    await stage.until(
        lambda: stage.condition(*taker, "ScalingLimited").get("reason") == "NoFreeGPU",
        "the taker says what it lacks",
    )
    assert len(stage.pods_of(*taker)) == 1
    await stage.apply("acme", "other", replicas=0)
    await stage.ready("acme", "other", pods=0)  # by then nothing else wakes the taker
    await stage.stage.set_mute([lent], False)
    await stage.until(lambda: len(stage.pods_of(*taker)) == 2, "the taker has another pod")
    uids = {pod["metadata"]["uid"] for pod in stage.pods_of(*taker)}
    assert warm["metadata"]["uid"] in uids
    await stage.stage.set_sessions(own, 0)
    for service in (taker, keeper, rest, ("acme", "other")):
        await stage.delete(*service)
    assert stage.stage.cut == []


def reserved(stage: Theatre, namespace: str, name: str) -> list[dict[str, Any]]:
    """Return the pods of a service that are its reserve."""
    pods = stage.pods_of(namespace, name)
    return [pod for pod in pods if pod["metadata"]["labels"].get(RESERVE) == "true"]


async def test_pods_wait_for_nodes_to_come_and_say_so(stage: Theatre) -> None:
    name = ("globex", "grown")
    nodes = ("puppets-0", "puppets-1")
    await stage.cluster.kubectl("cordon", *nodes)  # no GPU is left
    await stage.apply(*name, replicas=1, placement={"whenFull": "createPending"})
    await stage.until(
        lambda: stage.condition(*name, "Ready").get("reason") == "WaitingForNode",
        "the service waits for a node",
    )
    (pod,) = stage.pods_of(*name)
    message = stage.condition(*name, "Ready")["message"]
    waiting = f"waiting for a node: {pod['metadata']['name']} (rtx-4090): not scheduled: 0/"
    assert message.startswith(waiting)
    assert "node puppets-0 excluded: cordoned" in message
    await stage.stage.join("puppets-2")
    await stage.ready(*name, pods=1)
    assert stage.pods_of(*name)[0]["spec"]["nodeName"] == "puppets-2"
    await stage.cluster.kubectl("uncordon", *nodes)
    await stage.delete(*name)
