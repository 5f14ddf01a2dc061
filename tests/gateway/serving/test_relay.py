"""The order and the content of what is forwarded, on two connections without a gateway."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp.client_proto import ResponseHandler

from avatar_contracts.rate_limit import Rate
from avatar_gateway.core.frames import WHOLE_FRAME_BYTES, Opcode, encode, encode_close
from avatar_gateway.core.memory_budget import MemoryBudget
from avatar_gateway.serving import proxy
from avatar_gateway.serving.peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RATE = Rate(1e9, 1e12)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
MASK = b"\x01\x80\xff\x10"


class Ends:
    """A session between two sockets: what a caller and a pod would have."""

    def __init__(self, peers: dict[str, Peer], far: dict[str, socket.socket], rate: Rate) -> None:
        self.far = far
        self.messages = 0
        self.stop: asyncio.Future[proxy.End] = asyncio.get_running_loop().create_future()
        relay = proxy.relay(peers["caller"], peers["pod"], self.stop, rate, self._count)
        self.relay = asyncio.create_task(relay)

    def _count(self) -> None:
        self.messages += 1

    async def send(self, side: str, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.far[side], data)

    async def receive(self, side: str, size: int, most: int = 2**16) -> bytes:
        received = b""
        while len(received) < size:
            found = await asyncio.get_running_loop().sock_recv(self.far[side], most)
            assert found, "the connection ended"
            received += found
        return received


@asynccontextmanager
async def _session(rate: Rate = RATE, buffer: int | None = None) -> AsyncIterator[Ends]:
    loop, far, peers = asyncio.get_running_loop(), {}, {}
    budget = MemoryBudget(2**27)
    for side in ("caller", "pod"):
        here, far[side] = socket.socketpair()
        far[side].setblocking(False)
        if buffer is not None:
            here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        _, protocol = await loop.create_connection(lambda: ResponseHandler(loop), sock=here)
        protocol.set_response_params()
        await loop.sock_sendall(far[side], SWITCHING)
        await protocol.read()
        peers[side] = peer = Peer(protocol, budget, is_pod=side == "pod")
        protocol.set_parser(peer, None)
        peer.take_over()
    ends = Ends(peers, far, rate)
    try:
        async with asyncio.timeout(30):
            yield ends
    finally:
        for connection in far.values():
            connection.close()
        await asyncio.wait_for(ends.relay, 30)
    assert budget.total == 0


def _traffic(seed: int, mask: bytes | None) -> tuple[bytes, bytes]:
    """Return what a side sends, and what the other side must get of it."""
    chosen, wire, data = random.Random(seed), b"", b""
    sizes = [0, 1, 125, 126, 5000, 15_000, 70_000, WHOLE_FRAME_BYTES + 9]
    for number in range(40):
        size = chosen.choice(sizes)
        frame = encode(Opcode.BINARY, bytes([number]) * size, mask)
        wire += frame
        data += frame
        if chosen.random() < 0.2:
            wire += encode(chosen.choice([Opcode.PING, Opcode.PONG]), b"control", mask)
    return wire, data


@pytest.mark.parametrize("side", ["caller", "pod"])
@pytest.mark.parametrize("is_slow", [False, True], ids=["reads", "is full"])
@pytest.mark.parametrize("seed", range(3))
async def test_what_a_side_sends_arrives_unchanged_however_it_is_cut(
    side: str, is_slow: bool, seed: int
) -> None:
    wire, data = _traffic(seed, MASK if side == "caller" else None)
    chosen = random.Random(seed)
    other = "pod" if side == "caller" else "caller"

    async def send(ends: Ends) -> None:
        at = 0
        while at < len(wire):
            end = at + chosen.choice([1, 3, 1000, 4000, 15_004, 60_000])
            await ends.send(side, wire[at:end])
            at = end
            if chosen.random() < 0.3:
                await asyncio.sleep(0)

    async with _session(buffer=4096 if is_slow else None) as ends:
        sending = asyncio.create_task(send(ends))
        received = await ends.receive(other, len(data), 3000 if is_slow else 2**16)
        await sending
    assert received == data


async def test_the_rate_is_kept_for_frames_that_leave_at_once() -> None:
    loop, frame = asyncio.get_running_loop(), encode(Opcode.TEXT, b"four", MASK)
    async with _session(Rate(100, 1e9)) as ends:
        started = loop.time()
        for _ in range(230):  # 200 are the burst
            await ends.send("caller", frame)
            assert await ends.receive("pod", len(frame)) == frame
        assert loop.time() - started > 0.2
        assert ends.messages == 230


async def test_a_close_frame_is_forwarded_behind_what_precedes_it() -> None:
    frame = encode(Opcode.TEXT, bytes(15_000))
    async with _session() as ends:
        await ends.send("pod", frame + encode_close(4410, "too long"))
        expected = frame + encode_close(4410, "too long")
        assert await ends.receive("caller", len(expected)) == expected


async def test_a_receiver_that_ended_ends_the_session() -> None:
    async with _session() as ends:
        await ends.send("caller", encode(Opcode.TEXT, b"one", MASK))
        assert await ends.receive("pod", 5)
        ends.far["pod"].close()
        expected = encode_close(1011, "the pod's connection was lost")
        assert await ends.receive("caller", len(expected)) == expected
        ends.far["caller"].close()
        end: proxy.End = await ends.relay
        assert (end.side, end.code) == (proxy.Side.POD, 1011)
