"""Limits of what the kernel holds of a session, where nothing can discard or count it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import BaseTransport, WriteTransport

UNSENT_BYTES: Final = 32 * 1024
"""What waits in the kernel before the network takes it: about one frame of video."""
UNREAD_BYTES: Final = 64 * 1024
"""What the kernel may receive from a pod before it is read."""


def limit_unsent(transport: BaseTransport) -> None:
    """Let the socket of a transport count as full with `UNSENT_BYTES` that were not sent.

    Data on its way does not count, so that the throughput of a long path stays. Does nothing
    without TCP or where the system has no such limit.
    """
    connection = _tcp_socket(transport)
    if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def limit_unread(transport: BaseTransport) -> None:
    """Let the kernel receive about `UNREAD_BYTES` that were not read; without TCP do nothing.

    By default the kernel decides, up to some megabytes. The limit also limits the throughput of
    the connection, to 32 MB per second with a round trip of 2 ms.
    """
    connection = _tcp_socket(transport)
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)


def unsent_bytes(transport: WriteTransport) -> int:
    """Return what was written to a transport and not sent; 0 for one that cannot tell.

    The TLS transport of asyncio forgets its stream when it is closed after it has ended.
    """
    try:
        return transport.get_write_buffer_size()
    except AttributeError:
        return 0


def _tcp_socket(transport: BaseTransport) -> socket.socket | None:
    found: socket.socket | None = transport.get_extra_info("socket")
    is_tcp = found is not None and found.family in (socket.AF_INET, socket.AF_INET6)
    return found if is_tcp else None
