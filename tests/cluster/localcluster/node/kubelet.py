"""One process node: registers a Node, sends heartbeats, and runs the pods that are bound to it."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.backoff import Backoff
from avatar_contracts.list_watch import (
    BOOKMARK,
    DELETED,
    ExpiredError,
    ListWatchError,
    Reflector,
    read_page,
)

from .clock import rfc3339, rfc3339_micro
from .errors import ApiError
from .pod import Pod, over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .setting import Host

_log = logging.getLogger(__name__)
LEASE_S: Final = 40  # as for the kubelet: renewed each quarter of it
RENEW_S: Final = 10.0
REPORT_S: Final = 300.0
RETRY_S: Final = 1.0
REWATCH_S: Final = (0.1, 1.0)  # first and longest delay before a watch is opened again
DRAIN_S: Final = 3.0  # grace period of processes when the node stops
VERSION: Final = "v1.37.2"


class Kubelet:
    """The node and its pods. It exists while `run` runs; cancelling `run` ends all processes."""

    def __init__(self, host: Host, port: int) -> None:
        self.host = host
        self.pods: dict[str, Pod] = {}
        """The pods by UID."""
        self.registered = asyncio.Event()
        self._port = port
        self._taken: set[str] = set()
        self._addresses = _addresses(host.ip)
        self._removals: set[asyncio.Task[None]] = set()
        self._grace_s: float | None = DRAIN_S

    @property
    def name(self) -> str:
        """Return the name of the Node object."""
        return self.host.spec.name

    async def run(self) -> None:
        """Run until cancelled; the pods then get a short grace period."""
        try:
            await self._register()
            backoff = Backoff(*REWATCH_S, random.random)
            follow_pods = Reflector(f"pods of {self.name}", _PodSource(self), backoff)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew_lease(), name=f"lease of {self.name}")
                group.create_task(self._report(), name=f"status of {self.name}")
                group.create_task(follow_pods.run(), name=f"pods of {self.name}")
        finally:
            await self._abandon()

    def die(self) -> None:
        """Simulate a power failure: kill all processes. The caller then cancels `run`."""
        self._grace_s = None
        for pod in self.pods.values():
            pod.kill()

    def find(self, namespace: str, name: str) -> Pod | None:
        """Return the newest pod with this name."""
        for pod in reversed(self.pods.values()):
            meta = pod.manifest["metadata"]
            if meta["namespace"] == namespace and meta["name"] == name:
                return pod
        return None

    async def _abandon(self) -> None:
        pods = list(self.pods.values())
        self.pods.clear()
        self._taken.clear()
        await asyncio.gather(*(pod.abandon(self._grace_s) for pod in pods), *self._removals)

    async def _register(self) -> None:
        spec = self.host.spec
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": spec.labels()},
            "spec": {"taints": spec.taints()},
        }
        while True:
            try:
                try:
                    await self.host.api.create("/api/v1/nodes", body)
                except ApiError as error:
                    if error.status != 409:
                        raise
                    # The Node exists already: keep its taints and its unschedulable flag.
                    await self.host.api.patch(
                        f"/api/v1/nodes/{self.name}", {"metadata": body["metadata"]}
                    )
                await self._write_lease()
                await self._write_status()
            except ApiError as error:
                _log.warning("node not registered node=%s error=%s", self.name, error)
                await asyncio.sleep(RETRY_S)
            else:
                self.registered.set()
                return

    async def _renew_lease(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._write_lease()
            except ApiError as error:
                _log.warning("lease not renewed node=%s error=%s", self.name, error)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            try:
                await self._write_status()
            except ApiError as error:
                _log.warning("node status not written node=%s error=%s", self.name, error)

    async def _write_lease(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": LEASE_S,
            "renewTime": rfc3339_micro(),
        }
        try:
            await self.host.api.patch(f"{path}/{self.name}", {"spec": spec})
        except ApiError as error:
            if error.status != 404:
                raise
            node = await self.host.api.get(f"/api/v1/nodes/{self.name}")
            owner = {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.name,
                "uid": node["metadata"]["uid"],
            }
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "ownerReferences": [owner]},
                "spec": spec,
            }
            await self.host.api.create(path, lease)

    async def _write_status(self) -> None:
        node = await self.host.api.get(f"/api/v1/nodes/{self.name}")
        old = {c["type"]: c for c in (node.get("status") or {}).get("conditions") or ()}
        now = rfc3339()
        conditions = []
        for kind, holds, reason, message in (
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is not watched"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "disk is not watched"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "process ids are not watched"),
            ("Ready", "True", "KubeletReady", "process node is posting ready status"),
        ):
            before = old.get(kind) or {}
            same = before.get("status") == holds
            conditions.append(
                {
                    "type": kind,
                    "status": holds,
                    "reason": reason,
                    "message": message,
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": before["lastTransitionTime"] if same else now,
                }
            )
        capacity = self.host.spec.capacity()
        status = {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": self.host.ip},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": VERSION,
                "containerRuntimeVersion": "process://1",
                "osImage": "local processes",
                "kernelVersion": "",
                "kubeProxyVersion": "",
                "bootID": "",
                "machineID": "",
                "systemUUID": "",
            },
        }
        await self.host.api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})

    def take(self, manifest: dict[str, Any]) -> None:
        """Start a new pod, or change a known one."""
        meta = manifest["metadata"]
        known = self.pods.get(meta["uid"])
        if known is not None:
            known.update(manifest)
            return
        if over(manifest) and "deletionTimestamp" not in meta:
            return  # it ended before this process started
        pod = Pod(self.host, manifest, self._address(manifest))
        self.pods[meta["uid"]] = pod
        if "deletionTimestamp" in meta:
            pod.update(manifest)
        else:
            pod.start()

    def forget(self, uid: str) -> None:
        """Remove a pod that the API server no longer has."""
        pod = self.pods.pop(uid, None)
        if pod is not None:
            removal = asyncio.create_task(self._remove_pod(pod), name=f"remove pod {uid}")
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove_pod(self, pod: Pod) -> None:
        """Remove a pod; after a forced deletion, its processes still run."""
        await pod.abandon(grace_s=1.0)
        self._taken.discard(pod.address)
        pod.remove()

    def _address(self, manifest: dict[str, Any]) -> str:
        if manifest["spec"].get("hostNetwork"):
            return self.host.ip
        wanted = (manifest.get("status") or {}).get("podIP")
        if wanted and wanted not in self._taken and wanted.startswith(_network(self.host.ip)):
            address = str(wanted)
        else:
            address = next(ip for ip in self._addresses if ip not in self._taken)
        self._taken.add(address)
        return address


def _network(ip: str) -> str:
    return ip.rpartition(".")[0] + "."


def _addresses(ip: str) -> Iterator[str]:
    """Yield the pod addresses of the node in a cycle, so that reuse is delayed."""
    while True:
        for last in range(2, 255):
            yield _network(ip) + str(last)


class _PodSource:
    """The pods of one node."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet
        self._selector = {"fieldSelector": f"spec.nodeName={kubelet.name}"}

    async def list(self) -> str:
        """List the pods of this node, start the new ones and remove those that are gone."""
        with _list_watch_errors():
            listed = await self._kubelet.host.api.get("/api/v1/pods", **self._selector)
        page = read_page(listed)
        for manifest in page.items:
            self._kubelet.take(manifest)
        for uid in self._kubelet.pods.keys() - {
            manifest["metadata"]["uid"] for manifest in page.items
        }:
            self._kubelet.forget(uid)
        return page.version

    async def watch(self, version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield the events of the pods of this node."""
        with _list_watch_errors():
            async for event in self._kubelet.host.api.watch(
                "/api/v1/pods", version, **self._selector
            ):
                yield event

    def on_event(self, event_type: str, manifest: dict[str, Any]) -> None:
        """Start, change or remove the pod of an event."""
        if event_type == DELETED:
            self._kubelet.forget(manifest["metadata"]["uid"])
        elif event_type != BOOKMARK:
            self._kubelet.take(manifest)

    def on_interrupted(self) -> None:
        """Do nothing: the pods go on."""


@contextmanager
def _list_watch_errors() -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        kind = ExpiredError if error.status == 410 else ListWatchError
        raise kind(str(error)) from error
