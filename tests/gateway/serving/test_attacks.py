"""What one caller costs and does to others, on a gateway process with real sockets."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from avatar_contracts.tokens import gateway_key, gateway_token
from avatar_gateway.core.frames import Opcode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    Start = Callable[..., Any]
    Until = Callable[..., Awaitable[None]]

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"
SERVICE = "acme/concierge"
MASK = bytes(4)
MIB = 2**20
MESSAGE = encode(Opcode.TEXT, bytes(8 * MIB), MASK)
HELD_BYTES = 64 * 1024


@dataclass
class Caller:
    """A connection that sends whatever a test wants."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0

    async def push(self, data: bytes) -> None:
        """Send as much as the gateway takes within a second."""
        try:
            async with asyncio.timeout(1):
                for start in range(0, len(data), 2**18):
                    self.writer.write(data[start : start + 2**18])
                    await self.writer.drain()
        except (TimeoutError, ConnectionError):
            return

    async def rest(self) -> bytes:
        """Return what the gateway sent, after it closed the connection."""
        received = b""
        async with asyncio.timeout(5):
            try:
                while data := await self.reader.read(2**16):
                    received += data
            except ConnectionError:
                pass
        return received

    async def echo(self) -> float:
        """Return the seconds that one small message takes to the pod and back."""
        started = asyncio.get_running_loop().time()
        self.writer.write(encode(Opcode.TEXT, b"victim", MASK))
        assert await self.reader.readexactly(8) == encode(Opcode.TEXT, b"victim")
        return asyncio.get_running_loop().time() - started

    def vanish(self) -> None:
        """End the connection without a close frame."""
        self.writer.transport.abort()


class Target:
    """A gateway process with one service and one pod."""

    def __init__(self, process: Any, pod: Any) -> None:
        self.process = process
        self.pod = pod
        self.callers: list[Caller] = []
        self.idle_mib = self.memory_mib("VmRSS")

    def memory_mib(self, name: str) -> float:
        status = Path(f"/proc/{self.process.child.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    def grown_mib(self) -> float:
        """Return how much memory the gateway has used at most since the start."""
        return self.memory_mib("VmHWM") - self.idle_mib

    async def call(self, query: str = "", key: str = KEY, path: str = "/v1/realtime") -> Caller:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.process.ports[0])
        writer.write(handshake(query, key, path))
        self.callers.append(Caller(reader, writer))
        return self.callers[-1]

    async def opened(self, query: str = "") -> Caller:
        caller = await self.call(query)
        caller.status = int((await caller.reader.readuntil(b"\r\n\r\n")).split()[1])
        assert caller.status == 101
        return caller

    def disconnect(self) -> None:
        for caller in self.callers:
            caller.vanish()

    async def demand(self) -> dict[str, Any]:
        """Return what the gateway reports to the operator."""
        url = f"http://127.0.0.1:{self.process.ports[1]}/control/v1/state"
        headers = {"Authorization": f"Bearer {gateway_token(gateway_key(MASTER))}"}
        async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
            document = await answer.json()
        found: dict[str, Any] = document["services"].get(SERVICE, {})
        return found

    async def until_demand(self, **values: int) -> None:
        async with asyncio.timeout(5):
            while not values.items() <= (await self.demand()).items():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def handshake(query: str = "", key: str = KEY, path: str = "/v1/realtime") -> bytes:
    lines = [
        f"GET {path}?model={SERVICE}{query} HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Authorization: Bearer {key}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture
async def target(
    fake: Any,
    fake_pod: Any,
    start_gateway: Callable[..., Any],
    until: Callable[..., Awaitable[Any]],
) -> AsyncIterator[Target]:
    fake_pod.capacity = 30
    ports = [
        {"name": "sessions", "containerPort": fake_pod.port},
        {"name": "admin", "containerPort": fake_pod.admin_port},
    ]
    fake.items["pods"] = [fake.pod("p1", ports=ports, podIP="127.0.0.1")]
    fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
    async with start_gateway() as process:
        await until(lambda: fake_pod.tokens)
        await asyncio.sleep(0.1)  # the first line of the state stream
        started = Target(process, fake_pod)
        yield started
        started.disconnect()


@pytest.mark.parametrize("refuse", ["status", "close"])
async def test_a_refused_caller_is_not_read_any_further(target: Target, refuse: str) -> None:
    async def attack() -> None:
        caller = await target.call(f"&refuse={refuse}", key="a-key-that-is-wrong")
        await caller.push(MESSAGE)
        await caller.rest()

    await asyncio.gather(*(attack() for _ in range(20)))
    assert target.grown_mib() < 12
    honest = await target.call(f"&refuse={refuse}", key="a-key-that-is-wrong")
    await honest.push(encode(Opcode.CLOSE, b"", MASK))
    assert b"unauthenticated" in await honest.rest()


@pytest.mark.parametrize("path", ["/nowhere", "/"])
async def test_no_path_reads_what_follows_a_handshake(target: Target, path: str) -> None:
    async def attack() -> None:
        caller = await target.call(path=path)
        await caller.push(MESSAGE)
        await caller.rest()

    await asyncio.gather(*(attack() for _ in range(20)))
    assert target.grown_mib() < 12


async def test_a_waiting_caller_may_send_little_and_leaves_the_queue_at_once(
    target: Target,
) -> None:
    target.pod.capacity = 0
    await asyncio.sleep(0.2)  # a state that says so

    async def attack() -> None:
        caller = await target.opened("&wait_ms=60000")
        await caller.push(MESSAGE)
        await caller.rest()

    await asyncio.gather(*(attack() for _ in range(20)))
    assert target.grown_mib() < 12
    await target.until_demand(waiting=0)
    honest = await target.opened("&wait_ms=60000")
    await honest.push(encode(Opcode.TEXT, bytes(HELD_BYTES - 8), MASK)[:HELD_BYTES])
    await target.until_demand(waiting=1)
    await honest.push(encode(Opcode.CLOSE, b"", MASK))
    answer = await honest.rest()
    assert f'"limit": {HELD_BYTES}'.encode() in answer
    assert b'"message_too_large"' in answer
    assert encode(Opcode.CLOSE, b"\x03\xf1message_too_large") in answer


async def test_callers_that_left_are_no_demand(target: Target) -> None:
    target.pod.capacity = 0
    await asyncio.sleep(0.2)
    for _ in range(3):
        ghosts = await asyncio.gather(*(target.opened("&wait_ms=60000") for _ in range(20)))
        await asyncio.gather(*(ghost.push(encode(Opcode.TEXT, b"{}", MASK)) for ghost in ghosts))
        for ghost in ghosts:
            ghost.vanish()
    await target.until_demand(waiting=0)
    assert (await target.demand())["arrivals_total"] == 0


async def test_the_first_in_the_queue_gets_its_slot_when_others_left(target: Target) -> None:
    target.pod.capacity = 0
    await asyncio.sleep(0.2)
    ghosts = [await target.opened("&wait_ms=60000") for _ in range(5)]
    caller = await target.opened("&wait_ms=60000")
    for word in (b"one", b"two"):
        await caller.push(encode(Opcode.TEXT, word, MASK))
    for ghost in ghosts:
        ghost.vanish()
    target.pod.capacity = 5
    received = b""
    async with asyncio.timeout(5):
        while encode(Opcode.TEXT, b"one") + encode(Opcode.TEXT, b"two") not in received:
            received += await caller.reader.read(2**16)
    await target.until_demand(waiting=0, sessions=1)


async def test_the_events_of_a_queue_are_not_quadratic(target: Target) -> None:
    target.pod.capacity = 0
    await asyncio.sleep(0.2)
    callers = [await target.opened("&wait_ms=60000") for _ in range(60)]
    events = 0

    async def count(caller: Caller) -> None:
        nonlocal events
        while data := await caller.reader.read(2**16):
            events += data.count(b"session.queued")

    counting = [asyncio.create_task(count(caller)) for caller in callers[20:]]
    for caller in callers[:20]:
        caller.vanish()
        await asyncio.sleep(0.11)  # a change of the position of everybody behind
    await target.until_demand(waiting=40)
    await asyncio.sleep(0.2)
    for task in counting:
        task.cancel()
    assert 40 <= events < 3 * 40


async def test_live_sessions_hold_no_messages(target: Target) -> None:
    stuck = asyncio.Event()

    async def never_read(_: Any, __: Any) -> None:
        await stuck.wait()

    target.pod.on_message = never_read
    callers = [await target.opened() for _ in range(14)]
    await asyncio.gather(
        *(caller.push(encode(Opcode.TEXT, b"x", MASK) + MESSAGE[:-1]) for caller in callers)
    )
    assert target.grown_mib() < 20
    assert (await target.demand())["sessions"] == 14
    stuck.set()


FLOODS = {
    "empty": encode(Opcode.TEXT, b"", MASK),
    "ping": encode(Opcode.PING, b"", MASK),
    "pong": encode(Opcode.PONG, b"", MASK),
    "one byte": encode(Opcode.TEXT, b"x", MASK),
    "fragments": b"\x00\x80" + MASK,
    "large": encode(Opcode.TEXT, bytes(60_000), MASK),
}
_ATTACKER = """
import socket, sys
port, start, unit = sys.stdin.readline().split()
data = bytes.fromhex(unit) * max(1, 2**17 // (len(unit) // 2))
connection = socket.create_connection(("127.0.0.1", int(port)))
connection.sendall(bytes.fromhex(start))
assert b" 101 " in connection.recv(4096)
connection.sendall(b"\\x01\\x80\\0\\0\\0\\0" if data[:1] == b"\\0" else b"")
print("started", flush=True)
while True:
    connection.sendall(data)
"""


@asynccontextmanager
async def _flood(target: Target, unit: bytes) -> AsyncIterator[None]:
    port = str(target.process.ports[0])
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _ATTACKER),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        attacker.stdin.write(f"{port} {handshake().hex()} {unit.hex()}\n".encode())
        assert await attacker.stdout.readline() == b"started\n"
        yield
        assert attacker.returncode is None, "the attacker lost its connection"
    finally:
        if attacker.returncode is None:
            attacker.kill()
        await attacker.communicate()


@pytest.mark.parametrize("unit", FLOODS.values(), ids=list(FLOODS))
async def test_a_flood_on_one_session_does_not_delay_another(target: Target, unit: bytes) -> None:
    async def echo_the_victim(socket: Any, data: Any) -> None:
        if data in ("victim", b"victim"):
            await socket.send_str("victim")

    target.pod.on_message = echo_the_victim
    victim = await target.opened()
    async with _flood(target, unit):
        delays = []
        for _ in range(100):
            delays.append(await victim.echo())
            await asyncio.sleep(0.02)
    assert _p99(delays) <= 0.1
    assert target.grown_mib() < 12


async def test_eight_sessions_with_large_messages_do_not_delay_another(target: Target) -> None:
    async def echo_the_victim(socket: Any, data: Any) -> None:
        if data in ("victim", b"victim"):
            await socket.send_str("victim")

    target.pod.on_message = echo_the_victim
    victim = await target.opened()
    message = encode(Opcode.BINARY, bytes(19 * MIB), MASK)
    async with AsyncExitStack() as floods:
        for _ in range(8):
            await floods.enter_async_context(_flood(target, message))
        delays = []
        for _ in range(200):
            delays.append(await victim.echo())
            await asyncio.sleep(0.02)
    assert _p99(delays) <= 0.1
    assert target.grown_mib() < 20


@pytest.mark.parametrize("kind", ["ping", "pong", "empty", "one byte"])
async def test_a_caller_that_leaves_many_frames_behind_frees_its_slot(
    target: Target, kind: str
) -> None:
    async def take(_: Any, __: Any) -> None:
        """Send nothing back: what a caller that left receives would betray it."""

    target.pod.on_message = take
    ghost = await target.opened()
    await ghost.push(FLOODS[kind] * (4 * MIB // len(FLOODS[kind])))
    await target.until_demand(sessions=1)
    ghost.vanish()  # its system still holds a part of the frames, and the end of the connection
    await target.until_demand(sessions=0)  # within 5 s


async def test_a_caller_that_takes_nothing_and_ends_its_side_frees_its_slot(
    target: Target,
) -> None:
    """What was written to it cannot be sent, but nobody is there for it."""

    async def flood(connection: Any, _: Any) -> None:
        for _ in range(1000):
            await connection.send_bytes(bytes(2**16))

    target.pod.on_message = flood
    caller = await target.opened()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    caller.writer.write(encode(Opcode.TEXT, b"go", MASK))
    await target.until_demand(sessions=1)
    await asyncio.sleep(1)  # the buffers of both systems are full
    assert (await target.demand())["sessions"] == 1
    caller.writer.write_eof()
    await target.until_demand(sessions=0)  # within 5 s


def _p99(delays: Sequence[float]) -> float:
    return sorted(delays)[round(0.99 * (len(delays) - 1))]


async def test_the_budget_of_all_buffers_stops_only_the_largest(
    start_gateway: Start, target: Target, until: Until
) -> None:
    """Half of a frame that fits is kept until it is complete; many of them exceed the budget."""
    half = encode(Opcode.TEXT, bytes(120_000), MASK)[:100_000]
    async with start_gateway(AVATAR_GATEWAY_BUFFER_BYTES=str(MIB)) as process:
        small = Target(process, target.pod)
        tokens = len(target.pod.tokens)
        await until(lambda: len(target.pod.tokens) > tokens)
        await asyncio.sleep(0.2)
        victim = await small.opened()
        attackers = [await small.opened() for _ in range(20)]
        await asyncio.gather(*(attacker.push(half) for attacker in attackers))
        assert max([await victim.echo() for _ in range(20)]) < 1
        rest = encode(Opcode.TEXT, bytes(120_000), MASK)[100_000:]
        for attacker in attackers[:12]:
            attacker.vanish()
        await attackers[-1].push(rest)  # the others fit now
        async with asyncio.timeout(5):
            echoed = await attackers[-1].reader.readexactly(len(half) + len(rest) - len(MASK))
        assert echoed == encode(Opcode.TEXT, bytes(120_000))
        small.disconnect()
