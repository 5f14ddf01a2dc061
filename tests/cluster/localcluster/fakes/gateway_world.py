"""A fake API server and fake runtime pods for gateways, all in one process and on one port.

Each pod has its own loopback address; by default it is the only pod of its service. It streams its
state, and accepts sessions until it is full. It ignores their bytes, except that it answers a close
frame. No node, process or GPU stands behind it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from avatar_contracts import labels
from avatar_contracts.state import LINE_AGE_S, LINE_SPACING_S

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE: Final = "bench"
CAPACITY: Final = 8
"""Sessions of a pod."""
_CLOSE: Final = 8
_NORMAL: Final = 1000
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RUNNING: Final = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def service_name(number: int) -> str:
    """Return the name of a service, and of the pod with the same number."""
    return f"s{number:05}"


def address(number: int) -> str:
    """Return the loopback address of a pod."""
    return f"127.78.{number // 250}.{number % 250 + 1}"


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
        self._forever = asyncio.Event()  # kept: a task that waits for a lost one is collected
        self._ports = {
            labels.SESSIONS_PORT_NAME: sessions_port or port,
            labels.ADMIN_PORT_NAME: port,
        }
        self._pods = pods
        self._services = services or pods
        self._objects = objects or {}
        self._reports_changes = services > 0
        self._live = [0] * pods
        self._changed = [asyncio.Event() for _ in range(pods)]
        self.over_capacity = 0
        """Sessions that were refused because their pod was full."""
        self._numbers = {address(number): number for number in range(pods)}
        self.streams = 0
        """State streams that are open now."""
        self.sessions = 0
        """Sessions that are open now."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                target = urlsplit(head.split(" ", 2)[1])
                number = self._numbers.get(writer.get_extra_info("sockname")[0])
                if number is None:
                    await self._answer_api(writer, target.path, "watch=" in target.query)
                elif target.path == labels.STATE_PATH:
                    await self._send_states(writer, number)
                elif target.path in (labels.SNAPSHOTS_PATH, labels.USAGE_PATH):
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    await reader.read()  # nothing is known of idle sessions
                elif target.path == "/v1/realtime":
                    await self._accept_session(reader, writer, head, number)
                else:
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def _answer_api(self, writer: asyncio.StreamWriter, path: str, is_watch: bool) -> None:
        if path == "/streams":
            body: Any = {
                "streams": self.streams,
                "sessions": self.sessions,
                "over_capacity": self.over_capacity,
            }
        elif is_watch:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await self._forever.wait()
        else:
            items: list[dict[str, Any]] = self._objects.get(path.rpartition("/")[2], [])
            if path.endswith(f"/{labels.SERVICES}"):
                items = [_named(number) for number in range(self._services)]
            elif path.endswith("/pods"):
                items = [self._pod(number) for number in range(self._pods)]
            body = {"items": items, "metadata": {"resourceVersion": "1"}}
        data = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
        await writer.drain()

    def _pod(self, number: int) -> dict[str, Any]:
        metadata, service = _named(number)["metadata"], service_name(number % self._services)
        version = f"{labels.GROUP}/{labels.VERSION}"
        owner: dict[str, Any] = {"apiVersion": version, "kind": labels.SERVICE_KIND}
        owner |= {"name": service, "uid": service, "controller": True}
        return {
            "metadata": {
                **metadata,
                "labels": {
                    labels.LABEL_NAME: labels.RUNTIME_NAME,
                    labels.LABEL_SERVICE: service,
                },
                "ownerReferences": [owner],
            },
            "spec": {
                "containers": [
                    {
                        "ports": [
                            {"name": name, "containerPort": port}
                            for name, port in self._ports.items()
                        ]
                    }
                ]
            },
            "status": {**_RUNNING, "podIP": address(number)},
        }

    async def _send_states(self, writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.streams += 1
        sequence, changed = 0, self._changed[number]
        try:
            while not writer.is_closing():
                sequence += 1
                changed.clear()
                line = json.dumps(self._state(number) | {"sequence": sequence}).encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(line), line))
                if self._reports_changes:
                    await asyncio.sleep(LINE_SPACING_S)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LINE_AGE_S - LINE_SPACING_S):
                            await changed.wait()
                else:
                    await asyncio.sleep(LINE_AGE_S)
        finally:
            self.streams -= 1

    def _change_live(self, number: int, change: int) -> None:
        self._live[number] += change
        self.sessions += change
        self._changed[number].set()

    async def _accept_session(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, number: int
    ) -> None:
        if self._live[number] >= CAPACITY:
            self.over_capacity += 1
            body = b'{"error": {"code": "no_capacity"}}'
            writer.write(
                b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            return
        key = next(
            line.partition(": ")[2] for line in head.split("\r\n")
            if line.lower().startswith("sec-websocket-key")
        )  # fmt: skip
        digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
        accept = base64.b64encode(digest)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n" % accept
        )
        self._change_live(number, 1)
        try:
            while data := await reader.read(2**16):
                if data[0] & 0x0F == _CLOSE:
                    writer.write(bytes((0x80 | _CLOSE, 2)) + _NORMAL.to_bytes(2))
                    break
        finally:
            self._change_live(number, -1)

    def _state(self, number: int) -> dict[str, Any]:
        live = self._live[number]
        return {
            "pod": service_name(number),
            "service": f"{NAMESPACE}/{service_name(number % self._services)}",
            "gpu_class": "rtx-4090", "batch_size": 8, "batch_limit": 8, "capacity": CAPACITY,
            "sessions": live, "speaking": 0, "free": CAPACITY - live,
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
    world = World(pods, port, services, sessions_port, objects)
    server = await asyncio.start_server(world.serve, "0.0.0.0", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    _pods, _port, _services, _sessions_port = map(int, sys.argv[1:5])
    asyncio.run(_main(_pods, _port, _services, _sessions_port, json.loads(sys.argv[5])))
