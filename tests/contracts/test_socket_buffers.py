"""The limits of the kernel's buffers, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avatar_contracts import socket_buffers

if TYPE_CHECKING:
    import pytest


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_the_limits_are_set_on_a_tcp_connection() -> None:
    server = await asyncio.start_server(_accept, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(host, port)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        socket_buffers.limit_unsent(writer.transport)
        socket_buffers.limit_unread(writer.transport)
        unsent = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        unread = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        writer.close()
    assert unsent == socket_buffers.UNSENT_BYTES
    assert unread in (socket_buffers.UNREAD_BYTES, 2 * socket_buffers.UNREAD_BYTES)  # Linux: twice


async def test_a_connection_without_tcp_stays_as_it_is() -> None:
    here, there = socket.socketpair()
    before = here.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    _, writer = await asyncio.open_connection(sock=here)
    socket_buffers.limit_unsent(writer.transport)
    socket_buffers.limit_unread(writer.transport)
    assert here.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
    writer.close()
    there.close()


async def test_a_system_without_the_limit_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_NOTSENT_LOWAT")
    server = await asyncio.start_server(_accept, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        socket_buffers.limit_unsent(writer.transport)
        writer.close()
