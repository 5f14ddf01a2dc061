"""Hollow GPU nodes of several classes; their pods can fail, and end after their sessions.

Adds to `localcluster.fakes.hollow_pods`: nodes of several classes, images that cannot be pulled,
and the preStop hook of a runtime pod: a pod that is deleted gracefully drains and ends with its
last session. A session is cut if its pod disappears earlier.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Final

from localcluster.fakes.hollow_pods import CAPACITY, HollowNodes, HollowPod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcluster.controlplane.kubeapi import Api, Body
    from localcluster.faults.shared_campaign import GPUClass

START_S: Final = 0.2
"""From the binding of a pod to its readiness."""
IMAGE_CHECK: Final = "avatar.musetalk.io/image-check"
ROOM: Final = {"cpu": "64", "memory": "256Gi", "pods": "110"}


class MixedNodes(HollowNodes):
    """Hollow nodes of several classes and the hollow pods on them."""

    def __init__(self, api: Api, classes: Sequence[GPUClass], missing_image: str) -> None:
        super().__init__(api, 0, start_s=START_S)
        self.node_classes = {
            f"hollow-{each.name}-{number}": each for each in classes for number in range(each.nodes)
        }
        self._nodes = list(self.node_classes)
        self._missing_image = missing_image
        self._terminating: dict[str, Body] = {}  # by UID: pods that wait for their sessions

    def open_pods(self) -> list[HollowPod]:
        """Return the pods that accept another session, by namespace and name."""
        pods = (pod for pod in self.hollow_pods.values() if pod.ready and not pod.draining)
        found = [pod for pod in pods if pod.sessions < CAPACITY]
        return sorted(found, key=lambda pod: (pod.namespace, pod.name))

    def busy_pods(self) -> list[HollowPod]:
        """Return the pods with sessions, by namespace and name."""
        found = [pod for pod in self.hollow_pods.values() if pod.sessions]
        return sorted(found, key=lambda pod: (pod.namespace, pod.name))

    def draining(self) -> frozenset[str]:
        """Return the UIDs of the pods that drain."""
        return frozenset(uid for uid, pod in self.hollow_pods.items() if pod.draining)

    async def set_sessions(self, hollow_pod: HollowPod, sessions: int) -> None:
        await super().set_sessions(hollow_pod, sessions)
        uid = next((uid for uid, pod in self.hollow_pods.items() if pod is hollow_pod), "")
        if not sessions and uid in self._terminating:
            await super()._end_pod(self._terminating.pop(uid))

    async def _register(self, node: str) -> None:
        gpu_class = self.node_classes[node]
        labels = {
            "kubernetes.io/hostname": node,
            "nvidia.com/gpu.product": gpu_class.product,
            "nvidia.com/gpu.memory": str(gpu_class.memory_mib),
            "nvidia.com/gpu.count": str(gpu_class.gpus_per_node),
        }
        spec = {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}
        body = {"metadata": {"name": node, "labels": labels}, "spec": spec}
        await self._api.post("/api/v1/nodes", body)

    async def _report_nodes(self) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now}
        for node, room in self._rooms().items():
            if node in self._lost:
                continue
            status = {"capacity": room, "allocatable": room, "conditions": [ready]}
            await self._api.merge(f"/api/v1/nodes/{node}/status", {"status": status})

    def _rooms(self) -> dict[str, dict[str, str]]:
        """Return what each node offers."""
        return {
            node: {**ROOM, "nvidia.com/gpu": str(gpu_class.gpus_per_node)}
            for node, gpu_class in self.node_classes.items()
        }

    async def _start_pod(self, pod: Body) -> None:
        (container,) = pod["spec"]["containers"]
        if container["image"] != self._missing_image:
            if IMAGE_CHECK in pod["metadata"].get("labels", {}):
                await self._end_image_check(pod)
            else:
                await super()._start_pod(pod)
            return
        pull = f'Back-off pulling image "{container["image"]}": ErrImagePull: rpc error'
        message = f"{pull}: code = NotFound desc = failed to resolve image: not found"
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
        state = {"name": container["name"], "state": waiting, "ready": False, "started": False}
        status = {
            "phase": "Pending",
            "containerStatuses": [
                {**state, "restartCount": 0, "image": container["image"], "imageID": ""}
            ],
        }
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        await self._api.merge(path, {"status": status})

    async def _end_image_check(self, pod: Body) -> None:
        """End a pod that only pulls its image."""
        (container,) = pod["spec"]["containers"]
        ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        state = {"name": container["name"], "state": ended, "ready": False, "restartCount": 0}
        image = {"image": container["image"], "imageID": container["image"]}
        status = {"phase": "Succeeded", "containerStatuses": [{**state, **image}]}
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        await self._api.merge(path, {"status": status})

    async def _end_pod(self, pod: Body) -> None:
        metadata = pod["metadata"]
        hollow_pod = self.hollow_pods.get(metadata["uid"])
        grace_s = metadata.get("deletionGracePeriodSeconds", 0)
        graceful = grace_s and grace_s >= pod["spec"].get("terminationGracePeriodSeconds", 0)
        if hollow_pod is not None and graceful:
            hollow_pod.draining = True  # the preStop hook: no session starts from now on
        if hollow_pod is None or not hollow_pod.sessions:
            await super()._end_pod(pod)
        elif graceful:
            self._terminating[metadata["uid"]] = pod
            await self._notify()
        else:
            await super()._end_pod(pod)  # counts as cut

    async def _remove_pod(self, uid: str) -> None:
        hollow_pod = self.hollow_pods.get(uid)
        self._terminating.pop(uid, None)
        if (
            hollow_pod is not None
            and hollow_pod.sessions
            and hollow_pod not in self.deleted_with_sessions
        ):
            self.deleted_with_sessions.append(hollow_pod)
        await super()._remove_pod(uid)
