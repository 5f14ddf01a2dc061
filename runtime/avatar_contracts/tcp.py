"""What the system knows about the other end of a TCP connection.

asyncio notices the end of a connection when it reads it. A connection that is not read now, or
whose transport waits until earlier data is sent, may have ended long before.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import BaseTransport

_CLOSE, _CLOSE_WAIT = 7, 8
"""States in `TCP_INFO` of Linux."""
_HAS_INFO: Final = hasattr(socket, "TCP_INFO")


class PeerEnd(Enum):
    """What the other end of a connection has ended."""

    NOTHING = "nothing"
    """It is open, or the system does not say."""
    SENDING = "sending"
    """It has sent everything: its FIN has arrived."""
    CONNECTION = "connection"
    """It has reset the connection."""


def peer_end(transport: BaseTransport) -> PeerEnd:
    """Return what the other end of a connection has ended, without reading from it."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0 or not _HAS_INFO:
        return PeerEnd.NOTHING
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:  # not a TCP socket
        return PeerEnd.NOTHING
    return {_CLOSE: PeerEnd.CONNECTION, _CLOSE_WAIT: PeerEnd.SENDING}.get(state, PeerEnd.NOTHING)
