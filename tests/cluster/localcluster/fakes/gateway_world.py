"""A fake API server and fake runtime pods for gateways, all in one process and on one port.

Each pod has its own loopback address; by default it is the only pod of its service. It streams its
state, and accepts sessions until it is full. It ignores their bytes, except that it answers a close
frame. No node, process or GPU stands behind it. It shares processors with the gateways that are
measured, so its connections are protocols on uvloop, and its own processor time is in its counts.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from avatar_contracts import labels
from avatar_contracts.state import LINE_AGE_S, LINE_SPACING_S
from avatar_gateway import event_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMESPACE: Final = "bench"
CAPACITY: Final = 8
"""Sessions of a pod."""
_CLOSE: Final = 8
_CLOSED: Final = bytes((0x80 | _CLOSE, 2)) + (1000).to_bytes(2)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RUNNING: Final = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
_KEY: Final = re.compile(rb"\r\nsec-websocket-key: *([^\r ]+)", re.IGNORECASE)
_STREAM: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_FULL_BODY: Final = b'{"error": {"code": "no_capacity"}}'
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_FULL_BODY), _FULL_BODY)
)
_ACCEPTED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


def service_name(number: int) -> str:
    """Return the name of a service, and of the pod with the same number."""
    return f"s{number:05}"


def address(number: int) -> str:
    """Return the loopback address of a pod."""
    return f"127.78.{number // 250}.{number % 250 + 1}"


class _Pod:
    """One pod: its sessions, and the connections that read its state."""

    def __init__(self, number: int, service: str, *, reports_changes: bool) -> None:
        self.live = 0
        self._sequence = 0
        self._watchers: set[asyncio.Transport] = set()
        self._reports_changes = reports_changes
        self._sent_at = 0.0
        self._next: asyncio.TimerHandle | None = None
        self._is_due = False
        text = json.dumps(_state(service_name(number), f"{NAMESPACE}/{service}"))
        before, _, after = text.partition('"LIVE"')
        middle, _, end = after.partition('"FREE"')
        self._parts = before.encode(), middle.encode(), end[:-1].encode()

    def watch(self, transport: asyncio.Transport) -> None:
        """Send the state now, at changes and at least every second."""
        transport.write(_STREAM + self._line())
        self._watchers.add(transport)
        if self._next is None:
            self._schedule(LINE_AGE_S)

    def unwatch(self, transport: asyncio.Transport) -> None:
        """Send nothing more to a connection that has ended."""
        self._watchers.discard(transport)
        if not self._watchers and self._next is not None:
            self._next.cancel()
            self._next = None

    def change_live(self, change: int) -> None:
        """Count a session that began or ended."""
        self.live += change
        if self._reports_changes and self._watchers and not self._is_due:
            self._is_due = True
            now = asyncio.get_running_loop().time()
            self._schedule(max(0.0, self._sent_at + LINE_SPACING_S - now))

    def _schedule(self, delay_s: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next = asyncio.get_running_loop().call_later(delay_s, self._send)

    def _send(self) -> None:
        self._is_due, self._sent_at = False, asyncio.get_running_loop().time()
        line = self._line()
        for watcher in self._watchers:
            watcher.write(line)
        self._schedule(LINE_AGE_S)

    def _line(self) -> bytes:
        self._sequence += 1
        before, middle, end = self._parts
        line = b"%s%d%s%d%s, \"sequence\": %d}\n" % (
            before, self.live, middle, CAPACITY - self.live, end, self._sequence,
        )  # fmt: skip
        return b"%x\r\n%s\r\n" % (len(line), line)


class World:
    """The objects and the connections."""

    def __init__(
        self,
        pods: int,
        port: int,
        services: int = 0,
        sessions_port: int = 0,
        objects: Mapping[str, Any] | None = None,
    ) -> None:
        """Pod number N belongs to service number N modulo `services`, which is `pods` if it is 0.

        With `services`, each pod reports changes as a runtime does: at most ten lines a second.
        With `sessions_port`, sessions go to another process at this port of each address.
        `objects` are the other objects of the API server, by the plural of their kind.
        """
        self._ports = {
            labels.SESSIONS_PORT_NAME: sessions_port or port,
            labels.ADMIN_PORT_NAME: port,
        }
        self._services = services or pods
        self._objects = objects or {}
        self._pods = [
            _Pod(number, service_name(number % self._services), reports_changes=services > 0)
            for number in range(pods)
        ]
        self.over_capacity = 0
        """Sessions that were refused because their pod was full."""
        self.opened = 0
        """Sessions that were accepted."""
        self._numbers = {address(number): number for number in range(pods)}
        self.streams = 0
        """State streams that are open now."""

    def pod_at(self, host: str) -> _Pod | None:
        """Return the pod with an address; None for that of the API server."""
        number = self._numbers.get(host)
        return None if number is None else self._pods[number]

    def answer(self, path: str) -> bytes:
        """Return the answer of the API server to a request that is no watch."""
        if path == "/streams":
            body: Any = {
                "streams": self.streams,
                "sessions": sum(pod.live for pod in self._pods),
                "most_sessions_of_a_pod": max((pod.live for pod in self._pods), default=0),
                "opened": self.opened,
                "over_capacity": self.over_capacity,
                "cpu_s": time.process_time(),
            }
        else:
            items: list[dict[str, Any]] = self._objects.get(path.rpartition("/")[2], [])
            if path.endswith(f"/{labels.SERVICES}"):
                items = [_named(number) for number in range(self._services)]
            elif path.endswith("/pods"):
                items = [self._pod_object(number) for number in range(len(self._pods))]
            body = {"items": items, "metadata": {"resourceVersion": "1"}}
        data = json.dumps(body).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)

    def _pod_object(self, number: int) -> dict[str, Any]:
        metadata, service = _named(number)["metadata"], service_name(number % self._services)
        version = f"{labels.GROUP}/{labels.VERSION}"
        owner: dict[str, Any] = {"apiVersion": version, "kind": labels.SERVICE_KIND}
        owner |= {"name": service, "uid": service, "controller": True}
        ports = [{"name": name, "containerPort": port} for name, port in self._ports.items()]
        return {
            "metadata": {
                **metadata,
                "labels": {
                    labels.LABEL_NAME: labels.RUNTIME_NAME,
                    labels.LABEL_SERVICE: service,
                },
                "ownerReferences": [owner],
            },
            "spec": {"containers": [{"ports": ports}]},
            "status": {**_RUNNING, "podIP": address(number)},
        }


class _Connection(asyncio.Protocol):
    """One connection, to the API server or to a pod."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._unread = b""
        self._receive: Callable[[bytes], None] = self._receive_request
        self._on_end: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out whose connection it is."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._pod = self._world.pod_at(transport.get_extra_info("sockname")[0])

    def data_received(self, data: bytes) -> None:
        """Handle what a gateway sends."""
        self._receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the end of a stream or of a session."""
        del exc
        self._on_end()

    def _receive_request(self, data: bytes) -> None:
        self._unread += data
        head, found, rest = self._unread.partition(b"\r\n\r\n")
        if not found:
            return
        self._unread = rest
        target = urlsplit(head.split(b" ", 2)[1].decode())
        if self._pod is None:
            if "watch=" in target.query:
                self._transport.write(_STREAM)
            else:
                self._transport.write(self._world.answer(target.path))
        elif target.path == "/v1/realtime":
            self._open_session(self._pod, head)
        elif target.path == labels.STATE_PATH:
            self._open_states(self._pod)
        elif target.path in (labels.SNAPSHOTS_PATH, labels.USAGE_PATH):
            self._transport.write(_STREAM)  # nothing is known of idle sessions
        else:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def _open_states(self, pod: _Pod) -> None:
        self._world.streams += 1
        pod.watch(self._transport)

        def end() -> None:
            self._world.streams -= 1
            pod.unwatch(self._transport)

        self._on_end = end

    def _open_session(self, pod: _Pod, head: bytes) -> None:
        key = _KEY.search(head)
        if pod.live >= CAPACITY or key is None:
            self._world.over_capacity += 1
            self._transport.write(_FULL)
            return
        digest = hashlib.sha1(key[1] + _GUID, usedforsecurity=False).digest()
        self._transport.write(_ACCEPTED % base64.b64encode(digest))
        self._world.opened += 1
        pod.change_live(1)
        self._receive = self._receive_frames
        self._on_end = lambda: pod.change_live(-1)

    def _receive_frames(self, data: bytes) -> None:
        if data[0] & 0x0F == _CLOSE:
            self._transport.write(_CLOSED)
            self._transport.close()


def _state(pod: str, service: str) -> dict[str, Any]:
    """Return the state of a pod, without its sequence and with names for what changes."""
    return {
        "pod": pod,
        "service": service,
        "gpu_class": "rtx-4090", "batch_size": 8, "batch_limit": 8, "capacity": CAPACITY,
        "sessions": "LIVE", "speaking": 0, "free": "FREE",
        "draining": False, "ready": True,
        "vram": {"used_bytes": 5 << 30, "total_bytes": 24 << 30, "ratio": 0.2083},
        "latency_ms": {"first_frame_p95": None, "frame_p95": None},
        "deadline_miss_ratio": 0.0, "batch_fill_ratio": 0.0, "device": "simulated",
        "calibration": None,
    }  # fmt: skip


def _named(number: int) -> dict[str, Any]:
    name = service_name(number)
    return {"metadata": {"namespace": NAMESPACE, "name": name, "uid": name, "resourceVersion": "1"}}


async def _main(
    pods: int, port: int, services: int, sessions_port: int, objects: Mapping[str, Any]
) -> None:
    world, loop = World(pods, port, services, sessions_port, objects), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(world), "0.0.0.0", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    _pods, _port, _services, _sessions_port = map(int, sys.argv[1:5])
    event_loop.run(_main(_pods, _port, _services, _sessions_port, json.loads(sys.argv[5])))
