"""An operator process over puppets: services are applied to it, and all that it says is kept.

The operator, its account's rights, the API server, the scheduler and the garbage collector are
real; nodes and runtime pods are puppets (`localcluster.fakes.hollow_pods`).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process
from localcluster.controlplane import kubeapi
from localcluster.fakes.hollow_pods import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body
    from localcluster.fakes.hollow_pods import Puppet

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
NODES: Final = 2
APPLY: Final = "application/apply-patch+yaml"


class Theatre:
    """What users do, and what they see of it."""

    def __init__(self, cluster: ControlPlane, api: kubeapi.Api) -> None:
        self._changed = asyncio.Condition()
        self._told: dict[tuple[str, str], list[Body]] = collections.defaultdict(list)
        self._generations: dict[tuple[str, str], int] = {}
        self.cluster = cluster
        self.api = api
        self.stage = Stage(api, NODES)
        self.pods = kubeapi.Mirror(api, "/api/v1/pods", self._changed, self.stage.see)
        services = f"{GROUP}/avatarservices"
        self.services = kubeapi.Mirror(api, services, self._changed, self._hear)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Theatre]:
        async with self.stage.running(), self.pods.running(), self.services.running():
            yield self

    async def apply(self, namespace: str, name: str, **spec: Any) -> None:
        """Apply an AvatarService."""
        body = {
            "apiVersion": "avatar.musetalk.io/v1alpha1",
            "kind": "AvatarService",
            "metadata": {"name": name},
            "spec": spec,
        }
        path = f"{GROUP}/namespaces/{namespace}/avatarservices/{name}"
        answer = await self.api.send("PATCH", f"{path}?fieldManager=user&force=true", body, APPLY)
        self._generations[namespace, name] = answer["metadata"]["generation"]

    async def delete(self, namespace: str, name: str) -> None:
        """Delete an AvatarService and wait until its pods are gone."""
        await self.api.delete(f"{GROUP}/namespaces/{namespace}/avatarservices/{name}")
        await self.until(lambda: not self.pods_of(namespace, name), f"no pods of {name}")

    def status(self, namespace: str, name: str) -> Body:
        """Return what the operator said of a service last."""
        return dict(self.services.objects.get((namespace, name), {}).get("status", {}))

    def condition(self, namespace: str, name: str, kind: str) -> Body:
        """Return a condition of a service, or an empty one."""
        return _condition(self.status(namespace, name), kind)

    def told(self, namespace: str, name: str, kind: str) -> list[str]:
        """Return every message that a condition of a service ever had, oldest first."""
        found = [_condition(status, kind) for status in self._told[namespace, name]]
        return [condition["message"] for condition in found if condition]

    def pods_of(self, namespace: str, name: str) -> list[Body]:
        """Return the pods of a service, by name."""
        label = "avatar.musetalk.io/service"
        pods = self.pods.of(namespace)
        return [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == name]

    def puppets(self, namespace: str, name: str) -> list[Puppet]:
        """Return the living pods of a service, by name."""
        return [puppet for puppet in self.stage.of(namespace) if puppet.service == name]

    async def ready(self, namespace: str, name: str, pods: int) -> None:
        """Wait until a service is Ready with so many pods, by its own word."""

        def holds() -> bool:
            status = self.status(namespace, name)
            return bool(
                status.get("observedGeneration") == self._generations[namespace, name]
                and status.get("readyReplicas") == pods == status.get("desiredReplicas")
                and self.condition(namespace, name, "Ready")["status"] == "True"
                and self.condition(namespace, name, "Progressing")["status"] == "False"
            )

        await self.until(holds, f"{namespace}/{name} is Ready with {pods} pods")

    async def until(self, holds: Callable[[], object], what: str, within_s: float = 30) -> None:
        """Wait for a condition on what is seen. Raises `TimeoutError`, which tells all of it."""

        def told() -> str:
            seen = {key: service.get("status") for key, service in self.services.objects.items()}
            puppets = [puppet for puppet in self.stage.puppets.values() if puppet.service]
            return f"{what}; last seen: {seen}, {puppets}"

        await kubeapi.until(self._changed, holds, told, within_s)

    def _hear(self, kind: str, service: Body) -> None:
        metadata = service["metadata"]
        if kind != "DELETED" and "status" in service:
            self._told[metadata["namespace"], metadata["name"]].append(service["status"])


@contextlib.asynccontextmanager
async def open_in(cluster: ControlPlane, namespaces: tuple[str, ...]) -> AsyncIterator[Theatre]:
    """Run an operator that may serve some namespaces, on a control plane without nodes."""
    for namespace in namespaces:
        await cluster.kubectl("create", "namespace", namespace)
    await operator_process.install_chart(cluster, namespaces)
    path = await operator_process.kubeconfig(cluster, "operator", cluster.server)
    async with (
        kubeapi.connected(cluster) as api,
        Theatre(cluster, api).running() as theatre,
        operator_process.operating(cluster, path, namespaces=namespaces),
    ):
        yield theatre


def _condition(status: Body, kind: str) -> Body:
    conditions = status.get("conditions", [])
    return next((dict(each) for each in conditions if each["type"] == kind), {})
