"""A runtime, its clients and their networks in virtual time: exact, whatever the machine does.

The sessions, the batcher and the connections are those of the runtime. Its sockets, its device and
the clock are not: a batch takes the time of a curve, and a network passes so many bytes a second.
"""

from __future__ import annotations

import asyncio
import base64
import json
import selectors
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from starlette.websockets import WebSocket

from avatar_runtime import settings
from avatar_runtime.avatars.cache import AvatarInfo
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.device import Curve, Memory, ModelInfo
from avatar_runtime.engine.engine import Statistics
from avatar_runtime.metrics import Metrics
from avatar_runtime.serving import app
from avatar_runtime.serving.live_sessions import LiveSessions
from avatar_runtime.serving.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

    from avatar_contracts.state import StartStage
    from avatar_runtime.batching.frames import FrameRequest

BUFFER_BYTES: Final = 64 * 1024
"""What a network takes before it passes: the limit of the kernel and a frame in the transport."""
_VARIABLES: Final = {
    "AVATAR_MODEL": "model",
    "AVATAR_AVATAR_FOLDER": "avatars",
    "AVATAR_CAPACITY": "1000",
    "AVATAR_BATCH_SIZE": "32",
    "AVATAR_SERVICE": "acme/concierge",
    "AVATAR_TURN_DETECTION": "none",
    "AVATAR_SILENCE_DBFS": "off",
    "AVATAR_RESUME_TTL_S": "0",
}


class _Selector(selectors.DefaultSelector):
    """Passes the time that the loop would wait; without a timer it waits for threads."""

    now = 1000.0
    is_virtual = False

    def select(self, timeout: float | None = None) -> Any:
        if not self.is_virtual or timeout is None:
            return super().select(timeout)
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer once `start` was called."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time, seconds."""
        return self._virtual.now if self._virtual.is_virtual else super().time()

    def start(self) -> None:
        """Let the time be virtual; no thread may be running."""
        self._virtual.now = super().time()
        self._virtual.is_virtual = True


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in a loop of its own, and return its result."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))


@dataclass
class VirtualEngine:
    """Generates frames of one size in the time of a curve."""

    frame_batch_ms: Sequence[tuple[int, float]]
    jpeg: bytes
    avatars: Mapping[str, AvatarInfo] = field(
        default_factory=lambda: {"anna": AvatarInfo("anna", 384, 384, 25, 10, "hash")}
    )
    device_name: str = "virtual"
    avatar_faults: int = 0
    start_stages: Mapping[StartStage, float] = field(default_factory=dict)
    pads: bool = False
    overlaps: bool = False
    model: ModelInfo = field(default_factory=lambda: ModelInfo("v15", "", 30, "v15/sd-vae/fp16"))

    @property
    def curve(self) -> Curve:
        """The time of batches."""
        return Curve("v15/sd-vae/fp16", 1, 1, tuple(self.frame_batch_ms))

    async def start(self) -> None:
        """Do nothing: there is no device."""

    async def run(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None]
    ) -> Sequence[Frame]:
        """Return frames after the time of the batch."""
        await asyncio.sleep(self.curve.batch_ms(len(batch)) / 1000)
        return [Frame(request, self.jpeg) for request in batch]

    async def idle_frames(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        """Return frames at once."""
        return [Frame(request, self.jpeg) for request in requests]

    async def refresh_avatars(self, in_use: Callable[[], Collection[str]]) -> bool:
        """Return false: nothing changes."""
        return False

    async def release(self) -> None:
        """Do nothing: there is no memory to release."""

    def memory(self) -> Memory:
        """Return the memory of no device."""
        return Memory(1, 2)

    def statistics(self) -> Statistics:
        """Return no counters."""
        return Statistics()

    async def stop(self) -> None:
        """Do nothing: there is no device."""


@dataclass
class VirtualClient:
    """One client on a network of its own."""

    bytes_per_s: float | None = None
    """`None` for a network without a limit, 0 for one that passes nothing once it is full."""
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """What has arrived, with the time."""
    closed: int | None = None
    spoke_at: list[float] = field(default_factory=list)
    """When it has spoken; a caller of `speak` keeps it."""
    _inbox: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    _free_at: float = 0.0
    _held: float = 0.0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, kind: str, **fields: Any) -> None:
        """Send an event."""
        text = json.dumps({"type": kind, **fields})
        self._inbox.put_nowait({"type": "websocket.receive", "text": text})

    async def speak(self, pcm: bytes) -> None:
        """Send an utterance in one burst, and wait for the end of its response."""
        before = self.count("response.done")
        self.say("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())
        self.say("input_audio_buffer.commit")
        while self.count("response.done") == before and self.closed is None:
            self._arrived.clear()
            await self._arrived.wait()

    def count(self, kind: str) -> int:
        """Return how many events of a type have arrived."""
        return sum(event["type"] == kind for _, event in self.events)

    def leave(self) -> None:
        """Close the connection."""
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def serve(self, runtime: Runtime, sessions: LiveSessions) -> None:
        """Be served by a runtime until the connection ends."""
        scope = {
            "type": "websocket",
            "path": "/v1/realtime",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
        }
        self._inbox.put_nowait({"type": "websocket.connect"})
        await app.serve_session(WebSocket(scope, self._inbox.get, self._take), runtime, sessions)

    async def _take(self, message: Any) -> None:
        """Take a message of the server, and return when there is room for the next one."""
        if message["type"] == "websocket.close":
            self.closed = message["code"]
            self._arrived.set()
        if message["type"] != "websocket.send":
            return
        loop = asyncio.get_running_loop()
        text, now = message["text"], loop.time()
        if self.bytes_per_s == 0:
            self._held += len(text)
            if self._held > BUFFER_BYTES:
                await asyncio.Event().wait()
            return
        if self.bytes_per_s is not None:
            self._free_at = max(self._free_at, now) + len(text) / self.bytes_per_s
            await asyncio.sleep(self._free_at - now - BUFFER_BYTES / self.bytes_per_s)
        self.events.append((max(self._free_at, now), json.loads(text)))
        self._arrived.set()


async def start(loop: VirtualLoop, engine: VirtualEngine) -> tuple[Runtime, LiveSessions]:
    """Start a runtime in virtual time; the caller runs its batcher."""
    read = settings.from_env(_VARIABLES)
    runtime = Runtime(read, engine, Metrics("virtual", "none"), clock=loop.time)
    await runtime.start()
    loop.start()
    return runtime, LiveSessions(runtime)


def responses(client: VirtualClient) -> list[list[tuple[float, dict[str, Any]]]]:
    """Return the events of each response of a client, with their times."""
    by_id: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for at, event in client.events:
        response_id = event.get("response_id")
        if response_id is not None:
            by_id.setdefault(response_id, []).append((at, event))
    return list(by_id.values())
