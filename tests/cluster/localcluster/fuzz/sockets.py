"""Random clients on real sockets: slow, impolite, half gone, and some that do all of it right."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz import frames, messages
from localcluster.fuzz.binary import EventTexts
from localcluster.fuzz.oracle import Oracle
from localcluster.fuzz.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEADLINE_S: Final = 60.0
"""How long a client waits for an answer of the server."""
_RIGHT: Final = messages.Style(
    # The answer to a clear looks like the one to an interruption by speech before it.
    {"clear_output": 0, "binary": 0, "append": 60},
    0.0,
    0.0,
    0.0,
    0.6,
    large=0.0,
)
_ANY: Final = messages.STYLES[-1]
_GARBAGE: Final = (
    b"",
    b"\x00",
    b"GET / HTTP",
    b"\x16\x03\x01\x02\x00",
    b"GET /v1/realtime\r\n\r\n",
)


@dataclass(slots=True)
class Outcome:
    """What the clients did."""

    kinds: Counter[str] = field(default_factory=Counter)
    """Clients by their behaviour."""
    messages: int = 0
    events: int = 0
    refused: int = 0
    """Clients that found no free slot."""


class SocketClient:
    """One connection."""

    def __init__(self, port: int, random: Random, outcome: Outcome) -> None:
        self._port = port
        self._random = random
        self._outcome = outcome
        self._texts = EventTexts()

    async def run(self) -> None:
        """Behave in one of many ways.

        Raises:
            Violation: the server broke a rule towards a client that broke none.
            TimeoutError: the server did not answer.
        """
        behaviours: tuple[Callable[[], Awaitable[None]], ...] = (
            *(self.converse, self.converse, self._slow, self._deaf, self._half_message),
            *(self._wrong_frame, self._hostile, self._half_handshake, self._half_closed),
        )
        behaviour = self._random.choice(behaviours)
        self._outcome.kinds[behaviour.__name__.strip("_")] += 1
        try:
            await behaviour()
        except (ConnectionError, asyncio.IncompleteReadError):
            if behaviour == self.converse:
                raise Violation("the server left a polite client") from None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 16)
        await self._write(writer, frames.handshake(f"127.0.0.1:{self._port}", self._random))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
        if not head.startswith(b"HTTP/1.1 101"):
            self._outcome.refused += 1
            require(b"503" in head.splitlines()[0], f"refused: {head!r}")
            writer.close()
            raise ConnectionError("no free slot")
        return reader, writer

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Write in pieces of any size."""
        while data:
            size = len(data)
            if self._random.random() < 0.3:
                size = self._random.randint(1, len(data))
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            if data and self._random.random() < 0.5:
                await asyncio.sleep(self._random.random() * 0.005)

    async def _send(self, writer: asyncio.StreamWriter, content: str | bytes) -> None:
        random = self._random
        opcode = frames.BINARY if isinstance(content, bytes) else frames.TEXT
        data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        make = random.random()
        frame = frames.encode(opcode, data)
        if make < 0.2:
            frame = frames.fragmented(opcode, data, random)
        await self._write(writer, frame)
        self._outcome.messages += 1

    async def converse(self) -> None:
        """Send right messages, read everything, and let the oracle judge it.

        Raises:
            Violation: the server broke a rule.
            TimeoutError: the server did not answer.
        """
        reader, writer = await self._open()
        oracle = Oracle()
        sending = asyncio.create_task(self._ask(writer, oracle))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not await self._read(reader, writer, oracle):
                    pass
            await sending
        finally:
            sending.cancel()
        oracle.requests.check_quiet()
        oracle.responses.check_quiet()
        await self._write(writer, frames.encode(frames.CLOSE, struct.pack("!H", 1000)))
        async with asyncio.timeout(DEADLINE_S):
            while (await frames.read(reader)).opcode != frames.CLOSE:
                pass
        writer.close()

    async def _ask(self, writer: asyncio.StreamWriter, oracle: Oracle) -> None:
        client = messages.Client(self._random, _RIGHT, oracle.view)
        # A client that never names the avatar may not get every event; the oracle expects them.
        session = {"type": "realtime", "avatar": {}}
        first = messages.event("session.update", event_id="first", session=session)
        for number in range(self._random.randint(6, 61)):
            content = client.draw() if number else first
            oracle.send(content)
            await self._send(writer, content)
            await asyncio.sleep(self._random.random() * 0.02)
        last = messages.event("conversation.item.retrieve", item_id="none", event_id="last")
        oracle.send(last)
        await self._send(writer, last)

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, oracle: Oracle
    ) -> bool:
        """Read one frame, and return whether it is the answer to the last request."""
        frame = await frames.read(reader)
        if frame.opcode == frames.PING:
            writer.write(frames.encode(frames.PONG, frame.payload))
            return False
        if frame.opcode == frames.PONG:
            return False
        is_message = frame.opcode in (frames.TEXT, frames.BINARY)
        require(is_message, f"opcode {frame.opcode}: {frame.payload[:100]!r}")
        message = frame.payload.decode() if frame.opcode == frames.TEXT else frame.payload
        event: dict[str, Any] = oracle.read(self._texts.read(message))
        self._outcome.events += 1
        return bool(event["type"] == "error" and event["error"]["event_id"] == "last")

    async def _slow(self) -> None:
        """Ask for much, read little, and vanish."""
        reader, writer = await self._open()
        await self._talk(writer, _RIGHT, 40)
        for _ in range(self._random.randint(1, 20)):
            async with asyncio.timeout(DEADLINE_S):
                await reader.read(self._random.choice((1, 100, 4096)))
            await asyncio.sleep(0.02)
        self._leave(writer)

    async def _deaf(self) -> None:
        """Ask for much and read nothing."""
        _, writer = await self._open()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await self._talk(writer, _RIGHT, 150)
        await asyncio.sleep(self._random.random())
        self._leave(writer)

    async def _hostile(self) -> None:
        """Send anything, and read what comes meanwhile."""
        reader, writer = await self._open()
        reading = asyncio.create_task(reader.read(-1))
        try:
            await self._talk(writer, _ANY, 60)
        finally:
            reading.cancel()
        self._leave(writer)

    async def _half_message(self) -> None:
        """Vanish in the middle of a message."""
        _, writer = await self._open()
        await self._talk(writer, _RIGHT, 10)
        client = messages.Client(self._random, _RIGHT, messages.View())
        content = str(client.draw()).encode()
        frame = frames.fragmented(frames.TEXT, content, self._random)
        await self._write(writer, frame[: self._random.randrange(len(frame))])
        self._leave(writer)

    async def _wrong_frame(self) -> None:
        """Send a frame that is no WebSocket frame, and wait for the end."""
        reader, writer = await self._open()
        await self._talk(writer, _RIGHT, 5)
        await self._write(writer, frames.wrong(self._random))
        if self._random.random() < 0.5:
            writer.write_eof()
            await asyncio.wait_for(reader.read(-1), DEADLINE_S)
        self._leave(writer)

    async def _half_handshake(self) -> None:
        """Never open the session."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        request = frames.handshake("x", self._random)
        garbage = request[: self._random.randrange(len(request))]
        if self._random.random() < 0.4:
            garbage = self._random.choice(_GARBAGE)
        await self._write(writer, garbage)
        await asyncio.sleep(self._random.random() * 0.2)
        self._leave(writer)

    async def _half_closed(self) -> None:
        """Say that nothing more comes, and read on until the server ends the connection."""
        reader, writer = await self._open()
        await self._talk(writer, _RIGHT, 10)
        writer.write_eof()
        await asyncio.wait_for(reader.read(-1), DEADLINE_S)
        writer.close()

    async def _talk(self, writer: asyncio.StreamWriter, style: messages.Style, most: int) -> None:
        client = messages.Client(self._random, style, messages.View())
        for _ in range(self._random.randint(1, most)):
            # A server that is not read does not read.
            async with asyncio.timeout(DEADLINE_S):
                await self._send(writer, client.draw())

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        if self._random.random() < 0.5:  # a reset instead of an end
            connection: socket.socket = writer.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def attack(port: int, seed: int, clients: int, at_once: int = 8) -> Outcome:
    """Let clients connect to a runtime, some of them at once.

    Raises:
        ExceptionGroup: with a `Violation` or a `TimeoutError`.
    """
    outcome, limit = Outcome(), asyncio.Semaphore(at_once)

    async def one(index: int) -> None:
        async with limit:
            await SocketClient(port, Random(f"{seed} {index}"), outcome).run()

    async with asyncio.TaskGroup() as group:
        for index in range(clients):
            group.create_task(one(index), name=f"client {index} of seed {seed}")
    return outcome
