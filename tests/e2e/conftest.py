"""What the end-to-end tests share: the chart, installed once, and one namespace a test."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import yaml

from localcluster import errors, paths, readme, waiting
from localcluster import prometheus as prometheusserver
from localcluster.kubelet import fleet as fleets
from localcluster.kubelet import installed as installations
from localcluster.kubelet import requirements
from localcluster.release import KEYS, SYSTEM, Release, Space

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.kubelet.fleet import Fleet
    from localcluster.kubelet.installed import Installed
    from localcluster.prometheus import Prometheus

KEY = "a-key-for-the-end-to-end-tests"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def release(
    cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Release]:
    """Install the chart as a user would, for the whole session."""
    await cluster.helm(
        "install", "avatar", paths.REPOSITORY / "charts" / "avatar-operator",
        "--namespace", SYSTEM, "--create-namespace", "--set", f"gateway.apiKey.value={KEY}",
        "--set", "operator.resyncSeconds=10", "--set", "monitoring.openMetrics=true",
        "--set", "operator.decisionLog.enabled=true",
        "--set", "preparation.urlHosts={127.0.0.1}",  # a server of the tests
        "--set", f"guard.hostPaths={{{tmp_path_factory.getbasetemp()}}}",
        "--set", "modelCache.hosts={127.0.0.1}",
        "--set", f"modelCache.volume.hostPath.path={tmp_path_factory.getbasetemp()}/model-cache",
        "--set", "modelCache.volume.hostPath.type=DirectoryOrCreate",
        # The tests call one gateway, by the address of its pod, and query its metrics.
        "--set", f"gateway.tenants.keysNamespace={KEYS}",
        "--set", "gateway.tenants.createKeysNamespace=true",
        "--set", "gateway.replicas=1", "--set", "gateway.drainDelaySeconds=0",
        "--wait", "--timeout", "120s",
    )  # fmt: skip
    address = await cluster.kubectl(
        "get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=gateway",
        "-o", "jsonpath={.items[0].status.podIP}",
    )  # fmt: skip
    yield Release(cluster, f"{address}:8080", KEY)
    await cluster.helm("uninstall", "avatar", "--namespace", SYSTEM, "--wait")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prometheus(release: Release) -> AsyncIterator[Prometheus]:
    """Run a real Prometheus with the chart's alerts, which fire after two seconds here."""
    if prometheusserver.binary() is None:
        pytest.skip("prometheus is missing: requirements/install-debian installs it")
    alerts = ("vramAlmostFull", "noFreeSessions", "callersWaiting", "operatorNotLeading")
    soon = [f"--set=monitoring.rules.alerts.{alert}.for=2s" for alert in alerts]
    rendered = await release.cluster.helm(
        "template", "avatar", paths.REPOSITORY / "charts" / "avatar-operator",
        "--namespace", SYSTEM, "--set", "monitoring.rules.enabled=true", *soon,
        "--api-versions", "monitoring.coreos.com/v1", "-s", "templates/monitoring/rules.yaml",
    )  # fmt: skip
    async with prometheusserver.running(
        release.cluster, yaml.safe_load(rendered)["spec"]
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def space(release: Release, request: pytest.FixtureRequest) -> AsyncIterator[Space]:
    """Give a namespace; when the test ends, its services go and free their GPUs."""
    words = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).removeprefix("test-")
    name = words[:60].strip("-")
    await release.cluster.kubectl("create", "namespace", name)
    opened = Space(release, name)
    yield opened
    await opened.kubectl("delete", "avs", "--all", "--timeout=60s")
    await waiting.until(opened.every_pod, lambda pods: pods == [], f"no pods in {name}", 60)
    await release.cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Run nodes with a real kubelet and the images of this repository, for the whole session."""
    if problem := requirements.missing():
        pytest.skip(problem)
    state_dir = tmp_path_factory.mktemp("kubelet")
    try:
        async with fleets.running(state_dir) as running:
            yield running
    except errors.LocalClusterError as error:
        for log in sorted(state_dir.rglob("*.log")):
            error.add_note(f"--- {log.name}\n{paths.tail(log)}")
        raise


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def installed(
    fleet: Fleet, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Installed]:
    """Follow README's section on a real cluster; test_kubelet_uninstall.py ends it."""
    folder = tmp_path_factory.mktemp("kubelet-readme")
    tools, copy = folder / "tools", folder / "avatar-service"
    tools.mkdir()
    readme.copy_repository(copy)
    environment = readme.environment(fleet.control, tools, folder)
    reader = readme.Reader(fleet.control, copy, environment)
    text = readme.commands(readme.section(readme.README, "On a real cluster"))
    output = await reader.follow(text)
    encoded = await fleet.control.kubectl(
        "get", "secret", "avatar-api-key", "-n", SYSTEM, "-o", "jsonpath={.data.api-key}"
    )
    address = await fleet.cluster_ip(SYSTEM, installations.GATEWAY)
    key = base64.b64decode(encoded).decode()
    release = installations.Installed(fleet, reader, output, key, f"{address}:80")
    await release.apply(
        installations.SIMULATED,
        replicas=1,
        placement={"gpuClasses": ["h100-80gb"]},
        # The requests for the sessions of a large GPU exceed the processors of a small machine.
        template={"resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}},
    )
    yield release
