"""A runtime on real sockets with a fake engine, and clients for it."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect as connect_websocket

from avatar_runtime import settings
from avatar_runtime.avatars.cache import AvatarInfo
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.device import Memory, ModelInfo
from avatar_runtime.engine.engine import Statistics
from avatar_runtime.errors import EngineError
from avatar_runtime.metrics import Metrics
from avatar_runtime.serving import server
from avatar_runtime.serving.live_session import LiveSession
from avatar_runtime.serving.runtime import Runtime

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from websockets.asyncio.client import ClientConnection

    from avatar_contracts.state import StartStage
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.device import Curve

    Event = dict[str, Any]
    Serve = Callable[..., AbstractAsyncContextManager["Served"]]

FRAME = bytes(2 * 960)
DEADLINE_S = 20.0
JPEG = b"\xff\xd8" + bytes(20_000) + b"\xff\xd9"
STILL = b"\xff\xd8" + bytes(100) + b"\xff\xd9"


@dataclass
class FakeEngine:
    """Generates any frame immediately, unless a test makes it wait or fail."""

    jpeg: bytes = JPEG
    avatars: dict[str, AvatarInfo] = field(default_factory=dict)
    device_name: str = "simulated"
    curve: Curve | None = None
    batches: list[Sequence[FrameRequest]] = field(default_factory=list)
    rested: list[Sequence[FrameRequest]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failing: bool = False
    fault: Exception | None = None
    used: Memory = field(default_factory=lambda: Memory(3, 12))
    done: Statistics = field(default_factory=Statistics)
    releases: int = 0
    avatar_faults: int = 0
    start_stages: dict[StartStage, float] = field(default_factory=dict)
    next_avatars: dict[str, AvatarInfo] = field(default_factory=dict)
    in_use: list[set[str]] = field(default_factory=list)
    pads: bool = False
    overlaps: bool = False
    model: ModelInfo = field(default_factory=lambda: ModelInfo("v15", "", 30, "v15/sd-vae/fp16"))

    async def start(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.gate.set()
        self.avatars = {
            name: AvatarInfo(name, 64, 64, 25, 10, "hash") for name in ("anna", "ben", "spare")
        }
        self.next_avatars = dict(self.avatars)

    async def run(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None]
    ) -> Sequence[Frame]:
        self.batches.append(batch)
        if self.overlaps:
            on_free()
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.failing:
            raise EngineError("a batch failed")
        return [Frame(request, self.jpeg) for request in batch]

    async def idle_frames(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        self.rested.append(requests)
        await asyncio.sleep(0)
        if self.failing:
            raise EngineError("no picture")
        return [Frame(request, STILL) for request in requests]

    async def refresh_avatars(self, in_use: Callable[[], Collection[str]]) -> bool:
        self.in_use.append(set(in_use()))
        changed, self.avatars = self.next_avatars != self.avatars, dict(self.next_avatars)
        return changed

    async def release(self) -> None:
        self.releases += 1

    def memory(self) -> Memory:
        return self.used

    def statistics(self) -> Statistics:
        return self.done

    async def stop(self) -> None:
        self.gate.set()


@dataclass
class Client:
    """A client of one session."""

    socket: ClientConnection
    events: list[Event] = field(default_factory=list)

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def speak(self, frames: int) -> None:
        await self.say(FRAME * frames)

    async def say(self, pcm: bytes) -> None:
        audio = base64.b64encode(pcm).decode()
        await self.send("input_audio_buffer.append", audio=audio)
        await self.send("input_audio_buffer.commit")

    async def until(self, kind: str) -> Event:
        """Return the next event of a kind; what comes before it is kept as well."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                event: Event = json.loads(await self.socket.recv())
                self.events.append(event)
                if event["type"] == kind:
                    return event

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]


@dataclass
class Served:
    """A runtime that listens."""

    runtime: Runtime
    engine: FakeEngine
    sessions: str
    admin: str

    @asynccontextmanager
    async def client(
        self, query: str = "", tls: ssl.SSLContext | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        scheme = "ws" if tls is None else "wss"
        address = f"{scheme}://{self.sessions}/v1/realtime{query}"
        async with connect_websocket(address, ssl=tls, **options) as socket:
            client = Client(socket)
            await client.until("conversation.created")
            yield client

    def live(self) -> LiveSession:
        """Return the only session."""
        (live,) = self.runtime.connections
        assert isinstance(live, LiveSession)
        return live

    async def eventually(self, claim: Callable[[], bool], what: str) -> None:
        """Wait until a claim about the runtime holds."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not claim():  # noqa: ASYNC110 - a claim about several parts
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"never {what}; last seen: {self.runtime.state()}")


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Give a context in which a runtime serves; keywords are variables of its environment."""

    @asynccontextmanager
    async def serving(
        *, engine: FakeEngine | None = None, ready: bool = True, **variables: str
    ) -> AsyncIterator[Served]:
        engine = engine or FakeEngine()
        read = settings.from_env(
            {
                "AVATAR_MODEL": "model",
                "AVATAR_AVATAR_FOLDER": "avatars",
                "AVATAR_LISTEN": "127.0.0.1:0",
                "AVATAR_ADMIN": "127.0.0.1:0",
                "AVATAR_CAPACITY": "2",
                "AVATAR_BATCH_SIZE": "8",
                "AVATAR_SERVICE": "acme/concierge",
                "AVATAR_POD": "concierge-0",
                "AVATAR_GPU_CLASS": "rtx-4090",
                "AVATAR_AVATARS": "anna,ben",
                "AVATAR_TURN_DETECTION": "none",
                "AVATAR_SILENCE_DBFS": "off",  # the clients of most tests send silence
                **variables,
            }
        )
        runtime = Runtime(read, engine, Metrics("simulated", "rtx-4090"))
        async with server.listening(runtime) as listeners:
            if ready:
                await runtime.start()
            yield Served(
                runtime,
                engine,
                f"127.0.0.1:{listeners.sessions.port}",
                f"127.0.0.1:{listeners.admin.port}",
            )

    return serving


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., FakeEngine]:
    """Give the fake engine's maker."""
    return FakeEngine


@pytest.fixture(scope="session")
def make_client() -> Callable[[ClientConnection], Client]:
    """Give the client around a socket of any runtime."""
    return Client
