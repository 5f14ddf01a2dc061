"""The release as a whole: accounts, quiet at rest, upgrade."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Final

import pytest

from localcluster import audit, errors, paths, waiting
from localcluster.release import SYSTEM

if TYPE_CHECKING:
    from localcluster.release import Release, Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

REST_S: Final = 60
ADMIN: Final = "kubernetes-admin"
ACCOUNTS: Final = f"system:serviceaccount:{SYSTEM}:"


async def account(release: Release, component: str) -> str:
    pods = await release.pods(component)
    (name,) = {pod["spec"]["serviceAccountName"] for pod in pods}
    return f"{ACCOUNTS}{name}"


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


async def test_deleted_leader_hands_over_within_a_second(release: Release) -> None:
    leader = await release.leader()
    await release.cluster.kubectl("delete", "pod", leader, "-n", SYSTEM, "--wait=false")
    await waiting.until(release.leader, lambda name: name not in ("", leader), "another leader")
    (deleted_at,) = (
        write.at
        for write in audit.read(release.cluster.audit_log)
        if (write.verb, write.name, write.user) == ("delete", leader, ADMIN)
    )
    told_at = datetime.datetime.fromisoformat(deleted_at)
    took_over_at = datetime.datetime.fromisoformat((await release.lease())["acquireTime"])
    assert took_over_at - told_at < datetime.timedelta(seconds=1)
    await release.both_operators_ready()


async def test_upgrade_keeps_services_and_pods(release: Release, space: Space) -> None:
    await space.apply("kept", replicas=1)
    await space.ready("kept")
    (before,) = await space.pods("kept")
    await release.cluster.helm(
        "upgrade", "avatar", paths.REPOSITORY / "charts" / "avatar-operator", "-n", SYSTEM,
        "--reuse-values", "--set", "operator.resyncSeconds=200", "--wait", "--timeout", "120s",
    )  # fmt: skip
    (after,) = await space.pods("kept")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    await space.kubectl("scale", "avs/kept", "--replicas=2")
    await space.ready("kept", pods=2)
