"""A redis-server in a folder of its own, for benchmarks of several gateways."""

from __future__ import annotations

import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from avatar_contracts.backoff import Backoff
from avatar_gateway.shared.connection import Address, Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

_START_S: Final = 20.0


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a redis-server without persistence on a Unix socket, and return its URL."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "redis.sock"
        process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + _START_S
            while not socket.exists():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise TimeoutError("redis-server did not start")
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait()


def connect(url: str) -> Connection:
    """Return a connection, within a running event loop."""
    return Connection(Address(url), Backoff(0.1, 5.0, lambda: 1.0))
