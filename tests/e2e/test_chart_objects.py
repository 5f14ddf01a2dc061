"""The real API server takes what the chart renders, and a release leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "avatar-operator"
NAMESPACE: Final = "chart-objects"

NOWHERE: Final = {"nodeSelector": {"chart-objects": "nowhere"}}
# The cluster is shared: nothing of this release may run or be seen by others.
HARMLESS: Final[dict[str, Any]] = {
    "operator": {**NOWHERE, "watchNamespaces": [NAMESPACE]},
    "gateway": NOWHERE,
    # Their jobs could not run; test_release and test_removal have them.
    "crds": {"upgrade": False},
    "cleanup": {"notice": False},
    "gpuProfiles": {
        "enabled": False,
        "extra": {
            "chart-objects": {
                "match": {"products": ["NOTHING"], "memoryMiB": {"min": 1, "max": 1}},
                "curves": [
                    {
                        "model": "v15/sd-vae/fp16",
                        "baseMiB": 1,
                        "perFrameMiB": 1,
                        "frameBatchMs": [[1, 1]],
                        "source": "estimate",
                    }
                ],
            }
        },
    },
}
VALUES: Final[dict[str, dict[str, Any]]] = {
    "defaults": {},
    "namespaced": {"operator": {"watchNamespaces": [NAMESPACE]}},
    "everything": {
        "operator": {
            "priorityClassName": "system-cluster-critical",
            "tolerations": [{"operator": "Exists"}],
            "extraEnv": [{"name": "A", "value": "1"}],
            "podAnnotations": {"a": "b"},
        },
        "gateway": {
            "replicas": 3,
            "apiKey": {"value": "0123456789abcdef"},
            "service": {"type": "LoadBalancer", "nodePort": 30080},
            "podDisruptionBudget": {"maxUnavailable": "50%"},
        },
        "gpuProfiles": {"costPerHour": {"l4": "0.25"}},
        "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]},
        "cleanup": {"enabled": True},
        "crds": {"keep": False},
    },
    **{path.stem: yaml.safe_load(path.read_text()) for path in (CHART / "ci").glob("*.yaml")},
}
# APIs that other projects install; localcluster.bench checks their objects with the CRDs.
FOREIGN: Final = (
    "cert-manager.io/",
    "gateway.networking.k8s.io/",
    "monitoring.coreos.com/",
    "networking.gke.io/",
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def namespace(cluster: ControlPlane) -> AsyncIterator[str]:
    """Give a namespace under the restricted Pod Security Standard, with the CRDs there."""
    crds = ROOT / "crds"
    await cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", crds)
    await cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", crds)
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": level}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    await cluster.kubectl("create", "-f", "-", stdin=json.dumps(body))
    # Pods are refused until the controller manager has made the namespace's account.
    account = ("serviceaccount/default", "--for=create", "--timeout=30s")
    await cluster.kubectl("wait", "-n", NAMESPACE, *account)
    yield NAMESPACE
    await cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


async def render(cluster: ControlPlane, values: dict[str, Any]) -> list[dict[str, Any]]:
    rendered = await cluster.helm(
        *("template", "probe", CHART, "--namespace", NAMESPACE, "--values", "-"),
        stdin=json.dumps(values),
    )
    return [document for document in yaml.safe_load_all(rendered) if document]


async def dry_run(cluster: ControlPlane, objects: list[dict[str, Any]]) -> list[str]:
    answer = await cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"),
        stdin=yaml.safe_dump_all(objects),
    )
    return answer.splitlines()


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
async def test_api_server_takes_every_object(
    cluster: ControlPlane, namespace: str, values: dict[str, Any]
) -> None:
    rendered = await render(cluster, values)
    objects = [item for item in rendered if not item["apiVersion"].startswith(FOREIGN)]
    assert len(await dry_run(cluster, objects)) == len(objects) > 15


async def test_pods_are_admitted_under_the_restricted_standard(
    cluster: ControlPlane, namespace: str
) -> None:
    deployments = [o for o in await render(cluster, {}) if o["kind"] == "Deployment"]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": item["metadata"]["name"], "namespace": namespace},
            # The account comes with the release, which is not installed here.
            "spec": {**item["spec"]["template"]["spec"], "serviceAccountName": "default"},
        }
        for item in deployments
    ]
    assert len(await dry_run(cluster, pods)) == 2


async def test_release_is_installed_upgraded_and_removed(
    cluster: ControlPlane, namespace: str
) -> None:
    release = ("probe", "--namespace", namespace)
    values = ("--values", "-")
    await cluster.helm("install", *release, CHART, *values, stdin=json.dumps(HARMLESS))
    gateway = ("deployment/probe-avatar-operator-gateway", "-n", namespace)
    replicas = ("-o", "jsonpath={.spec.replicas}")
    assert await cluster.kubectl("get", *gateway, *replicas) == "2"

    larger = {**HARMLESS, "gateway": {**NOWHERE, "replicas": 3}}
    await cluster.helm("upgrade", "probe", CHART, *release[1:], *values, stdin=json.dumps(larger))
    assert await cluster.kubectl("get", *gateway, *replicas) == "3"

    await cluster.helm("uninstall", *release)
    kinds = "clusterrole,clusterrolebinding,gpuprofile,role,rolebinding,deployment,service,secret"
    mine = ("-n", namespace, "-l", "app.kubernetes.io/instance=probe", "-o", "name")
    assert await cluster.kubectl("get", kinds, *mine) == ""
    crds = await cluster.kubectl("get", "crd", "-o", "name")
    assert "avatarservices.avatar.musetalk.io" in crds
