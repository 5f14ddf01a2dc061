"""The WebSocket handshake with callers and with pods (RFC 6455, section 4)."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import EMPTY_PAYLOAD, web

from avatar_contracts import labels, session_ids
from avatar_gateway.serving import pod_connection
from avatar_gateway.serving.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.typedefs import Handler

    from avatar_gateway.core.memory_budget import MemoryBudget

REALTIME: Final = "realtime"
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64."""
_SECONDS: Final = re.compile(r"[0-9]{1,4}")
_SWITCHING: Final = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
    "Sec-WebSocket-Accept: %s\r\n"
)


def offered_subprotocols(request: web.Request) -> Sequence[str]:
    """Return the subprotocols that a caller offers."""
    lines = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [name.strip() for line in lines for name in line.split(",") if name.strip()]


def is_upgrade(request: web.Request) -> bool:
    """Return whether a request asks for a WebSocket of the version that the gateway speaks."""
    headers = request.headers
    connection = {word.strip().lower() for word in headers.get("Connection", "").split(",")}
    return (
        headers.get("Upgrade", "").strip().lower() == "websocket"
        and "upgrade" in connection
        and headers.get("Sec-WebSocket-Version") == "13"
    )


def has_valid_key(request: web.Request) -> bool:
    """Return whether a handshake contains exactly one key, of 16 bytes in base64."""
    keys = request.headers.getall("Sec-WebSocket-Key", [])
    return len(keys) == 1 and _KEY.fullmatch(keys[0].strip()) is not None


def stop_reading(request: web.Request) -> None:
    """Leave what a caller sends after its handshake in the network until it is accepted."""
    request.protocol.pause_reading()


def refuse(request: web.Request) -> None:
    """Drop what a refused caller sent after its handshake; nothing more of it is read."""
    request.protocol.set_parser(_Discard())  # type: ignore[arg-type]  # needs only its two methods


class _Discard:
    """Takes the place of a WebSocket parser. Without one, aiohttp parses the bytes as HTTP."""

    def feed_data(self, _: bytes) -> tuple[bool, bytes]:
        return False, b""

    def feed_eof(self) -> None:
        """Do nothing."""


class _Accepted(web.StreamResponse):
    """What aiohttp gets when the handshake has been answered: it has nothing to write.

    Its own way to the same four lines takes more time than the rest of `accept`.
    """

    def __init__(self) -> None:
        super().__init__(status=HTTPStatus.SWITCHING_PROTOCOLS)
        self.force_close()

    @property
    def prepared(self) -> bool:
        """Return whether the head has been sent."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the connection is that of the `Peer`, which ends it."""


@web.middleware
async def refuse_completely(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read nothing after a handshake that is not accepted, and close its connection."""
    if "Upgrade" not in request.headers:
        return await handler(request)
    stop_reading(request)
    try:
        response = await handler(request)
    except web.HTTPException as answer:
        refuse(request)
        answer.force_close()
        raise
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        refuse(request)
        response.force_close()
    return response


async def accept(
    request: web.Request, budget: MemoryBudget, chosen: str | None
) -> tuple[web.StreamResponse, Peer]:
    """Accept a handshake; return the response for aiohttp, and the caller.

    It selects the pod's subprotocol, otherwise `realtime`: a browser fails the connection if it
    offers subprotocols and the server selects none. What the caller sends arrives in small pieces
    until `Peer.take_over`: a caller without a pod must not cost more memory than that.

    Raises:
        ConnectionError: the caller left.
    """
    answer = chosen or (REALTIME if REALTIME in offered_subprotocols(request) else None)
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the caller left")
    head = _SWITCHING % _accept_value(request.headers["Sec-WebSocket-Key"])
    if answer is not None:
        head += f"Sec-WebSocket-Protocol: {answer}\r\n"
    transport.write(f"{head}\r\n".encode("ascii"))
    request.writer.output_size += len(head)  # an error after this is not answered with HTTP
    response = _Accepted()
    caller = Peer(request.protocol, budget, is_pod=False, subprotocol=answer)
    request.protocol.resume_reading()  # first: what the parser gets at once may pause it again
    request.protocol.set_parser(caller)  # type: ignore[arg-type]  # needs only its two methods
    return response, caller


async def connect(
    address: tuple[str, int],
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    subprotocols: Sequence[str],
    budget: MemoryBudget,
) -> Peer:
    """Open a WebSocket to a pod.

    Raises:
        PodRejection: the pod refuses it.
        ClientError, OSError, TimeoutError: the pod is not reachable or its answer is no handshake.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = {
        **headers,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    if subprotocols:
        handshake["Sec-WebSocket-Protocol"] = ",".join(subprotocols)
    protocol, answer = await pod_connection.upgrade(address, path, query, handshake)
    transport, answered = protocol.transport, answer.headers
    if transport is None or answered.get("Sec-WebSocket-Accept") != _accept_value(key):
        if transport is not None:
            transport.abort()
        raise aiohttp.ClientError(f"the pod answered {answer.code} without a valid handshake")
    chosen = answered.get("Sec-WebSocket-Protocol")
    pod = Peer(
        protocol,
        budget,
        is_pod=True,
        subprotocol=chosen if chosen in subprotocols else None,
        session_id=session_ids.parse(answered.get(labels.SESSION_HEADER)),
    )
    resume_s = answered.get(labels.RESUME_HEADER, "")
    pod.resume_s = int(resume_s) if _SECONDS.fullmatch(resume_s) else 0
    protocol.set_parser(pod, EMPTY_PAYLOAD)
    pod.take_over()
    return pod


def _accept_value(key: str) -> str:
    digest = hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
