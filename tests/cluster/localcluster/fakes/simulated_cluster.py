"""A simulated cluster: an operator process with hollow pods, and a record of all statuses.

The operator, the permissions of its account, the API server, the scheduler and the garbage
collector are real. Nodes and runtime pods are hollow (`localcluster.fakes.hollow_pods`).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Any, Final

from localcluster import operator_process
from localcluster.controlplane import kubeapi
from localcluster.fakes.hollow_pods import HollowNodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body
    from localcluster.fakes.hollow_pods import HollowPod

GROUP: Final = "/apis/avatar.musetalk.io/v1alpha1"
NODES: Final = 2
APPLY: Final = "application/apply-patch+yaml"


class SimulatedCluster:
    """The actions of users, and what the API shows of the result."""

    def __init__(
        self, cluster: ControlPlane, api: kubeapi.Api, hollow_nodes: HollowNodes | None = None
    ) -> None:
        """`hollow_nodes` defaults to two nodes of one class."""
        self._changed = asyncio.Condition()
        self._statuses: dict[tuple[str, str], list[Body]] = collections.defaultdict(list)
        self._generations: dict[tuple[str, str], int] = {}
        self.cluster = cluster
        self.api = api
        self.hollow_nodes = hollow_nodes or HollowNodes(api, NODES)
        self.pods = kubeapi.Mirror(
            api, "/api/v1/pods", self._changed, self.hollow_nodes.on_pod_event
        )
        services = f"{GROUP}/avatarservices"
        self.services = kubeapi.Mirror(api, services, self._changed, self._on_service_event)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[SimulatedCluster]:
        async with self.hollow_nodes.running(), self.pods.running(), self.services.running():
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
        """Return the last status of a service."""
        return dict(self.services.objects.get((namespace, name), {}).get("status", {}))

    def condition(self, namespace: str, name: str, kind: str) -> Body:
        """Return a condition of a service, or an empty object."""
        return _condition(self.status(namespace, name), kind)

    def messages(self, namespace: str, name: str, kind: str) -> list[str]:
        """Return all messages that a condition of a service has had, oldest first."""
        found = [_condition(status, kind) for status in self._statuses[namespace, name]]
        return [condition["message"] for condition in found if condition]

    def pods_of(self, namespace: str, name: str) -> list[Body]:
        """Return the pods of a service, sorted by name."""
        label = "avatar.musetalk.io/service"
        pods = self.pods.of(namespace)
        return [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == name]

    def hollow_pods(self, namespace: str, name: str) -> list[HollowPod]:
        """Return the running hollow pods of a service, sorted by name."""
        return [
            hollow_pod
            for hollow_pod in self.hollow_nodes.of(namespace)
            if hollow_pod.service == name
        ]

    async def ready(self, namespace: str, name: str, pods: int) -> None:
        """Wait until the status of a service says that it is Ready with `pods` pods."""

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
        """Wait for a condition.

        Raises:
            TimeoutError: it does not hold in time; the message shows the last statuses and pods.
        """

        def last_seen() -> str:
            seen = {key: service.get("status") for key, service in self.services.objects.items()}
            hollow_pods = [
                hollow_pod
                for hollow_pod in self.hollow_nodes.hollow_pods.values()
                if hollow_pod.service
            ]
            return f"{what}; last seen: {seen}, {hollow_pods}"

        await kubeapi.until(self._changed, holds, last_seen, within_s)

    def _on_service_event(self, kind: str, service: Body) -> None:
        metadata = service["metadata"]
        if kind != "DELETED" and "status" in service:
            self._statuses[metadata["namespace"], metadata["name"]].append(service["status"])


@contextlib.asynccontextmanager
async def open_in(
    cluster: ControlPlane,
    namespaces: tuple[str, ...],
    new_nodes: Callable[[kubeapi.Api], HollowNodes] | None = None,
) -> AsyncIterator[SimulatedCluster]:
    """Run an operator that serves the given namespaces, on a control plane without nodes.

    `new_nodes` makes the hollow nodes. Defaults to two nodes of one class.
    """
    for namespace in namespaces:
        await cluster.kubectl("create", "namespace", namespace)
    await operator_process.install_chart(cluster, namespaces)
    path = await operator_process.kubeconfig(cluster, "operator", cluster.server)
    async with (
        kubeapi.connected(cluster) as api,
        SimulatedCluster(
            cluster, api, new_nodes(api) if new_nodes else None
        ).running() as simulated,
        operator_process.operating(cluster, path, namespaces=namespaces),
    ):
        yield simulated


def _condition(status: Body, kind: str) -> Body:
    conditions = status.get("conditions", [])
    return next((dict(each) for each in conditions if each["type"] == kind), {})
