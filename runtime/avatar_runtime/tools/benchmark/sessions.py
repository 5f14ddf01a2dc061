"""Whole sessions without sockets: at full speed, and at the rated load."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.audio import voice_activity
from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.batching import buckets
from avatar_runtime.metrics import Metrics
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, Overrun, ReadOnlyFields, SessionConfig
from avatar_runtime.serving.batcher import Batcher
from avatar_runtime.tools.benchmark.plan import FPS, noise

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.batching.frames import AudioWindow, FrameRequest
    from avatar_runtime.engine import engine
    from avatar_runtime.tools.benchmark.plan import Plan

_WINDOW_MS: Final = 10_000  # the maximum: sessions saturate the engine instead of waiting
_LAG_PERIOD_S: Final = 0.01


@dataclass(slots=True)
class BenchmarkSession:
    """One session without a socket."""

    session: Session[AudioWindow]
    clock: Callable[[], float]
    collect_due: Callable[[str], None]
    first_ms: list[float] = field(default_factory=list)
    frame_ms: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Take every message, like a socket whose buffer has room."""
        while (outgoing := self.session.pull(now := self.clock())) is not None:
            if outgoing.frame is not None:
                self.frame_ms.append(1000 * (now - outgoing.frame.requested_at))
            if outgoing.speakable_at is not None:
                self.first_ms.append(1000 * (now - outgoing.speakable_at))
        self.collect_due(self.session.id)
        if not self.session.is_speaking:
            self.done.set()

    def speak(self, pcm: bytes) -> None:
        """Send a whole utterance at once."""
        self.done.clear()
        audio = base64.b64encode(pcm).decode()
        for event in (
            {"type": "input_audio_buffer.append", "audio": audio},
            {"type": "input_audio_buffer.commit"},
        ):
            self.session.receive(json.dumps(event), self.clock())
        self.wake()


@dataclass(slots=True)
class SaturatedRun:
    """The results of the turns with a saturated engine."""

    recipe: list[float] = field(default_factory=list)
    """Frames per second of each turn."""
    frames: int = 0
    paid: int = 0
    """Frames of the buckets of the batches, padding included."""

    @property
    def fps(self) -> float:
        return statistics.median(self.recipe)


async def saturate(engine: engine.Engine, plan: Plan, saturated: SaturatedRun) -> None:
    """Let all sessions speak at the same time, at the full speed of the engine."""
    counting: Any = _CountingEngine(engine, saturated)
    opened, batcher = _open_sessions(counting, plan, plan.sessions, _WINDOW_MS)
    batches = asyncio.create_task(batcher.run(), name="batcher")
    audio = noise(plan.frames)
    began = time.perf_counter()
    for each in opened:
        each.speak(audio)
    for each in opened:
        await each.done.wait()
    saturated.recipe.append(plan.sessions * plan.frames / (time.perf_counter() - began))
    batches.cancel()


async def at_rated_load(
    engine: engine.Engine, plan: Plan, sessions: int
) -> tuple[list[BenchmarkSession], list[float]]:
    """Let a number of sessions speak in real time; return them and the lags of the event loop."""
    opened, batcher = _open_sessions(engine, plan, sessions, 1000)
    lags: list[float] = []
    tasks = [
        asyncio.create_task(batcher.run(), name="batcher"),
        asyncio.create_task(_watch_lag(lags), name="loop lag"),
    ]
    audio = noise(plan.frames)
    for each in opened:
        each.speak(audio)
        await asyncio.sleep(1 / FPS)  # callers do not arrive at the same time
    for each in opened:
        await each.done.wait()
    for task in tasks:
        task.cancel()
    return opened, lags


class _CountingEngine:
    """An engine that counts the frames of its batches and their buckets."""

    def __init__(self, engine: engine.Engine, saturated: SaturatedRun) -> None:
        self._engine = engine
        self._saturated = saturated

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def run(self, batch: Sequence[FrameRequest], on_free: Callable[[], None]) -> Any:
        self._saturated.frames += len(batch)
        self._saturated.paid += buckets.around(len(batch))
        return await self._engine.run(batch, on_free)


async def _watch_lag(lags: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(_LAG_PERIOD_S)
        lags.append(1000 * max(0.0, time.perf_counter() - began - _LAG_PERIOD_S))


def _open_sessions(
    engine: engine.Engine, plan: Plan, sessions: int, window_ms: int
) -> tuple[list[BenchmarkSession], Batcher]:
    avatar = next(iter(engine.avatars.values()))
    character = Character(avatar.name, avatar.width, avatar.height)
    metrics = Metrics(engine.device.name, "none")
    batcher = Batcher(engine, plan.batch_size, metrics, time.monotonic, lambda: None)
    context_s = engine.model.context_s
    opened = []
    for number in range(sessions):
        session = Session(
            SessionConfig(character, window_ms=window_ms, overrun=Overrun.PAUSE),
            {avatar.name: character},
            ReadOnlyFields(f"sess_{number}", "bench", 0, FPS),
            limits=SessionLimits(7200, 7200),
            open_utterance=lambda audio: AudioDecoder(audio, FPS, context_s),
            open_detector=voice_activity.SileroDetector,
            now=time.monotonic(),
        )
        opened.append(BenchmarkSession(session, time.monotonic, batcher.collect_due))
        batcher.add(session, opened[-1].wake)
    return opened, batcher
