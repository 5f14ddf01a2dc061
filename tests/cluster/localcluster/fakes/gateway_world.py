"""A fake API server and fake runtime pods for one gateway, all in one process and on one port.

Each pod has its own loopback address and is the only pod of its service. It streams an idle state,
and accepts sessions, whose bytes it ignores. No node, process or GPU stands behind it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sys
from typing import Any, Final
from urllib.parse import urlsplit

from avatar_contracts import labels
from avatar_contracts.state import LINE_AGE_S

NAMESPACE: Final = "bench"
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RUNNING: Final = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def service_name(number: int) -> str:
    """Return the name of a service; its pod has the same name."""
    return f"s{number:05}"


def address(number: int) -> str:
    """Return the loopback address of a pod."""
    return f"127.78.{number // 250}.{number % 250 + 1}"


class World:
    """The objects and the connections."""

    def __init__(self, pods: int, port: int, sessions_port: int | None = None) -> None:
        """With `sessions_port`, sessions go to another process at this port of each address."""
        self._ports = {
            labels.SESSIONS_PORT_NAME: sessions_port or port,
            labels.ADMIN_PORT_NAME: port,
        }
        self._pods = pods
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
                else:
                    await self._accept_session(reader, writer, head)
        writer.close()

    async def _answer_api(self, writer: asyncio.StreamWriter, path: str, is_watch: bool) -> None:
        if path == "/streams":
            body: Any = {"streams": self.streams, "sessions": self.sessions}
        elif is_watch:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await asyncio.Event().wait()
        else:
            make = _service if path.endswith(labels.SERVICES) else self._pod
            items = [make(number) for number in range(self._pods)]
            body = {"items": items, "metadata": {"resourceVersion": "1"}}
        data = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
        await writer.drain()

    def _pod(self, number: int) -> dict[str, Any]:
        metadata = _service(number)["metadata"]
        version = f"{labels.GROUP}/{labels.VERSION}"
        owner: dict[str, Any] = {"apiVersion": version, "kind": labels.SERVICE_KIND}
        owner |= {"name": metadata["name"], "uid": metadata["name"], "controller": True}
        return {
            "metadata": {
                **metadata,
                "labels": {
                    labels.LABEL_NAME: labels.RUNTIME_NAME,
                    labels.LABEL_SERVICE: metadata["name"],
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
        sequence = 0
        try:
            while not writer.is_closing():
                sequence += 1
                line = json.dumps(_state(number) | {"sequence": sequence}).encode() + b"\n"
                writer.write(b"%x\r\n%s\r\n" % (len(line), line))
                await asyncio.sleep(LINE_AGE_S)
        finally:
            self.streams -= 1

    async def _accept_session(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str
    ) -> None:
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
        self.sessions += 1
        try:
            while await reader.read(2**16):
                pass
        finally:
            self.sessions -= 1


def _service(number: int) -> dict[str, Any]:
    name = service_name(number)
    return {"metadata": {"namespace": NAMESPACE, "name": name, "uid": name, "resourceVersion": "1"}}


def _state(number: int) -> dict[str, Any]:
    name = service_name(number)
    return {
        "pod": name, "service": f"{NAMESPACE}/{name}", "gpu_class": "rtx-4090", "batch_size": 8,
        "batch_limit": 8, "capacity": 8, "sessions": 0, "speaking": 0, "free": 8,
        "draining": False, "ready": True,
        "vram": {"used_bytes": 5 << 30, "total_bytes": 24 << 30, "ratio": 0.2083},
        "latency_ms": {"first_frame_p95": None, "frame_p95": None}, "deadline_miss_ratio": 0.0,
        "batch_fill_ratio": 0.0, "device": "simulated", "calibration": None,
    }  # fmt: skip


async def _main(pods: int, port: int, sessions_port: int | None = None) -> None:
    world = World(pods, port, sessions_port)
    server = await asyncio.start_server(world.serve, "0.0.0.0", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))
