"""What the end-to-end tests share: the chart, installed once, and one namespace a test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import yaml

from localcluster import paths, waiting
from localcluster import prometheus as prometheusserver
from localcluster.release import KEYS, SYSTEM, Release, Space

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
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
