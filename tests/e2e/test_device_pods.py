"""The process node runs pods whose GPU comes from a claim, which the real scheduler allocates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import yaml

from localcluster import paths, waiting
from localcluster.controlplane.cluster import running
from localcluster.fakes.devices import device_class, gpu, resource_slice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

NODE: Final = "dra-a"
WITHIN_S: Final = 120.0


def template() -> dict[str, Any]:
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "one-gpu"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def pod() -> dict[str, Any]:
    command = ["sh", "-c", "echo device=$AVATAR_DEVICE; exec sleep 600"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "claimed"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
            "containers": [
                {
                    "name": "c",
                    "image": "avatar-musetalk/runtime",
                    "command": command,
                    "resources": {"claims": [{"name": "gpu"}]},
                }
            ],
        },
    }


@pytest_asyncio.fixture(loop_scope="session")
async def own_cluster(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    """Give a control plane with one process node, whose GPUs are those of its slices."""
    document = yaml.safe_load(paths.SIMULATED_NODES.read_text())
    device = {"AVATAR_DEVICE": "simulated:l40s"}
    document["nodes"] = [{"name": NODE, "taint": True, "deviceEnv": device}]
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text(yaml.safe_dump(document))
    async with running(tmp_path / "cluster", nodes=nodes) as started:
        yield started


async def test_a_pod_with_a_claim_runs_on_the_node_of_its_device(own_cluster: ControlPlane) -> None:
    everywhere = yaml.safe_dump_all([device_class(), resource_slice(NODE, gpu(0))])
    space = ("-n", "device-pods")
    await own_cluster.kubectl("create", "namespace", space[1])
    await own_cluster.kubectl("apply", "-f", "-", stdin=everywhere)
    try:
        manifest = yaml.safe_dump_all([template(), pod()])
        await own_cluster.kubectl(*space, "apply", "-f", "-", stdin=manifest)

        async def seen() -> dict[str, Any]:
            return dict(
                json.loads(await own_cluster.kubectl(*space, "get", "pod/claimed", "-o", "json"))
            )

        found = await waiting.until(
            seen, lambda body: body["status"]["phase"] == "Running", "it runs", WITHIN_S
        )
        assert found["spec"]["nodeName"] == NODE
        logs = await waiting.until(
            lambda: own_cluster.kubectl(*space, "logs", "claimed"), bool, "it has written", WITHIN_S
        )
        assert logs.strip() == "device=simulated:l40s"
    finally:
        await own_cluster.kubectl("delete", "namespace", space[1], "--wait=true", "--timeout=60s")
