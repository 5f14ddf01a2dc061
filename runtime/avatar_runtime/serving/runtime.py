"""One runtime in one place: the engine, the pump, the door, the sessions and their state."""

from __future__ import annotations

import asyncio
import logging
import time
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from avatar_runtime.audio.utterance import AudioOptions
from avatar_runtime.protocol.session import Session, Terms
from avatar_runtime.protocol.session_config import Character, Configuration, ReadOnly
from avatar_runtime.serving.admission import Door
from avatar_runtime.serving.batcher import Pump
from avatar_runtime.serving.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.metrics import Load, Metrics
    from avatar_runtime.serving.batcher import Engine
    from avatar_runtime.serving.connection import Connection
    from avatar_runtime.settings import Settings
from avatar_runtime.audio.decoding import AudioDecoder

LAG_PERIOD_S: Final = 0.1


GOVERN_PERIOD_S: Final = 0.25


_LAST_WORDS_S: Final = 5.0


_LOAD_AGE_S: Final = 0.5  # percentiles are sorted at most twice a second


_log: Final = logging.getLogger(__name__)


class Runtime:
    """What the two listeners share. The event loop is its only owner."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.changes = Changes()
        self.door = Door(settings.sessions.capacity, self.changed)
        self.pump = Pump(engine, settings.engine.batch_size, metrics, clock, self.changed)
        self.connections: set[Connection] = set()
        self.stopping = False
        """Whether watchers should end, since the process does."""
        self._engine = engine
        self._ending = False
        self._sequence = 0
        self._speaking: set[str] = set()
        self._characters: dict[str, Character] = {}
        self._load: Load = metrics.load(clock())
        self._load_at = clock()
        self.changed()

    @property
    def avatars(self) -> Mapping[str, Character]:
        """The avatars on offer, the default first; empty until the engine is ready."""
        return self._characters

    async def start(self) -> None:
        """Load the engine, then open the door.

        Raises `AssetError` or `EngineError`.
        """
        await self._engine.start()
        loaded = self._engine.avatars
        wanted = self.settings.sessions.avatars or sorted(loaded)
        self._characters = {
            name: Character(name, loaded[name].width, loaded[name].height)
            for name in wanted
            if name in loaded
        }
        self.metrics.watch(self._memory, self.load)
        self.door.is_open = True
        self.changed()
        _log.info("ready capacity=%d avatars=%d", self.door.capacity, len(self._characters))

    def set_draining(self, draining: bool) -> None:
        """Refuse new sessions or take them again; a process that is told to end stays closed."""
        self.door.set_draining(draining or self._ending)

    def set_batch_limit(self, limit: int) -> None:
        """Bound the next batches; memory may bound them further."""
        self.pump.asked_limit = limit
        self.changed()

    async def drain(self) -> None:
        """Refuse new sessions and wait for the last to end, as long as the service allows."""
        self._ending = True
        self.set_draining(True)
        patience_s = self.settings.sessions.drain_timeout_s
        _log.info("draining sessions=%d timeout_s=%d", self.door.sessions, patience_s)
        if not await self._empty_until(self.clock() + patience_s):
            _log.warning("drain timed out sessions=%d", self.door.sessions)
            for connection in self.connections:
                connection.end(1012, "the pod is stopping")
            await self._empty_until(self.clock() + _LAST_WORDS_S)

    async def stop(self) -> None:
        """Give the device back."""
        self.door.is_open = False
        await self._engine.stop()

    def changed(self) -> None:
        """Show the new numbers to whoever watches."""
        self.metrics.show_sessions(self.door.sessions, self.door.capacity, self.door.free)
        self.metrics.show_batch_limit(self.pump.batch_limit)
        self.changes.touch()

    def open_session(self, avatar: str | None, service: str) -> Session[AudioWindow]:
        """Return a new session, which is told the name of `service`; it has a slot."""
        granted = self.settings.sessions
        character = self._characters[avatar] if avatar else next(iter(self._characters.values()))
        read_only = ReadOnly(
            id=f"sess_{token_hex(8)}",
            model=service,
            expires_at=int(time.time()) + granted.max_duration_s,
            fps=granted.fps,
        )
        context_s = self._engine.model.context_s
        heard = self.settings.hearing
        hearing = AudioOptions(heard.lookahead_ms, heard.silence_dbfs)
        return Session(
            Configuration(character),
            self._characters,
            read_only,
            terms=Terms(granted.max_duration_s, granted.idle_timeout_s),
            open_utterance=lambda audio: AudioDecoder(audio, granted.fps, context_s, hearing),
            now=self.clock(),
        )

    def note_speaking(self, session_id: str, speaking: bool) -> None:
        """Take note of whether a session has an active response."""
        if speaking != (session_id in self._speaking):
            (self._speaking.add if speaking else self._speaking.discard)(session_id)
            self.changed()

    def load(self) -> Load:
        """Return the recent load, at most half a second old."""
        now = self.clock()
        if now - self._load_at > _LOAD_AGE_S:
            self._load, self._load_at = self.metrics.load(now), now
        return self._load

    def state(self) -> dict[str, object]:
        """Return the state document of architecture §7."""
        identity, load, door = self.settings.identity, self.load(), self.door
        used, total = self._memory() if door.is_open else (0, 0)
        curve = self._engine.curve
        self._sequence += 1
        return {
            "pod": identity.pod,
            "service": identity.service,
            "gpu_class": identity.gpu_class,
            "batch_size": self.pump.batch_size,
            "batch_limit": self.pump.batch_limit,
            "capacity": door.capacity,
            "sessions": door.sessions,
            "speaking": len(self._speaking),
            "free": door.free,
            "draining": door.draining,
            "ready": door.is_open,
            "vram": {
                "used_bytes": used,
                "total_bytes": total,
                "ratio": round(used / total, 4) if total else 0.0,
            },
            "latency_ms": {
                "first_frame_p95": _milliseconds(load.first_frame_p95_s),
                "frame_p95": _milliseconds(load.frame_p95_s),
            },
            "deadline_miss_ratio": round(load.deadline_miss_ratio, 4),
            "batch_fill_ratio": round(load.batch_fill_ratio, 4),
            "device": self._engine.device_name,
            "calibration": curve.as_document() if curve else None,
            "sequence": self._sequence,
        }

    async def measure_lag(self) -> None:
        """Observe how late timers are, until cancelled."""
        while True:
            began = self.clock()
            await asyncio.sleep(LAG_PERIOD_S)
            self.metrics.observe_lag(max(0.0, self.clock() - began - LAG_PERIOD_S))

    async def govern(self) -> None:
        """Follow the device's memory while no batch does, until cancelled."""
        while True:
            await asyncio.sleep(GOVERN_PERIOD_S)
            if self.door.is_open:
                self.pump.govern()

    def stop_watchers(self) -> None:
        """End the state streams: the process ends."""
        self.stopping = True
        self.changes.touch()

    async def pause(self, until: float) -> None:
        """Wait until a moment of the runtime's clock."""
        await asyncio.sleep(max(0.0, until - self.clock()))

    async def _empty_until(self, until: float) -> bool:
        while self.door.sessions and self.clock() < until:
            await self.changes.wait(self.changes.count, until - self.clock())
        return self.door.sessions == 0

    def _memory(self) -> tuple[int, int]:
        memory = self._engine.memory()
        return memory.used_bytes, memory.total_bytes


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
