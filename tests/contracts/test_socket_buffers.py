"""The limits of the kernel's buffers, on real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from avatar_contracts import socket_buffers

if TYPE_CHECKING:
    import pytest


def transport_of(connection: socket.socket) -> asyncio.BaseTransport:
    return asyncio.BaseTransport({"socket": connection})


def received(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def test_the_limits_are_set_on_a_tcp_connection() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        socket_buffers.limit_unsent(transport_of(connection))
        socket_buffers.limit_unread(transport_of(connection))
        unsent = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert unsent == socket_buffers.UNSENT_BYTES
        # Linux doubles the number.
        unread = socket_buffers.UNREAD_BYTES
        assert received(connection) in (unread, 2 * unread)


def test_a_connection_without_tcp_stays_as_it_is() -> None:
    here, there = socket.socketpair()
    with here, there:
        before = received(here)
        socket_buffers.limit_unsent(transport_of(here))
        socket_buffers.limit_unread(transport_of(here))
        assert received(here) == before


def test_a_system_without_the_limit_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        option = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        before = connection.getsockopt(*option)
        monkeypatch.delattr(socket, "TCP_NOTSENT_LOWAT")
        socket_buffers.limit_unsent(transport_of(connection))
        assert connection.getsockopt(*option) == before
