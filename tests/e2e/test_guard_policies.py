"""The admission policies of the chart on a real API server, without an operator."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from localcluster import errors, paths, waiting
from localcluster.controlplane.cluster import running
from localcluster.operator_process import SYSTEM, USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TENANT: Final = "acme"
ADMIN: Final = "admin-of-acme"
LIVE: Final = "avatar.musetalk.io/live"
OWNER: Final = {
    "apiVersion": "avatar.musetalk.io/v1alpha1",
    "kind": "AvatarService",
    "name": "concierge",
    "uid": "u",
    "controller": True,
}
OTHER_OWNERS: Final[dict[str, list[dict[str, Any]]]] = {
    "nobody": [],
    "not-the-controller": [{**OWNER, "controller": False}],
    "another-kind": [{**OWNER, "kind": "Job", "apiVersion": "batch/v1"}],
    "another-group": [{**OWNER, "apiVersion": "example.org/v1"}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """Run a cluster with the chart and an admin of one namespace; no node runs pods."""
    async with running(tmp_path_factory.mktemp("guard") / "cluster") as cluster:
        chart = paths.REPOSITORY / "charts" / "avatar-operator"
        values = {"guard": {"hostPaths": ["/data/models/", "/srv"]}}
        await cluster.helm(
            *("install", "avatar", chart, "-n", SYSTEM, "--create-namespace", "--values", "-"),
            stdin=json.dumps(values),
        )
        await cluster.kubectl("create", "namespace", TENANT)
        binding = ("--clusterrole=admin", f"--user={ADMIN}")
        await cluster.kubectl("create", "rolebinding", "admin", *binding, "-n", TENANT)
        account = ("serviceaccount/default", "--for=create", "--timeout=30s")
        await cluster.kubectl("wait", "-n", TENANT, *account)
        # The API server reads new policies after a short time.
        for user, body in ((ADMIN, pod("p", live=True)), (USER, pod("p", hostNetwork=True))):
            tried = partial(refusal, cluster, user, "create", "--dry-run=server", "-f", "-")
            await waiting.until(partial(tried, body=body), bool, "the policies", 20)
        yield cluster


def pod(
    name: str, live: bool = False, owners: Sequence[Mapping[str, Any]] = (OWNER,), **spec: Any
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "avatar-operator"}
    labels |= {LIVE: "true"} if live else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "ownerReferences": list(owners)},
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "i"}],
            **spec,
        },
    }


async def refusal(
    cluster: ControlPlane, user: str, *command: str, body: Mapping[str, Any] | None = None
) -> str:
    """Run kubectl as a user; return why it was refused, or an empty string."""
    stdin = None if body is None else json.dumps(body)
    try:
        await cluster.kubectl(*command, f"--as={user}", "-n", TENANT, stdin=stdin)
    except errors.CommandFailed as refused:
        return str(refused)
    return ""


async def test_only_the_operator_marks_pods_as_live(guarded: ControlPlane) -> None:
    mine = "only the operator may set the label avatar.musetalk.io/live=true"
    create = ("create", "-f", "-")
    assert mine in await refusal(guarded, ADMIN, *create, body=pod("marked", live=True))
    # The garbage collector deletes a pod whose owner does not exist.
    assert await refusal(guarded, ADMIN, *create, body=pod("marked", owners=())) == ""
    mark = ("label", "pod", "marked")
    assert mine in await refusal(guarded, ADMIN, *mark, f"{LIVE}=true")
    assert await refusal(guarded, ADMIN, *mark, f"{LIVE}=no") == ""
    assert mine in await refusal(guarded, ADMIN, *mark, f"{LIVE}=true", "--overwrite")
    created = pod("own", live=True)
    assert await refusal(guarded, USER, *create, body=created) == ""
    assert await refusal(guarded, ADMIN, "label", "pod", "own", "team=a") == ""
    assert await refusal(guarded, ADMIN, "label", "pod", "own", f"{LIVE}-") == ""


@pytest.mark.parametrize(
    ("annotations", "warning"),
    [
        ({"paused": "true", "freeze": "false"}, ""),
        ({"paused": "yes"}, 'avatar.musetalk.io/paused is "yes" and is ignored, must be true or'),
        ({"freeze": "x" * 200}, 'freeze is "' + "x" * 64 + '" and is ignored'),
        (
            {"pause": "true"},
            "pause is ignored: an AvatarService has only paused, freeze, pause-sca",
        ),
        ({"drain": "true"}, "(drain is an annotation of a pod)"),
    ],
    ids=["right", "value", "long", "name", "drain"],
)
async def test_a_wrong_annotation_of_a_service_is_warned_about(
    guarded: ControlPlane, annotations: dict[str, str], warning: str
) -> None:
    body = {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarService",
        "metadata": {
            "generateName": "noted-",
            "annotations": {f"avatar.musetalk.io/{key}": text for key, text in annotations.items()},
        },
        "spec": {"replicas": 0},
    }
    before = await guarded.kubectl("get", "avs", "-n", TENANT, "-o", "name")
    said = await refusal(guarded, ADMIN, "create", "--warnings-as-errors", "-f", "-", body=body)
    assert (warning in said) if warning else said == ""
    after = await guarded.kubectl("get", "avs", "-n", TENANT, "-o", "name")
    assert len(after.split()) == len(before.split()) + 1  # nothing is refused


async def test_a_wrong_annotation_of_a_pod_is_warned_about(guarded: ControlPlane) -> None:
    body = pod("noted", owners=())
    body["metadata"]["labels"]["avatar.musetalk.io/service"] = "concierge"
    assert await refusal(guarded, ADMIN, "create", "-f", "-", body=body) == ""
    annotate = ("annotate", "pod", "noted", "--warnings-as-errors", "--overwrite")
    said = await refusal(guarded, ADMIN, *annotate, "avatar.musetalk.io/drain=yes")
    assert "avatar.musetalk.io/drain is ignored, must be true or false" in said
    assert await refusal(guarded, ADMIN, *annotate, "avatar.musetalk.io/drain=true") == ""


@pytest.mark.parametrize("owners", OTHER_OWNERS.values(), ids=OTHER_OWNERS.keys())
async def test_a_live_pod_that_no_service_controls_can_be_deleted(
    guarded: ControlPlane, owners: list[dict[str, Any]]
) -> None:
    body = pod("foreign", live=True, owners=owners)
    # An administrator of the cluster may do what an operator may.
    await guarded.kubectl("create", "-f", "-", "-n", TENANT, stdin=json.dumps(body))
    delete = ("delete", "pod", "foreign", "--grace-period=0", "--force", "--ignore-not-found")
    assert await refusal(guarded, ADMIN, *delete) == ""  # or the garbage collector was faster


async def test_a_live_pod_of_a_service_is_protected(guarded: ControlPlane) -> None:
    body = json.dumps(pod("live", live=True))
    await guarded.kubectl("create", "-f", "-", "-n", TENANT, stdin=body)
    delete = ("delete", "pod", "live", "--grace-period=0", "--force")
    assert "serves live sessions" in await refusal(guarded, ADMIN, *delete)
    mark = ("annotate", "pod", "live", "avatar.musetalk.io/break-glass=true")
    assert await refusal(guarded, ADMIN, *mark) == ""
    assert await refusal(guarded, ADMIN, *delete, "--ignore-not-found") == ""


def projected(**source: Any) -> dict[str, Any]:
    return {"projected": {"sources": [{"configMap": {"name": "c"}}, source]}}


FOLDER: Final = "is not in a folder of guard.hostPaths"
TOKEN: Final = "contains a token of a ServiceAccount"
KIND: Final = "its kind is not allowed"
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "host-path": ({"hostPath": {"path": "/"}}, FOLDER),
    "host-path-beside-one": ({"hostPath": {"path": "/data/models2"}}, FOLDER),
    "host-path-above-one": ({"hostPath": {"path": "/data"}}, FOLDER),
    "token": (projected(serviceAccountToken={"path": "t"}), TOKEN),
    "token-for-others": (projected(serviceAccountToken={"path": "t", "audience": "vault"}), TOKEN),
    "nfs": ({"nfs": {"server": "s", "path": "/"}}, KIND),
    "iscsi": ({"iscsi": {"targetPortal": "1.2.3.4", "iqn": "iqn.2001-04.x:y", "lun": 0}}, KIND),
}
ALLOWED: Final[dict[str, dict[str, Any]]] = {
    "empty": {"emptyDir": {}},
    "claim": {"persistentVolumeClaim": {"claimName": "models"}},
    "secret": {"secret": {"secretName": "s"}},
    "config-map": {"configMap": {"name": "c"}},
    "projected": projected(secret={"name": "s"}),
    "host-path": {"hostPath": {"path": "/data/models"}},
    "host-path-below": {"hostPath": {"path": "/srv/models/v15"}},
}


@pytest.mark.parametrize(("volume", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_the_operator_cannot_create_pods_with_such_a_volume(
    guarded: ControlPlane, volume: dict[str, Any], words: str
) -> None:
    body = pod("p", volumes=[{"name": "tmp", "emptyDir": {}}, {"name": "bad", **volume}])
    create = ("create", "--dry-run=server", "-f", "-")
    found = await refusal(guarded, USER, *create, body=body)
    assert "may not create pods with the volume bad" in found
    assert words in found
    # The policy restricts the operator only.
    assert await refusal(guarded, ADMIN, *create, body=body) == ""


@pytest.mark.parametrize("volume", ALLOWED.values(), ids=ALLOWED.keys())
async def test_the_operator_can_create_pods_with_such_a_volume(
    guarded: ControlPlane, volume: dict[str, Any]
) -> None:
    body = pod("p", volumes=[{"name": "good", **volume}])
    create = ("create", "--dry-run=server", "-f", "-")
    assert await refusal(guarded, USER, *create, body=body) == ""


@pytest.mark.parametrize(
    ("listed", "name", "allowed"),
    [
        ([], "system-cluster-critical", False),
        ([], "system-node-critical", False),
        ([], "gold", True),
        (["silver"], "gold", False),
        (["silver", "gold"], "gold", True),
        (["system-cluster-critical"], "system-cluster-critical", True),
    ],
)
async def test_the_operator_creates_pods_of_listed_priority_classes_only(
    guarded: ControlPlane, listed: list[str], name: str, allowed: bool
) -> None:
    gold = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 5}
    gold["metadata"] = {"name": "gold"}
    await guarded.kubectl("apply", "-f", "-", stdin=json.dumps(gold))
    chart = paths.REPOSITORY / "charts" / "avatar-operator"
    values = ("--reuse-values", "--set-json", f"guard.priorityClasses={json.dumps(listed)}")
    await guarded.helm(
        "upgrade", "avatar", chart, "-n", SYSTEM, *values, "--set=crds.upgrade=false"
    )
    body = pod("p", priorityClassName=name)
    create = ("create", "--dry-run=server", "-f", "-")
    sentence = f"may not create pods of the PriorityClass {name}"

    async def refused() -> bool:
        return sentence in await refusal(guarded, USER, *create, body=body)

    # The API server reads a changed policy after a short time.
    await waiting.until(refused, lambda found: found is not allowed, "the policy", 10)
