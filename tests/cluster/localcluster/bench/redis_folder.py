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


class RedisServer:
    """A redis-server on a Unix socket; without options, a restart loses its data."""

    def __init__(self, folder: Path, *options: str) -> None:
        """`options` are those of its command line."""
        self._options = options
        self._folder = folder
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        process = subprocess.Popen(
            [
                *("redis-server", "--port", "0", "--unixsocket", str(self._socket)),
                *("--save", "", *self._options),
            ],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        self._process = process
        deadline = time.monotonic() + _START_S
        while not self._socket.exists():
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError("redis-server did not start")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, and all that it knows."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket.unlink(missing_ok=True)


@contextmanager
def restartable_redis(*options: str) -> Iterator[RedisServer]:
    """Run a redis-server in a folder of its own, with options of its command line."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a redis-server in a folder of its own, and return its URL."""
    with restartable_redis() as server:
        yield server.url


def connect(url: str) -> Connection:
    """Return a connection, within a running event loop."""
    return Connection(Address(url), Backoff(0.1, 5.0, lambda: 1.0))
