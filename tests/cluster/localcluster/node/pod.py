"""Runs one pod from its volumes to its removal, and writes each change of its status."""

from __future__ import annotations

import asyncio
import logging
import shutil
from typing import TYPE_CHECKING, Any, Final

from .clock import rfc3339
from .container import Container
from .errors import ApiError, MountError
from .resolve import Place
from .setting import Host, Setting
from .status import Json, PodFacts, Terminated, initial, pod_status
from .volumes import REFRESH_S, Volumes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)
RETRY_S: Final = 1.0


class Pod:
    """One pod of the node; owns its containers and is the only writer of its status."""

    def __init__(self, host: Host, manifest: Json, address: str) -> None:
        self.manifest = manifest
        self.address = address
        self._host = host
        self._meta = manifest["metadata"]
        self._path = f"/api/v1/namespaces/{self._meta['namespace']}/pods/{self._meta['name']}"
        self._started_at = rfc3339()
        self._failed: tuple[str, str] | None = None
        self._dirty = asyncio.Event()
        self._written: Json | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None
        place = Place(address, host.ip, host.spec.capacity())
        folder = host.folder / self._meta["uid"]
        volumes = Volumes(host.api, manifest, place, folder / "volumes")
        self._setting = Setting(host, manifest, place, volumes, folder)
        self._init, self._main = self._make_containers()

    @property
    def folder(self) -> Path:
        """Return the folder of its logs and volumes."""
        return self._setting.folder

    @property
    def ending(self) -> bool:
        """Return whether the pod is terminating."""
        return self._ending is not None

    def container(self, name: str) -> Container | None:
        """Return the container with this name, including init containers."""
        return next((c for c in (*self._init, *self._main) if c.record.name == name), None)

    def start(self) -> None:
        """Start the pod."""
        name = f"{self._meta['namespace']}/{self._meta['name']}"
        self._tasks = [
            asyncio.create_task(self._guarded(self._run()), name=f"pod {name}"),
            asyncio.create_task(self._guarded(self._publish()), name=f"status of {name}"),
        ]

    def update(self, manifest: Json) -> None:
        """Update the pod from the API server; a deletion starts its termination."""
        self.manifest = manifest
        if "deletionTimestamp" not in manifest["metadata"]:
            self._dirty.set()  # another client may have changed a readiness gate
            return
        grace_s = float(manifest["metadata"].get("deletionGracePeriodSeconds") or 0)
        if self._ending is None:
            self._ending = asyncio.create_task(self._guarded(self._end(grace_s)))
        else:
            # A second deletion can shorten the grace period, but not extend it.
            asyncio.get_running_loop().call_later(grace_s, self.kill)

    def kill(self) -> None:
        """Kill all its processes."""
        for container in (*self._init, *self._main):
            container.kill()

    async def abandon(self, grace_s: float | None) -> None:
        """Stop everything without a status update: the node stops, or the pod object is deleted.

        Without a grace period the processes are killed, without hooks and Events.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if grace_s is None:
            self.kill()
        await self._stop_containers(grace_s or 0.0)
        if self._ending is not None:
            await asyncio.wait([self._ending], timeout=1)
            self._ending.cancel()

    def remove(self) -> None:
        """Delete its folder."""
        shutil.rmtree(self._setting.folder, ignore_errors=True)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.exception("pod failed pod=%s/%s", self._meta["namespace"], self._meta["name"])
            self.kill()
            self._failed = ("NodeError", f"the process node failed: {error!r}")
            self._dirty.set()

    def _make_containers(self) -> tuple[tuple[Container, ...], tuple[Container, ...]]:
        spec, status = self.manifest["spec"], self.manifest.get("status") or {}
        lists = []
        for field, known in (
            ("initContainers", "initContainerStatuses"),
            ("containers", "containerStatuses"),
        ):
            old = {item["name"]: item for item in status.get(known) or ()}
            first = field == "containers" and spec.get("initContainers")
            reason = "PodInitializing" if first else "ContainerCreating"
            lists.append(
                tuple(
                    Container(
                        self._setting,
                        body,
                        initial(body, old.get(body["name"]), reason),
                        init=field == "initContainers",
                        changed=self._dirty.set,
                    )
                    for body in spec.get(field) or ()
                )
            )
        return lists[0], lists[1]

    async def _run(self) -> None:
        _folders(self._setting.folder)
        self._dirty.set()
        await self._set_up_volumes()
        for container in self._init:
            await container.run()
            state = container.record.state
            if isinstance(state, Terminated) and state.code != 0:
                return  # the restart policy forbids another run: the pod has failed
        async with asyncio.TaskGroup() as group:
            refresh = group.create_task(self._refresh())
            async with asyncio.TaskGroup() as running:
                for container in self._main:
                    running.create_task(container.run(), name=container.record.name)
            refresh.cancel()

    async def _set_up_volumes(self) -> None:
        said = ""
        while True:
            try:
                await self._setting.volumes.set_up()
            except MountError as error:
                if str(error) != said:
                    said = str(error)
                    text = f"MountVolume.SetUp failed: {error}"
                    self._setting.event("", "FailedMount", text, "Warning")
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self._setting.volumes.set_up()
            except MountError as error:
                _log.info("volumes not refreshed pod=%s error=%s", self._meta["name"], error)

    async def _end(self, grace_s: float) -> None:
        """Stop the containers, write the status, and delete the pod object."""
        for task in self._tasks[:1]:
            await _cancelled(task)
        await self._stop_containers(grace_s)
        for task in self._tasks[1:]:  # the status is written until this point
            await _cancelled(task)
        while True:
            try:
                await self._write_status()
                await self._host.api.delete(
                    self._path,
                    {
                        "apiVersion": "v1",
                        "kind": "DeleteOptions",
                        "gracePeriodSeconds": 0,
                        "preconditions": {"uid": self._meta["uid"]},
                    },
                )
            except ApiError as error:
                if error.status not in (404, 409):  # deleted, or another pod has this name now
                    _log.warning("pod not deleted pod=%s error=%s", self._meta["name"], error)
                    await asyncio.sleep(RETRY_S)
                    continue
            return

    async def _stop_containers(self, grace_s: float) -> None:
        await asyncio.gather(*(c.stop(grace_s) for c in (*self._init, *self._main)))

    async def _publish(self) -> None:
        """Write each change of the status until the pod ends."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write_status()
            except ApiError as error:
                if error.status in (404, 409):  # deleted, or another pod has this name now
                    return
                _log.warning("status not written pod=%s error=%s", self._meta["name"], error)
                self._dirty.set()
                await asyncio.sleep(RETRY_S)

    async def _write_status(self) -> None:
        facts = self._facts()
        previous = self._written or self.manifest.get("status") or {}
        gates = {c["type"]: c for c in (self.manifest.get("status") or {}).get("conditions") or ()}
        known = {c["type"]: c for c in previous.get("conditions") or ()}
        merged = {"conditions": list({**gates, **known}.values())}
        status = pod_status(facts, merged, rfc3339())
        if status == self._written:
            return
        uid = {"metadata": {"uid": self._meta["uid"]}}  # never of another pod with the same name
        await self._host.api.patch(f"{self._path}/status", {**uid, "status": status})
        self._written = status

    def _facts(self) -> PodFacts:
        spec = self.manifest["spec"]
        return PodFacts(
            init=tuple(container.record for container in self._init),
            main=tuple(container.record for container in self._main),
            restart_policy=spec.get("restartPolicy", "Always"),
            started_at=self._started_at,
            pod_ip=self.address,
            host_ip=self._host.ip,
            generation=int(self.manifest["metadata"].get("generation") or 0),
            gates=tuple(gate["conditionType"] for gate in spec.get("readinessGates") or ()),
            failed=self._failed,
        )


def over(manifest: Mapping[str, Any]) -> bool:
    """Return whether the status says that the pod has ended."""
    return (manifest.get("status") or {}).get("phase") in ("Succeeded", "Failed")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _folders(folder: Path) -> None:
    for name in ("home", "logs", "volumes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
