"""Writes the Events of the process nodes in the background, and counts repeated ones."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .clock import rfc3339
from .errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .api import Api

_log = logging.getLogger(__name__)
WAITING: Final = 1000  # if more Events wait, new ones are dropped and logged
REMEMBERED: Final = 4000


@dataclass(frozen=True, slots=True)
class Event:
    """One Event of a pod or of one of its containers."""

    pod: Mapping[str, Any]
    container: str
    """The name of the container with the field that lists it; empty for the pod itself."""
    kind: str
    reason: str
    message: str


class Recorder:
    """Sends Events in turn; a repeated Event increases the count of the first one."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._queue: asyncio.Queue[tuple[Event, str]] = asyncio.Queue(WAITING)
        self._sent: dict[tuple[str, str, str, str], tuple[str, int]] = {}

    def record(self, event: Event, node: str) -> None:
        """Queue an Event without waiting."""
        try:
            self._queue.put_nowait((event, node))
        except asyncio.QueueFull:
            _log.warning("event dropped reason=%s message=%s", event.reason, event.message[:200])

    async def run(self) -> None:
        """Send the queued Events until cancelled."""
        while True:
            event, node = await self._queue.get()
            try:
                await self._send(event, node)
            except ApiError as error:
                if error.status not in (403, 404):  # the namespace is terminating
                    _log.warning("event not written reason=%s error=%s", event.reason, error)

    async def _send(self, event: Event, node: str) -> None:
        meta = event.pod["metadata"]
        key = (meta["uid"], event.container, event.reason, event.message)
        path = f"/api/v1/namespaces/{meta['namespace']}/events"
        name, count = self._sent.get(key, ("", 0))
        if name:
            body: dict[str, Any] = {"count": count + 1, "lastTimestamp": rfc3339()}
            try:
                await self._api.patch(f"{path}/{name}", body)
            except ApiError as error:
                if error.status != 404:
                    raise
                name, count = "", 0
        if not name:
            name = f"{meta['name']}.{uuid.uuid4().hex[:16]}"
            await self._api.create(path, _body(event, node, name))
        self._sent[key] = (name, count + 1)
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]


def _body(event: Event, node: str, name: str) -> dict[str, Any]:
    meta = event.pod["metadata"]
    now = rfc3339()
    target = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }
    if event.container:
        target["fieldPath"] = event.container
    return {
        "metadata": {"name": name, "namespace": meta["namespace"]},
        "involvedObject": target,
        "type": event.kind,
        "reason": event.reason,
        "message": event.message[:1024],
        "source": {"component": "kubelet", "host": node},
        "reportingComponent": "kubelet",
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
