"""The Job of `helm uninstall` has the rights that it needs, and stops no uninstall."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from localcluster import errors, paths
from localcluster.controlplane.cluster import running

if TYPE_CHECKING:
    from localcluster.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "avatar-operator"
NAMESPACE: Final = "uninstall-job"
ACCOUNT: Final = "probe-avatar-operator-cleanup"
LEASE: Final = "probe-avatar-operator-operator"
GROUP: Final = "avatar.musetalk.io/v1alpha1"


def body(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": GROUP, "kind": kind, "metadata": metadata, "spec": spec}


async def uninstall(cluster: ControlPlane, *arguments: str) -> tuple[int, str]:
    """Run the command of the Job as its account, and return its status and its output."""
    path = await cluster.service_account_kubeconfig(NAMESPACE, ACCOUNT)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_operator", "uninstall", *arguments),
        env={
            **os.environ,
            "KUBECONFIG": str(path),
            "AVATAR_NAMESPACE": NAMESPACE,
            "AVATAR_LEASE": LEASE,
            "AVATAR_WATCH_NAMESPACES": NAMESPACE,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_job_lists_and_then_removes_the_services_of_its_release(tmp_path: Path) -> None:
    """No operator runs here: it would claim the services."""
    async with running(tmp_path, nodes=paths.SIMULATED_NODES) as cluster:
        await list_and_remove(cluster)


async def list_and_remove(cluster: ControlPlane) -> None:
    crds = ROOT / "crds"
    await cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", crds)
    await cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", crds)
    await cluster.kubectl("create", "namespace", NAMESPACE)
    values = {"cleanup": {"enabled": True}, "operator": {"watchNamespaces": [NAMESPACE]}}
    rendered = await cluster.helm(
        *("template", "probe", CHART, "--namespace", NAMESPACE, "--values", "-"),
        *("--show-only", "templates/cleanup/uninstall.yaml"),
        stdin=json.dumps(values),
    )
    rights = [o for o in yaml.safe_load_all(rendered) if o and o["kind"] != "Job"]
    services = [body("AvatarService", name, {"replicas": 0}) for name in ("own", "theirs")]
    objects = yaml.safe_dump_all([*rights, *services])
    await cluster.kubectl("apply", "--server-side", "-f", "-", stdin=objects)
    other = json.dumps({"status": {"operator": "other/operator"}})
    patch = ("--subresource=status", "--type=merge", "--patch", other)
    await cluster.kubectl("patch", "avs", "theirs", "-n", NAMESPACE, *patch)

    status, output = await uninstall(cluster)
    assert (status, output.splitlines()[0]) == (
        0,
        "1 AvatarServices, 0 Avatars and 0 runtime pods stay in the cluster",
    )
    assert f"AvatarService {NAMESPACE}/own" in output

    status, output = await uninstall(cluster, "--cleanup")
    assert status == 0, output
    assert "all AvatarServices and Avatars and their pods are gone" in output
    left = await cluster.kubectl("get", "avs", "-n", NAMESPACE, "-o", "name")
    assert left.split() == ["avatarservice.avatar.musetalk.io/theirs"]
    await cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


async def test_a_notice_that_cannot_run_stops_no_uninstall(tmp_path: Path) -> None:
    async with running(tmp_path, nodes=paths.SIMULATED_NODES) as cluster:
        where = ("--namespace", NAMESPACE)
        await cluster.helm("install", "probe", CHART, *where, "--create-namespace")
        await cluster.kubectl("create", "quota", "none", "--hard=pods=0", *where)
        with pytest.raises(errors.CommandFailed, match=r"with 1 error.*cleanup not ready"):
            await cluster.helm("uninstall", "probe", *where)
        assert await cluster.helm("list", "--short", *where) == ""
        assert await cluster.kubectl("get", "deployments", *where, "-o", "name") == ""
