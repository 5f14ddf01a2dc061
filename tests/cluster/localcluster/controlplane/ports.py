"""Finds free ports on 127.0.0.1 for the components."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Final

from localcluster import errors

# Below the ephemeral ports of Linux (ip_local_port_range), so that no outgoing connection takes
# the port of a component while it restarts.
RANGE: Final = range(20000, 30000)
ATTEMPTS: Final = 200


def find_free(count: int) -> tuple[int, ...]:
    """Return different ports that are free now.

    Raises:
        PortTaken: not enough free ports were found.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(RANGE, ATTEMPTS):
            with contextlib.suppress(OSError):
                held.enter_context(_bound(port))
                found.append(port)
            if len(found) == count:
                return tuple(found)
    raise errors.PortTaken(RANGE.start, f"and so it is up to {RANGE.stop - 1}")


async def accepts(port: int) -> bool:
    """Return whether a process accepts connections on a port of 127.0.0.1."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def check_free(port: int) -> int:
    """Return `port` if it can be bound now.

    Raises:
        PortTaken: it cannot be bound.
    """
    try:
        with _bound(port):
            return port
    except OSError as error:
        raise errors.PortTaken(port, error.strerror or str(error)) from error


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()  # with SO_REUSEADDR, two sockets can bind, but only one can listen
    except OSError:
        listener.close()
        raise
    return listener
