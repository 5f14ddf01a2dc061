"""Rotation and loss of the master key, moves of the release, and the rights of the components.

The control plane, the scheduler, the operator process and its rights are real. The runtime pods are
hollow: they accept exactly the tokens of the Secret that they mount.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
import pytest_asyncio

from avatar_contracts import tokens
from localcluster import errors, operator_process, paths, waiting
from localcluster.controlplane import kubeapi
from localcluster.controlplane.cluster import running
from localcluster.fakes.hollow_pods import HollowNodes
from localcluster.fakes.simulated_cluster import SimulatedCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.fakes.hollow_pods import HollowPod

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TENANT: Final = "acme"
NEXT: Final = "avatar-next"  # as in docs/operations.md
LAST: Final = "avatar-last"
MASTER: Final = "avatar-avatar-operator-control"
GATEWAY_KEY: Final = "avatar-avatar-operator-gateway-key"
GENERATION: Final = "avatar.musetalk.io/key-generation"


@contextlib.asynccontextmanager
async def operating(cluster: ControlPlane, system: str) -> AsyncIterator[None]:
    path = await operator_process.kubeconfig(cluster, f"operator-{system}", cluster.server, system)
    options = {"name": system, "system": system, "key_refresh_s": 1.0}
    async with operator_process.operating(cluster, path, **options):
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedCluster]:
    """Run a cluster with the chart, hollow pods that check tokens, and no operator."""
    folder = tmp_path_factory.mktemp("keys") / "cluster"
    async with running(folder) as cluster:
        await cluster.kubectl("create", "namespace", TENANT)
        await operator_process.install_chart(cluster)
        async with kubeapi.connected(cluster) as api:
            nodes = HollowNodes(api, 2, check_tokens=True)
            async with SimulatedCluster(cluster, api, nodes).running() as opened:
                yield opened


async def secret(cluster: ControlPlane, namespace: str, name: str) -> dict[str, str]:
    found = json.loads(await cluster.kubectl("get", "secret", name, f"-n{namespace}", "-ojson"))
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def documented(title: str) -> list[str]:
    """Return the blocks of commands in a section of docs/operations.md."""
    page = (paths.REPOSITORY / "docs" / "operations.md").read_text()
    text = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S)
    assert blocks
    return blocks


async def follow(cluster: ControlPlane, commands: str) -> str:
    """Run commands as they are printed, and return their output."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", commands),
        env=cluster.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{output.decode()}\n--- of\n{commands}"
    return output.decode()


async def busy(simulated: SimulatedCluster, name: str) -> HollowPod:
    """Start a service of two pods, one of them with sessions, and return that pod."""
    await simulated.apply(TENANT, name, replicas=2)
    await simulated.ready(TENANT, name, pods=2)
    first = simulated.hollow_pods(TENANT, name)[0]
    await simulated.hollow_nodes.set_sessions(first, 3)
    await simulated.until(lambda: simulated.status(TENANT, name)["sessions"] == 3, "its sessions")
    return first


def generations(simulated: SimulatedCluster, name: str) -> dict[str, str]:
    """Return the generation of each pod that is not being deleted."""
    return {
        pod["metadata"]["name"]: pod["metadata"]["labels"].get(GENERATION, "")
        for pod in simulated.pods_of(TENANT, name)
        if "deletionTimestamp" not in pod["metadata"]
    }


async def all_replaced_but(simulated: SimulatedCluster, name: str, first: HollowPod) -> None:
    """Wait until only the pod with sessions is of the earlier key, then end its sessions."""

    def holds() -> bool:
        rest = dict(generations(simulated, name))
        old = rest.pop(first.name, "")
        return len(rest) == 2 and set(rest.values()) != {old} and first.draining

    await simulated.until(holds, "only the pod with sessions is left of the earlier key", 60)
    assert first.sessions == 3
    assert simulated.hollow_nodes.deleted_with_sessions == []
    await simulated.hollow_nodes.set_sessions(first, 0)
    await simulated.ready(TENANT, name, pods=2)
    assert len(set(generations(simulated, name).values())) == 1
    assert simulated.hollow_nodes.deleted_with_sessions == []


async def test_a_rotation_replaces_all_pods_and_cuts_no_session(
    simulated: SimulatedCluster,
) -> None:
    cluster = simulated.cluster
    async with operating(cluster, operator_process.SYSTEM):
        first = await busy(simulated, "rotated")
        old = (await secret(cluster, operator_process.SYSTEM, MASTER))["master"]
        rotate, show, finish = documented("Rotate the master key")
        await follow(cluster, rotate)
        stored = await secret(cluster, operator_process.SYSTEM, MASTER)
        new = stored["master"]
        assert (stored["previous"], new != old) == (old, True)
        await all_replaced_but(simulated, "rotated", first)
        assert set(generations(simulated, "rotated").values()) == {tokens.generation(new)}
        keys = await secret(cluster, operator_process.SYSTEM, GATEWAY_KEY)
        assert keys == {"key": tokens.gateway_key(new), "previous-key": tokens.gateway_key(old)}
        assert tokens.generation(new) in await follow(cluster, show)
        assert tokens.generation(old) not in await follow(cluster, show)
        before = generations(simulated, "rotated")
        await follow(cluster, finish)
        found = ("get", "secret", "rotated-control", f"-n{TENANT}", "-ojsonpath={.data}")
        await waiting.until(
            lambda: cluster.kubectl(*found), lambda data: "previous" not in data, "one key", 30
        )
        assert generations(simulated, "rotated") == before  # no second rollout
        await simulated.delete(TENANT, "rotated")


async def test_a_lost_secret_is_created_again_with_the_same_keys(
    simulated: SimulatedCluster,
) -> None:
    cluster = simulated.cluster
    async with operating(cluster, operator_process.SYSTEM):
        await simulated.apply(TENANT, "kept", replicas=1)
        await simulated.ready(TENANT, "kept", pods=1)
        before = await secret(cluster, operator_process.SYSTEM, MASTER)
        names = set(generations(simulated, "kept"))
        await cluster.kubectl("delete", "secret", MASTER, f"-n{operator_process.SYSTEM}")
        found = ("get", "secret", MASTER, f"-n{operator_process.SYSTEM}", "--ignore-not-found")
        await waiting.until(lambda: cluster.kubectl(*found), bool, "the Secret exists again", 30)
        assert await secret(cluster, operator_process.SYSTEM, MASTER) == before
        # The Secret of a service is there again before the next pod needs it.
        await cluster.kubectl("delete", "secret", "kept-control", f"-n{TENANT}")
        await simulated.apply(TENANT, "kept", replicas=2)
        await simulated.ready(TENANT, "kept", pods=2)
        assert names < set(generations(simulated, "kept"))
        await simulated.delete(TENANT, "kept")


async def test_a_release_that_moves_with_its_key_replaces_nothing(
    simulated: SimulatedCluster,
) -> None:
    cluster = simulated.cluster
    async with operating(cluster, operator_process.SYSTEM):
        first = await busy(simulated, "carried")
    before = generations(simulated, "carried")
    (copy_key,) = documented("Move the release to another namespace")
    await follow(cluster, copy_key)
    await cluster.helm("uninstall", "avatar", "-n", operator_process.SYSTEM)
    await operator_process.install_chart(cluster, system=NEXT)
    async with operating(cluster, NEXT):
        await simulated.apply(TENANT, "carried", replicas=3)
        await simulated.ready(TENANT, "carried", pods=3)
        after = generations(simulated, "carried")
        assert before.items() < after.items()
        assert len(set(after.values())) == 1
        assert (first.sessions, first.draining) == (3, False)
        await simulated.hollow_nodes.set_sessions(first, 0)
        await simulated.delete(TENANT, "carried")
    assert simulated.hollow_nodes.deleted_with_sessions == []


async def test_a_release_that_moves_without_its_key_cuts_no_session(
    simulated: SimulatedCluster,
) -> None:
    cluster = simulated.cluster
    async with operating(cluster, NEXT):
        first = await busy(simulated, "moved")
    await cluster.helm("uninstall", "avatar", "-n", NEXT)
    await operator_process.install_chart(cluster, system=LAST)
    async with operating(cluster, LAST):
        # The pods do not know the new key until their nodes have updated the mounted Secret.
        await simulated.until(
            lambda: (
                simulated.condition(TENANT, "moved", "Ready").get("status") == "False"
                and "refused every token"
                in simulated.condition(TENANT, "moved", "Ready")["message"]
            ),
            "Ready says that the pods refuse the tokens",
        )
        assert first.name in generations(simulated, "moved")
        assert not first.draining
        await simulated.hollow_nodes.update_mounts(simulated.hollow_pods(TENANT, "moved"))
        await all_replaced_but(simulated, "moved", first)
        await simulated.delete(TENANT, "moved")


PRIVATE = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "db"},
    "stringData": {"a": "b"},
}
OWNER = {
    "apiVersion": "avatar.musetalk.io/v1alpha1",
    "kind": "AvatarService",
    "name": "s",
    "uid": "u",
}
OWN_LABEL = {"app.kubernetes.io/managed-by": "avatar-operator"}


def pod(**spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "labels": OWN_LABEL, "ownerReferences": [OWNER]},
        "spec": {"automountServiceAccountToken": False, "containers": [container], **spec},
    }


async def as_operator(cluster: ControlPlane, body: dict[str, Any], namespace: str) -> str:
    """Try to create an object as the operator; return why it was refused, or an empty string."""
    user = f"system:serviceaccount:{LAST}:{operator_process.ACCOUNT}"
    try:
        await cluster.kubectl(
            *("create", "-f", "-", f"-n{namespace}", f"--as={user}", "--dry-run=server"),
            stdin=json.dumps(body),
        )
    except errors.CommandFailed as refused:
        return str(refused)
    return ""


async def test_the_operator_is_restricted_to_its_own_objects(simulated: SimulatedCluster) -> None:
    cluster = simulated.cluster
    user = f"system:serviceaccount:{LAST}:{operator_process.ACCOUNT}"
    await cluster.kubectl("create", "-f", "-", f"-n{TENANT}", stdin=json.dumps(PRIVATE))
    # The response to a patch would contain the whole Secret.
    path = f"/api/v1/namespaces/{TENANT}/secrets/db"
    for patch in ({}, {"metadata": {"labels": OWN_LABEL, "ownerReferences": [OWNER]}}):
        with pytest.raises(aiohttp.ClientResponseError) as refused:
            await simulated.api.send("PATCH", path, patch, kubeapi.MERGE, user)
        assert refused.value.status == 403
        assert "is not an object of the operator" in refused.value.message
    named = {"name": "new", "labels": OWN_LABEL}
    theirs = {**PRIVATE, "metadata": named}
    ours = {**PRIVATE, "metadata": {**named, "ownerReferences": [OWNER]}}
    of_account = {"kubernetes.io/service-account.name": "default"}
    account = {
        **PRIVATE,
        "type": "kubernetes.io/service-account-token",
        "metadata": {**named, "ownerReferences": [OWNER], "annotations": of_account},
    }
    assert "is not an object of the operator" in await as_operator(cluster, theirs, TENANT)
    assert "of type Opaque" in await as_operator(cluster, account, TENANT)
    assert "starts with kube-" in await as_operator(cluster, ours, "kube-system")
    assert await as_operator(cluster, ours, TENANT) == ""
    assert "starts with kube-" in await as_operator(cluster, pod(), "kube-system")
    privileged = [{"name": "d", "image": "i", "securityContext": {"privileged": True}}]
    for spec in (
        {"hostNetwork": True},
        {"automountServiceAccountToken": True},
        {"containers": privileged},
        {"initContainers": privileged},
    ):
        assert "may only create pods of" in await as_operator(cluster, pod(**spec), TENANT)
    assert await as_operator(cluster, pod(), TENANT) == ""


@pytest.mark.parametrize(
    ("user", "verb", "resource", "namespace", "allowed"),
    [
        ("operator", "list", "secrets", TENANT, False),
        ("operator", "get", "secrets", TENANT, False),
        ("operator", "get", f"secrets/{MASTER}", LAST, True),
        ("operator", "create", "pods", TENANT, True),
        ("gateway", "get", f"secrets/{MASTER}", LAST, False),
        ("gateway", "get", "secrets", TENANT, False),
        ("gateway", "create", "pods", TENANT, False),
        ("gateway", "list", "pods", TENANT, True),
    ],
)
async def test_components_have_no_more_rights_than_they_need(
    simulated: SimulatedCluster, user: str, verb: str, resource: str, namespace: str, allowed: bool
) -> None:
    account = f"system:serviceaccount:{LAST}:avatar-avatar-operator-{user}"
    asked = ("auth", "can-i", verb, resource, f"-n{namespace}", f"--as={account}")
    if allowed:
        assert await simulated.cluster.kubectl(*asked) == "yes\n"
    else:
        with pytest.raises(errors.CommandFailed):  # kubectl exits with 1 when the answer is no
            await simulated.cluster.kubectl(*asked)


async def test_users_have_the_rights_of_their_role(simulated: SimulatedCluster) -> None:
    cluster = simulated.cluster
    for role in ("view", "edit"):
        await cluster.kubectl(
            "create",
            "rolebinding",
            f"u-{role}",
            f"--clusterrole={role}",
            f"--user=u-{role}",
            f"-n{TENANT}",
        )
    await cluster.kubectl("get", "avatarservices", f"-n{TENANT}", "--as=u-view")
    asked = ("auth", "can-i", "create", "avatarservices", f"-n{TENANT}")
    assert await cluster.kubectl(*asked, "--as=u-edit") == "yes\n"
    with pytest.raises(errors.CommandFailed):
        await cluster.kubectl(*asked, "--as=u-view")
