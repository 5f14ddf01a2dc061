"""What connections without a session cost and do to others: deadlines, limits and the log."""

from __future__ import annotations

import asyncio
import json
import resource
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from avatar_contracts.tokens import gateway_key, gateway_token
from avatar_gateway.serving import connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Until = Callable[..., Awaitable[None]]

pytestmark = pytest.mark.slow

KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"
HALF = b"GET /v1/realtime?model=acme/concierge HTTP/1.1\r\nHost: h\r\n"
FULL = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
DEADLINE_S = 20.0


class Running:
    """A gateway process with one service and one pod, which keeps its log."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.log = b""

    async def read_log(self) -> None:
        while line := await self.process.child.stderr.read(2**16):
            self.log += line

    def open(self, **options: Any) -> Any:
        """Open a session."""
        url = f"ws://127.0.0.1:{self.process.ports[0]}/v1/realtime?model=acme/concierge"
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        return connect(url, additional_headers=headers, open_timeout=5, proxy=None, **options)

    async def status(self, port: int, path: str) -> int:
        timeout = aiohttp.ClientTimeout(total=5)
        url = f"http://127.0.0.1:{self.process.ports[port]}{path}"
        async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as answer:
            return answer.status

    async def metric(self, name: str) -> float:
        url = f"http://127.0.0.1:{self.process.ports[1]}/metrics"
        headers = {"Authorization": f"Bearer {gateway_token(gateway_key(MASTER))}"}
        async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
            lines = (await answer.text()).splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@asynccontextmanager
async def _running(
    start_gateway: Any, fake: Any, pod: Any, until: Until, **options: Any
) -> AsyncIterator[Running]:
    pod.capacity = 30
    ports = [
        {"name": "sessions", "containerPort": pod.port},
        {"name": "admin", "containerPort": pod.admin_port},
    ]
    fake.items["pods"] = [fake.pod("p1", ports=ports, podIP="127.0.0.1")]
    fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
    async with start_gateway(**options) as process:
        await until(lambda: pod.tokens)
        await asyncio.sleep(0.1)  # the first line of the state stream
        running = Running(process)
        reading = asyncio.create_task(running.read_log())
        yield running
        reading.cancel()


async def _echoes(session: Any, text: str) -> None:
    async with asyncio.timeout(5):
        await session.send(text)
        assert await session.recv() == text


@pytest.mark.parametrize("sent", [HALF, b"", FULL + HALF], ids=["half", "nothing", "second"])
async def test_half_requests_keep_nobody_out(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until, sent: bytes
) -> None:
    async with (
        _running(start_gateway, fake, fake_pod, until, descriptors=1024) as gateway,
        gateway.open() as live,
    ):
        writers = []
        for _ in range(1010):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.process.ports[0])
            writer.write(sent)
            writers.append(writer)
        # All of them are open, or were, within the deadline of their requests.
        for port in (0, 1):
            assert await gateway.status(port, "/healthz") == 200
            assert await gateway.status(port, "/readyz") == 200
        async with gateway.open() as session:
            await _echoes(session, "new")
        await _echoes(live, "live")
        assert await gateway.metric("avatar_gateway_connections") <= 192
        for writer in writers:
            writer.transport.abort()
        assert len(gateway.log) < 20_000


async def test_a_process_without_descriptors_waits_and_logs_little(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until
) -> None:
    async with _running(start_gateway, fake, fake_pod, until) as gateway:
        pid = gateway.process.child.pid
        async with gateway.open() as live:
            used = _descriptors(pid)
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
            callers = [
                await asyncio.open_connection("127.0.0.1", gateway.process.ports[0])
                for _ in range(20)
            ]
            await until(lambda: b"cannot accept connections" in gateway.log)
            ticks = _cpu_ticks(pid)
            await asyncio.sleep(1)
            assert _cpu_ticks(pid) - ticks < 50  # half of a second: it does not spin
            await _echoes(live, "live")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            async with gateway.open() as session:
                await _echoes(session, "new")
        for _, writer in callers:
            writer.transport.abort()
        assert gateway.log.count(b"cannot accept connections") <= 10
        assert len(gateway.log) < 5_000


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_an_address_has_its_own_limit(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until
) -> None:
    limit = {"AVATAR_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": "2"}
    async with _running(start_gateway, fake, fake_pod, until, **limit) as gateway:
        async with gateway.open() as first, gateway.open() as second:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.process.ports[0])
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            assert head.startswith(b"HTTP/1.1 429 ")
            assert json.loads(body)["error"]["code"] == "too_many_connections"
            async with gateway.open(local_addr=("127.0.0.2", 0)) as other:
                for session in (first, second, other):
                    await _echoes(session, "live")
            ended = "avatar_gateway_connections_ended_total"
            assert await gateway.metric(f'{ended}{{reason="address_limit"}}') == 1


async def test_a_trusted_proxy_names_the_address(
    start_gateway: Any, fake: Any, fake_pod: Any, until: Until
) -> None:
    limit = {
        "AVATAR_GATEWAY_MAX_CONNECTIONS_PER_ADDRESS": "1",
        "AVATAR_GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
    }

    def through_proxy(client: str, **options: Any) -> Any:
        return gateway.open(headers={"X-Forwarded-For": client}, **options)

    async with (
        _running(start_gateway, fake, fake_pod, until, **limit) as gateway,
        through_proxy("192.0.2.1") as first,
        through_proxy("6.6.6.6, 192.0.2.2") as second,
    ):
        for client in ("192.0.2.1", "192.0.2.9, 192.0.2.2"):
            with pytest.raises(Exception, match="HTTP 429"):
                await through_proxy(client).__aenter__()
        # Others cannot name an address.
        async with through_proxy("192.0.2.1", local_addr=("127.0.0.2", 0)) as other:
            for session in (first, second, other):
                await _echoes(session, "live")


@pytest.mark.parametrize("sent", [HALF, b"", FULL + HALF], ids=["half", "nothing", "second"])
async def test_a_request_has_a_deadline(
    gateway: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    await gateway.pod("p1")
    url = f"{gateway.url}?model=acme/concierge"
    headers = {"Authorization": f"Bearer {KEY}"}
    async with connect(url, additional_headers=headers, proxy=None) as live:
        for port in (gateway.port, gateway.admin_port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            await _ends(reader, writer)
        await _echoes(live, "live")


async def test_a_part_of_a_request_does_not_extend_the_deadline(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(HALF)
    closed = asyncio.create_task(_ends(reader, writer))
    while not closed.done():
        writer.write(b"X: y\r\n")
        await asyncio.wait([closed], timeout=0.05)
    await closed


async def test_an_answer_that_is_not_read_has_a_deadline(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.2)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        await _request_pages(writer)
    writer.transport.abort()


async def _request_pages(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0.01)


async def test_a_connection_between_requests_has_no_short_deadline(
    gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(2):
            writer.write(FULL)
            await reader.readuntil(b"}")
            await asyncio.sleep(0.3)
    writer.close()


async def _ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
