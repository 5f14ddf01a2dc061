"""The release as a whole: accounts, quiet at rest, upgrade."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from avatar_operator.core.resources.crd import missing_fields
from avatar_operator.kube import crds
from localcluster import errors, lease_log, operator_process, paths, waiting
from localcluster.controlplane import audit
from localcluster.release import SYSTEM, all_served

if TYPE_CHECKING:
    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.release import Release, Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

REST_S: Final = 60
ACCOUNTS: Final = f"system:serviceaccount:{SYSTEM}:"
OF_THE_PROCESS: Final = ("AVATAR_HEALTH_LISTEN", "AVATAR_METRICS_LISTEN", "AVATAR_LOG_FORMAT")
"""Settings of an operator that do not change what it does to services."""


async def account(release: Release, component: str) -> str:
    pods = await release.pods(component)
    (name,) = {pod["spec"]["serviceAccountName"] for pod in pods}
    return f"{ACCOUNTS}{name}"


async def settings_of_the_chart(release: Release) -> dict[str, str]:
    """Return the settings of the operator's pods: a leader with others replaces all pods."""
    (pod, *_) = await release.pods("operator")
    (container,) = pod["spec"]["containers"]
    plain = {
        each["name"]: each.get("value", "") for each in container["env"] if "valueFrom" not in each
    }
    return {name: value for name, value in plain.items() if name not in OF_THE_PROCESS}


async def test_components_act_under_accounts_of_their_own(release: Release, space: Space) -> None:
    await space.apply("accounted", replicas=1)
    await space.ready("accounted")
    operator, gateway = await account(release, "operator"), await account(release, "gateway")
    assert operator != gateway
    writes = audit.read(release.cluster.audit_log)
    in_space = [w for w in writes if w.namespace == space.name]
    created = {w.user for w in in_space if w.resource == "pods" and w.verb == "create"}
    assert created == {operator}
    status = "avatarservices.avatar.musetalk.io/status"
    assert {w.user for w in in_space if w.resource == status} == {operator}
    assert [w for w in in_space if w.user == operator and w.code == 403] == []
    assert [w for w in writes if w.user == gateway] == []


@pytest.mark.parametrize(
    ("component", "verb", "resource"),
    [
        ("gateway", "create", "pods"),
        ("gateway", "get", "secrets"),
        ("gateway", "patch", "avatarservices"),
        ("operator", "create", "clusterroles"),
        ("operator", "patch", "nodes"),
        ("operator", "create", "pods --subresource=exec"),
    ],
)
async def test_components_may_not_do_more_than_they_need(
    release: Release, component: str, verb: str, resource: str
) -> None:
    who = await account(release, component)
    with pytest.raises(errors.CommandFailed):  # kubectl exits with 1 when the answer is no
        await release.cluster.kubectl("auth", "can-i", verb, *resource.split(), f"--as={who}", "-A")


async def test_nothing_is_written_at_rest(release: Release, space: Space) -> None:
    await space.apply("resting", replicas=1)
    await space.ready("resting")
    operator, gateway = await account(release, "operator"), await account(release, "gateway")
    since = await settled(release, operator)
    await asyncio.sleep(REST_S)  # what is asserted is that nothing happens meanwhile
    for user in (operator, gateway):
        assert audit.read(release.cluster.audit_log, user=user, since=since) == ()


async def settled(release: Release, user: str) -> str:
    """Wait until the last write of a user is three seconds old; return its time."""
    for _ in range(30):
        before = audit.read(release.cluster.audit_log, user=user)
        await asyncio.sleep(3)
        if audit.read(release.cluster.audit_log, user=user) == before:
            return before[-1].at
    raise AssertionError(f"{user} writes all the time: {before[-5:]}")


async def test_deleted_leader_hands_over(release: Release) -> None:
    leader = await release.leader()
    async with lease_log.followed(release.cluster) as lease:
        await release.cluster.kubectl("delete", "pod", leader, "-n", SYSTEM, "--wait=false")
        await lease.until_another_leads()
    assert [before.rpartition("_")[0] for before, _ in lease.handovers()] == [leader]
    await release.both_operators_ready()


async def test_upgrade_brings_older_crds_up_to_date_around_live_sessions(
    release: Release, space: Space
) -> None:
    """The kinds are as an earlier release left them, with an object and sessions of that time."""
    cluster = release.cluster
    before = Path(__file__).parent / "crds-before"
    await space.apply("kept", replicas=1)
    await space.ready("kept")
    await space.known_to_gateway("kept", 2)
    (pod,) = await space.pods("kept")
    load = await space.load("kept", 2, 15)
    # The running operator finds no claim in statuses of the older kind: it changes nothing.
    await cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", before)
    account = await operator_process.kubeconfig(cluster, "late", cluster.server)
    settings = await settings_of_the_chart(release)  # it may become the leader for a moment
    async with operator_process.started(cluster, account, name="late", settings=settings) as late:
        said = await waiting.until(
            lambda: asyncio.to_thread(late.log.read_text),
            lambda text: "not ready" in text,
            "a word",
        )
        assert "avatarservices.avatar.musetalk.io is older than this operator" in said
        assert re.search(r"and lacks [^;]*\bspec\.placement\.whenFull\b", said), said
        assert crds.COMMAND in said
        await cluster.helm(
            "upgrade", "avatar", paths.REPOSITORY / "charts" / "avatar-operator", "-n", SYSTEM,
            "--reuse-values", "--set", "operator.resyncSeconds=200", "--wait", "--timeout", "120s",
        )  # fmt: skip
        await late.until_ready()
    for bundled in crds.bundled():
        metadata = bundled["metadata"]
        assert isinstance(metadata, dict)
        name = metadata["name"]
        crd = json.loads(await cluster.kubectl("get", "crd", name, "-o", "json"))
        assert missing_fields(bundled, crd) == (), name
    assert await cluster.kubectl("get", "jobs", "-n", SYSTEM, "-o", "name") == ""
    await all_served(load, 2)
    assert [p["metadata"]["uid"] for p in await space.pods("kept")] == [pod["metadata"]["uid"]]
    await space.apply("kept", replicas=2, placement={"whenFull": "wait"})
    await space.ready("kept", pods=2)


async def test_versions_that_objects_are_stored_in_are_never_dropped(release: Release) -> None:
    cluster = release.cluster
    name = "gpuprofiles.avatar.musetalk.io"
    crd = json.loads(await cluster.kubectl("get", "crd", name, "-o", "json"))
    stored = crd["status"]["storedVersions"]
    patch = ("patch", "crd", name, "--subresource=status", "--type=merge", "-p")
    other = {**crd["spec"]["versions"][0], "name": "v1alpha0", "storage": False}
    versions = [*crd["spec"]["versions"], other]
    await cluster.kubectl(*patch[:3], *patch[4:], json.dumps({"spec": {"versions": versions}}))
    await cluster.kubectl(*patch, json.dumps({"status": {"storedVersions": ["v1alpha0", *stored]}}))
    try:
        with pytest.raises(errors.CommandFailed) as refusal:
            await upgrade_crds(cluster)
        assert f"{name}: status.storedVersions is v1alpha0, must be among" in str(refusal.value)
        kept = json.loads(await cluster.kubectl("get", "crd", name, "-o", "json"))
        assert len(kept["spec"]["versions"]) == 2
    finally:
        await cluster.kubectl(*patch, json.dumps({"status": {"storedVersions": stored}}))
    assert f"{name} is newer than this release" not in await upgrade_crds(cluster)
    kept = json.loads(await cluster.kubectl("get", "crd", name, "-o", "json"))
    assert [version["name"] for version in kept["spec"]["versions"]] == ["v1alpha1"]


async def upgrade_crds(cluster: ControlPlane) -> str:
    """Run the command of the hook as the administrator."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_operator", "upgrade-crds"),
        env=cluster.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, problems = await process.communicate()
    if process.returncode:
        raise errors.CommandFailed(("upgrade-crds",), process.returncode, problems.decode())
    return output.decode()
