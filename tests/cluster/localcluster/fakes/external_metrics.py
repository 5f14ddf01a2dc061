"""An external metrics API behind the aggregation layer, which serves HPAs from Prometheus.

It replaces prometheus-adapter, whose Go modules require another version of Kubernetes, and reads
the same rules: `externalRules` with `name.as` and `metricsQuery`. The aggregation layer, its
certificates and the HPA controller are real.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml
from aiohttp import web

from localcluster import waiting
from localcluster.controlplane import certificates, ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.prometheus import Prometheus

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
NAMESPACE: Final = "monitoring"
SERVICE: Final = "external-metrics"
_REQUIREMENT: Final = re.compile(r"([\w./-]+)(?:=|==)([\w.-]*)")


@dataclass(frozen=True, slots=True)
class Rule:
    """One metric of the API."""

    name: str
    series: str
    query: str
    """The PromQL template with `<<.Series>>` and `<<.LabelMatchers>>`."""

    def expression(self, namespace: str, selector: str) -> str:
        """Return the query for a namespace and a label selector.

        Raises:
            ValueError: the selector has a part that is not `label=value`.
        """
        matchers = [f'namespace="{namespace}"']
        for part in filter(None, selector.split(",")):
            found = _REQUIREMENT.fullmatch(part)
            if found is None:
                raise ValueError(f"labelSelector is {part!r}, must be label=value")
            matchers.append(f'{found[1]}="{found[2]}"')
        filled = self.query.replace("<<.Series>>", self.series)
        return filled.replace("<<.LabelMatchers>>", ",".join(matchers))


def read_rules(path: Path) -> dict[str, Rule]:
    """Return the external rules of a prometheus-adapter configuration, by name."""
    found = {}
    for body in yaml.safe_load(path.read_text())["externalRules"]:
        series = body["seriesQuery"].partition("{")[0]
        assert re.search(body["name"]["matches"], series), body
        rule = Rule(body["name"]["as"], series, body["metricsQuery"])
        found[rule.name] = rule
    return found


@contextlib.asynccontextmanager
async def serving(
    cluster: ControlPlane, prometheus: Prometheus, rules: Mapping[str, Rule]
) -> AsyncIterator[list[str]]:
    """Serve and register the API; yield the list of the requested metrics, which grows.

    The API is unregistered at the end: an API group that does not answer blocks the deletion of
    namespaces.
    """
    asked: list[str] = []
    runner = web.AppRunner(_Answers(prometheus, rules, asked).application(), shutdown_timeout=1)
    await runner.setup()
    (port,) = ports.find_free(1)
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=_tls(cluster))
    await site.start()
    try:
        await cluster.kubectl("apply", "-f", "-", stdin=_registration(cluster, port))
        try:
            await _until_available(cluster)
            yield asked
        finally:
            await cluster.kubectl("delete", "apiservice", f"{VERSION}.{GROUP}")
    finally:
        await runner.cleanup()


async def _until_available(cluster: ControlPlane) -> None:
    async def condition() -> str:
        path = '{.status.conditions[?(@.type=="Available")]}'
        name = f"{VERSION}.{GROUP}"
        return await cluster.kubectl("get", "apiservice", name, "-o", f"jsonpath={path}")

    await waiting.until(
        condition, lambda said: '"status":"True"' in said, "the API is available", 60
    )


def _tls(cluster: ControlPlane) -> ssl.SSLContext:
    """Return a TLS context that accepts only the API server, by its front-proxy certificate."""
    pki = certificates.Pki(cluster.layout.pki)
    now = datetime.datetime.now(datetime.UTC)
    certificates.issue_server(pki, SERVICE, (f"{SERVICE}.{NAMESPACE}.svc",), now)
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(pki.certificate("front-proxy-ca"))
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pki.certificate(SERVICE), pki.key(SERVICE))
    return context


def _registration(cluster: ControlPlane, port: int) -> str:
    """Render the Service, which the aggregator resolves by its external name, and the API."""
    authority = base64.b64encode(cluster.ca.read_bytes()).decode()
    documents: Sequence[dict[str, Any]] = (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {
                "type": "ExternalName",
                "externalName": "localhost",
                "ports": [{"port": port}],
            },
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": authority,
                "service": {"name": SERVICE, "namespace": NAMESPACE, "port": port},
            },
        },
    )
    return yaml.safe_dump_all(documents)


class _Answers:
    def __init__(self, prometheus: Prometheus, rules: Mapping[str, Rule], asked: list[str]) -> None:
        self._prometheus = prometheus
        self._options = rules
        self._asked = asked

    def application(self) -> web.Application:
        application = web.Application()
        root = f"/apis/{GROUP}"
        application.add_routes(
            [
                web.get(root, self._group),
                web.get(f"{root}/{VERSION}", self._resources),
                web.get(f"{root}/{VERSION}/namespaces/{{namespace}}/{{metric}}", self._values),
            ]
        )
        return application

    async def _group(self, _: web.Request) -> web.Response:
        version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
        document = {"name": GROUP, "versions": [version], "preferredVersion": version}
        return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **document})

    async def _resources(self, _: web.Request) -> web.Response:
        resources = [
            {
                "name": name,
                "singularName": "",
                "namespaced": True,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            }
            for name in self._options
        ]
        document = {"groupVersion": f"{GROUP}/{VERSION}", "resources": resources}
        return web.json_response({"kind": "APIResourceList", "apiVersion": "v1", **document})

    async def _values(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["metric"]
        rule = self._options.get(name)
        if rule is None:
            return _status(404, "NotFound", f"there is no metric {name}")
        try:
            expression = rule.expression(namespace, request.query.get("labelSelector", ""))
        except ValueError as error:
            return _status(400, "BadRequest", str(error))
        self._asked.append(f"{namespace}/{name}")
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [
            {
                "metricName": name,
                "metricLabels": dict(sample.labels),
                "timestamp": now,
                "value": f"{round(sample.value * 1000)}m",
            }
            for sample in await self._prometheus.query(expression)
        ]
        document = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}"}
        return web.json_response({**document, "metadata": {}, "items": items})


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    text = json.dumps({**body, "reason": reason, "message": message})
    return web.Response(status=code, text=text, content_type="application/json")
