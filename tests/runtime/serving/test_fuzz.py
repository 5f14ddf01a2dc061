"""Random clients on real sockets in front of a runtime that is a process of its own."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from uvicorn import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from avatar_runtime.serving import server
from localcluster import runtime_process, waiting
from localcluster.fuzz import frames, sockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow

CLIENTS = 60
FREE_S = 45.0  # a client that vanished with a full socket is noticed after 30 s at the latest


async def test_a_runtime_outlives_its_clients(tmp_path: Path) -> None:
    log = tmp_path / "runtime.log"
    served = runtime_process.serving(
        log,
        4,
        # A session that waits for a client that has vanished would keep its slot.
        {"AVATAR_CAPACITY": "16", "AVATAR_RESUME_TTL_S": "0"},
        device="simulated:h100-80gb",
    )
    with served as runtime:
        port = int(runtime.url.rpartition(":")[2])
        outcome = await sockets.attack(port, seed=1, clients=CLIENTS)
        assert len(outcome.kinds) >= 8
        assert outcome.messages > 300
        assert outcome.events > 300
        assert outcome.refused == 0
        # A client that vanished without a word, behind a full socket, is noticed by and by.
        await waiting.until(
            lambda: asyncio.to_thread(runtime.state),
            lambda state: state["sessions"] == 0,
            "every slot is free",
            FREE_S,
        )
        # The next caller is served as if nothing had happened.
        polite = sockets.Outcome()
        await sockets.SocketClient(port, Random("next"), polite).converse()
        assert polite.events > 2
    text = log.read_text()
    assert "Traceback" not in text
    assert "ERROR" not in text


@asynccontextmanager
async def accepted() -> AsyncIterator[server.WebSocketProtocol]:
    """Yield the protocol of a client whose handshake was accepted."""
    config = Config(app=lambda scope, receive, send: None)
    config.load()
    protocol = server.WebSocketProtocol(config, ServerState(), {})
    near, far = socket.socketpair()
    with near, far:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: protocol, sock=near)
        protocol.data_received(frames.handshake("127.0.0.1", Random(1)))
        await protocol.send({"type": "websocket.accept"})
        yield protocol
        protocol.transport.abort()


async def test_a_connection_that_is_lost_is_not_aborted_later() -> None:
    # asyncio logs a traceback for some transports that are closed already.
    async with accepted() as protocol:
        loop = asyncio.get_running_loop()
        protocol._flush_end = loop.call_later(server.FLUSH_S, protocol.transport.abort)
        protocol.transport.abort()
        await asyncio.sleep(0)
        assert protocol.disconnected
        assert protocol._flush_end.cancelled()


@pytest.mark.parametrize("kind", ["websocket.send", "websocket.close"])
async def test_a_wrong_frame_of_a_client_is_no_fault_of_the_session(kind: str) -> None:
    async with accepted() as protocol:
        event: Any = {"type": kind, "text": "{}"}
        protocol.data_received(frames.encode(frames.TEXT, b"{}", masked=False))
        # The session has the next message ready before it reads that the client is gone.
        with pytest.raises(ClientDisconnected):
            await protocol.send(event)


async def test_a_process_stops_beside_a_client_that_has_closed_and_keeps_its_socket() -> None:
    async with accepted() as protocol:
        protocol.data_received(frames.encode(frames.CLOSE, b"\x03\xe8"))
        protocol.shutdown()
        assert protocol.transport.is_closing()
