"""Runs the Prometheus of Debian with the runtime pods as targets.

It is built without Kubernetes service discovery. An HTTP service discovery in this module provides
the pods with the same meta labels, so that the relabeling is the same as in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import aiohttp
import yaml
from aiohttp import web

from localcluster import waiting
from localcluster.controlplane import kubeapi, ports, processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body

EVERY: Final = "2s"
READY_S: Final = 60.0
STOP_S: Final = 10.0
_POD: Final = "__meta_kubernetes_pod_"
_SELECTOR: Final = "app.kubernetes.io/name in (avatar-operator,avatar-runtime)"


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of a query result."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """The API of a running Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def query(self, expression: str) -> list[Sample]:
        """Return the current value of a PromQL expression.

        Raises:
            ValueError: the expression is not valid PromQL.
        """
        answer = await self._get("query", query=expression)
        if answer["resultType"] == "scalar":
            return [Sample({}, float(answer["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in answer["result"]]

    async def firing(self) -> list[dict[str, str]]:
        """Return the labels of the firing alerts."""
        alerts = (await self._get("alerts"))["alerts"]
        return [dict(alert["labels"]) for alert in alerts if alert["state"] == "firing"]

    async def until(self, query: str, bounds: tuple[float, float], within_s: float = 60) -> None:
        """Wait until a query returns exactly one series with a value within the bounds."""
        low, high = bounds

        async def values() -> list[float]:
            return [sample.value for sample in await self.query(query)]

        def holds(seen: list[float]) -> bool:
            return len(seen) == 1 and low <= seen[0] <= high

        await waiting.until(values, holds, f"{query} in {bounds}", within_s)

    async def until_firing(self, alert: str, fires: bool, **labels: str) -> None:
        """Wait until an alert with these labels fires, or until none fires."""
        expected = {"alertname": alert, **labels}.items()
        await waiting.until(
            self.firing,
            lambda seen: any(expected <= each.items() for each in seen) == fires,
            f"{alert} fires" if fires else f"{alert} is quiet",
            60,
        )

    async def targets(self) -> list[dict[str, Any]]:
        """Return the scrape targets with their health."""
        return list((await self._get("targets", state="active"))["activeTargets"])

    async def rules(self) -> list[dict[str, Any]]:
        """Return the alerting rules with their health."""
        groups = (await self._get("rules", type="alert"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"http://{self._address}/api/v1/{what}"
        async with self._session.get(url, params=parameters) as answer:
            document = await answer.json()
            if document["status"] != "success":
                raise ValueError(f"{parameters}: {document['error']}")
            return dict(document["data"])


def binary() -> str | None:
    """Return the path of Prometheus; None if it is not installed."""
    return shutil.which("prometheus")


@contextlib.asynccontextmanager
async def running(cluster: ControlPlane, rules: Mapping[str, Any]) -> AsyncIterator[Prometheus]:
    """Run Prometheus for the pods of a cluster, with the spec of a PrometheusRule."""
    folder = cluster.layout.root / "prometheus"
    folder.mkdir(exist_ok=True)
    (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
    address, discovery = (f"127.0.0.1:{port}" for port in ports.find_free(2))
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration(folder, discovery)))
    async with (
        _discovery(cluster, discovery),
        aiohttp.ClientSession() as session,
        _process(cluster, folder, address) as process,
    ):

        async def answers() -> bool:
            if process.returncode is not None:
                raise RuntimeError(f"prometheus ended, see {cluster.layout.log('prometheus')}")
            try:
                async with session.get(f"http://{address}/-/ready") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await waiting.until(answers, bool, "prometheus is ready", READY_S)
        yield Prometheus(session, address)


def configuration(folder: Path, discovery: str) -> dict[str, Any]:
    """Return the scrape configuration that the chart's PodMonitors describe."""
    kept = {
        "source_labels": [f"{_POD}label_app_kubernetes_io_name", f"{_POD}container_port_name"],
        "regex": "avatar-operator;(metrics|admin)|avatar-runtime;admin",
        "action": "keep",
    }
    labels = {
        "namespace": "__meta_kubernetes_namespace",
        "pod": f"{_POD}name",
        "service": f"{_POD}label_avatar_musetalk_io_service",
        "gpu_class": f"{_POD}label_avatar_musetalk_io_gpu_class",
    }
    named = [{"source_labels": [source], "target_label": name} for name, source in labels.items()]
    return {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [
            {
                "job_name": "avatars",
                "honor_labels": True,
                # In a cluster: kubernetes_sd_configs: [{role: pod}]
                "http_sd_configs": [{"url": f"http://{discovery}/", "refresh_interval": EVERY}],
                "relabel_configs": [kept, *named],
            }
        ],
    }


def targets_of(pod: Body) -> list[dict[str, Any]]:
    """Return the targets of a pod, one for each port, as the discovery of Prometheus does."""
    metadata, status = pod["metadata"], pod.get("status", {})
    if not status.get("podIP") or status.get("phase") in ("Succeeded", "Failed"):
        return []
    labels = {
        f"{_POD}label_{re.sub('[^A-Za-z0-9_]', '_', name)}": value
        for name, value in metadata.get("labels", {}).items()
    }
    known = {
        "__meta_kubernetes_namespace": metadata["namespace"],
        f"{_POD}name": metadata["name"],
        **labels,
    }
    return [
        {
            "targets": [f"{status['podIP']}:{port['containerPort']}"],
            "labels": {**known, f"{_POD}container_port_name": port.get("name", "")},
        }
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


@contextlib.asynccontextmanager
async def _discovery(cluster: ControlPlane, address: str) -> AsyncIterator[None]:
    """Serve the current pods to Prometheus."""
    async with kubeapi.connected(cluster) as api:

        async def pods(_: web.Request) -> web.Response:
            found = await api.get(f"/api/v1/pods?labelSelector={quote(_SELECTOR)}")
            return web.json_response([each for pod in found["items"] for each in targets_of(pod)])

        application = web.Application()
        application.router.add_get("/", pods)
        runner = web.AppRunner(application, shutdown_timeout=1, access_log=None)
        await runner.setup()
        try:
            host, _, port = address.partition(":")
            await web.TCPSite(runner, host, int(port)).start()
            yield
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def _process(
    cluster: ControlPlane, folder: Path, address: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    program = binary()
    assert program is not None, "callers ask before"
    with cluster.layout.log("prometheus").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={folder / 'config.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
            stdout=log,
            stderr=log,
            preexec_fn=processes.die_with_parent,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
        await process.wait()
