"""A real redis-server on a Unix socket, which a test may kill and start again."""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from avatar_contracts.backoff import Backoff
from avatar_gateway.shared.connection import Address, Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_S = 20.0


@dataclass
class RedisServer:
    """A redis-server without persistence, so that a restart loses everything."""

    folder: Path
    options: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = field(default=None)

    @property
    def socket(self) -> str:
        """Return the path of the socket."""
        return str(self.folder / "redis.sock")

    @property
    def url(self) -> str:
        """Return the address for `AVATAR_GATEWAY_SHARED_STATE_URL`."""
        return f"unix://{self.socket}"

    def connection(self, prefix: str = "avatar:") -> Connection:
        """Return a new connection, which the test closes."""
        return Connection(Address(self.url), Backoff(0.02, 0.1, lambda: 1.0), prefix)

    def client(self) -> Redis:
        """Return a plain client, which the test closes."""
        return Redis(unix_socket_path=self.socket, decode_responses=True)

    async def start(self) -> None:
        """Start the server and wait until it answers."""
        self.process = await asyncio.create_subprocess_exec(
            "redis-server",
            *("--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"),
            *("--dir", str(self.folder), *self.options),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_S), self.client() as client:
            while not await _answers(client):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def freeze(self) -> None:
        """Stop the server, so that it answers nothing, until `thaw`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill the server."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def _answers(client: Redis) -> bool:
    try:
        await client.ping()
    except (RedisError, OSError):
        return False
    return True


async def shift_leases(client: Redis, step_ms: float) -> None:
    """Let time pass for all leases: as if the clock of the server went forward."""
    for key in await client.keys("*leases:*"):
        for member in await client.zrange(key, 0, -1):
            await client.zincrby(str(key), -step_ms, str(member))


@asynccontextmanager
async def running(folder: Path, *options: str) -> AsyncIterator[RedisServer]:
    """Run a server; skip the test if it is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, options)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
