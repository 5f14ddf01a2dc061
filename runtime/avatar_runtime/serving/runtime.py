"""The shared state of a runtime: the engine, the batcher, the slots and the sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Protocol

from avatar_contracts import session_ids
from avatar_contracts.state import START_STAGES
from avatar_runtime import process_age
from avatar_runtime.audio import voice_activity
from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.audio.utterance import AudioOptions
from avatar_runtime.engine import calibration
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import (
    Character,
    ReadOnlyFields,
    SessionConfig,
    VideoMode,
)
from avatar_runtime.serving.admission import SlotLimiter
from avatar_runtime.serving.batcher import Batcher
from avatar_runtime.serving.changes import ChangeNotifier
from avatar_runtime.serving.direct_access import DirectAccess
from avatar_runtime.serving.large_messages import LargeMessages
from avatar_runtime.serving.pod_tokens import PodTokens
from avatar_runtime.serving.usage import UsageReports
from avatar_runtime.serving.video_encoding import VideoEncoders
from avatar_runtime.upstream import shell
from avatar_runtime.video import trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_contracts.state import StartDocument, StartStage, StateDocument
    from avatar_runtime.batching.frames import AudioWindow, FrameRequest
    from avatar_runtime.metrics import Load, Metrics
    from avatar_runtime.protocol.resume import Resume
    from avatar_runtime.protocol.session_document import Heading
    from avatar_runtime.serving.engine_protocol import Engine
    from avatar_runtime.settings import Settings

LAG_PERIOD_S: Final = 0.1
MEMORY_PERIOD_S: Final = 0.25
AVATAR_PERIOD_S: Final = 5.0
"""How often the folder of avatars is looked at: a new avatar is served after 5 s at most, and one
that is removed after 10 s."""
MOVE_S: Final = 15.0
"""How long the sessions that outlast a drain can be moved to other pods, before they end. With the
time for the close frames it fits into what a pod has after the drain timeout."""
ASK_PERIOD_S: Final = 1.0
"""How often a session that cannot move yet is looked at again in this time."""
CLOSE_GRACE_S: Final = 5.0
"""For the close frames after the drain timeout."""
_LOAD_AGE_S: Final = 0.5  # percentiles are sorted at most twice per second

_log = logging.getLogger(__name__)


class LiveConnection(Protocol):
    """A session as the runtime sees it: `LiveSession` implements it."""

    @property
    def is_asked_to_move(self) -> bool:
        """Whether its client was asked to continue it on another pod."""

    def end(self, code: int, reason: str) -> None:
        """Close its connection after the messages that wait."""

    async def ask_to_move(self, reason: str) -> None:
        """Ask its client to continue it on another pod, if it can move."""


class Runtime:
    """The state that the two listeners share. Only the event loop uses it."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.tokens = PodTokens(settings.admin)
        self.direct = DirectAccess(settings.identity.pod, self.tokens.session, time.time)
        self.metrics = metrics
        self.clock = clock
        self.changes = ChangeNotifier()
        self._endpoints = shell.Endpoints(settings.upstream, metrics, clock)
        self.slots = SlotLimiter(settings.sessions.capacity or 0, self.changed)
        self.batcher = Batcher(engine, settings.engine.batch_size, metrics, clock, self.changed)
        self.connections: set[LiveConnection] = set()
        """The sessions of this pod, also those that wait for their client."""
        self.large_messages = LargeMessages()
        self.usage = UsageReports(clock)
        self._process_s: float | None = None
        self.video_encoders = VideoEncoders(metrics, settings.sessions.fps)
        self.stopping = False
        """Whether the state streams end, because the process stops."""
        self._engine = engine
        self._is_ending = False
        self._draining_since: float | None = None
        self._sequence = 0
        self._speaking: set[str] = set()
        self._characters: dict[str, Character] = {}
        self._load: Load = metrics.load(clock())
        self._load_at = clock()
        self.changed()

    @property
    def avatars(self) -> Mapping[str, Character]:
        """The avatars that clients can select, the default first; empty before the start."""
        return self._characters

    def avatars_in_use(self) -> Mapping[str, Character]:
        """Return the versions of avatars that sessions have by their names in frame requests."""
        return self.batcher.avatars_in_use()

    async def idle_picture(self, request: FrameRequest) -> bytes:
        """Return a picture of an avatar in silence.

        Raises:
            EngineError: it cannot be made.
        """
        (frame,) = await self._engine.idle_frames((request,))
        return frame.image

    async def start(self) -> None:
        """Start the engine, then accept sessions.

        Raises:
            AssetError: a model or an avatar cannot be used.
            EngineError: the engine cannot start.
        """
        await asyncio.to_thread(voice_activity.load)
        self._process_s = process_age.seconds()
        await self._engine.start()
        self.metrics.set_start(self.start_document()["seconds"])
        if self._engine.device_name == "cuda":
            self.video_encoders.codec = await asyncio.to_thread(trial.choose)
        self._set_capacity()
        self._update_characters()
        self.metrics.watch(self._memory, self.load)
        self.slots.is_ready = True
        self.changed()
        _log.info("ready capacity=%d avatars=%d", self.slots.capacity, len(self._characters))

    def set_draining(self, draining: bool) -> None:
        """Refuse or accept new sessions; a process that is ending does not accept them again."""
        is_draining = draining or self._is_ending
        if not is_draining:
            self._draining_since = None
        elif self._draining_since is None:
            self._draining_since = self.clock()
        self.slots.set_draining(is_draining)

    def set_batch_limit(self, limit: int) -> None:
        """Limit the next batches; the device's memory may limit them further."""
        self.batcher.limit.requested = limit
        self.changed()

    async def drain(self) -> None:
        """Refuse new sessions and wait until the last one ends, at most the drain timeout.

        The timeout counts from the start of the drain, which may be before the signal: the hook
        of the pod drains first. The sessions that are left are asked to move, and end after
        `MOVE_S`.
        """
        self._is_ending = True
        self.set_draining(True)
        timeout_s = self.settings.sessions.drain_timeout_s
        since = self.clock() if self._draining_since is None else self._draining_since
        _log.info("draining sessions=%d timeout_s=%d", self.slots.sessions, timeout_s)
        if not await self._wait_until_empty(since + timeout_s):
            _log.warning("drain timed out sessions=%d", self.slots.sessions)
            await self._move_sessions()
            self._end_sessions()
            await self._wait_until_empty(self.clock() + CLOSE_GRACE_S)

    async def _move_sessions(self) -> None:
        """Ask all sessions to move, and wait until they have, at most `MOVE_S`."""
        until = self.clock() + MOVE_S
        while self.slots.sessions and self.clock() < until:
            async with asyncio.TaskGroup() as group:
                for connection in [each for each in self.connections if not each.is_asked_to_move]:
                    group.create_task(connection.ask_to_move("drain"), name="move")
            await self._wait_until_empty(min(until, self.clock() + ASK_PERIOD_S))

    async def stop(self) -> None:
        """Stop the engine."""
        self.slots.is_ready = False
        await self._wait_until_empty(self.clock() + CLOSE_GRACE_S)
        await self._endpoints.close()
        self.video_encoders.close()
        await self._engine.stop()

    def changed(self) -> None:
        """Update the gauges and notify the state streams."""
        self.metrics.show_sessions(self.slots.sessions, self.slots.capacity, self.slots.free)
        self.metrics.show_batch_limit(self.batcher.limit.value)
        self.changes.notify()

    def new_session_id(self) -> str:
        """Return an id for a session of this pod."""
        return session_ids.new(self.settings.identity.pod)

    def open_session(
        self,
        avatar: str | None,
        service: str,
        video: VideoMode = VideoMode.JPEG,
        *,
        session_id: str = "",
        names_avatar: bool = False,
        resume: Resume | None = None,
        max_duration_s: float | None = None,
    ) -> Session[AudioWindow]:
        """Return a new session that reports `service` as its model.

        The caller has acquired a slot for it. `session_id` is from `new_session_id`; an empty one
        is made here. `resume` is how the client can continue it. `max_duration_s` is that of the
        settings if it is None.
        """
        settings = self.settings.sessions
        duration_s = settings.max_duration_s if max_duration_s is None else max_duration_s
        character = self._characters[avatar] if avatar else next(iter(self._characters.values()))
        read_only = ReadOnlyFields(
            id=session_id or self.new_session_id(),
            model=service,
            expires_at=int(time.time() + duration_s),
            fps=settings.fps,
        )
        config = SessionConfig(
            character,
            turn_detection=settings.turn_detection,
            video=video,
            names_avatar=names_avatar,
        )
        return self._session(config, read_only, resume=resume, max_duration_s=duration_s)

    def continue_session(self, config: SessionConfig, heading: Heading) -> Session[AudioWindow]:
        """Return the session of a document without its state.

        The caller has acquired a slot for it.
        """
        session_id = self.new_session_id()
        read_only = ReadOnlyFields(session_id, heading.model, heading.expires_at, heading.fps)
        return self._session(config, read_only, continues=heading.suffix)

    def _session(
        self,
        config: SessionConfig,
        read_only: ReadOnlyFields,
        *,
        resume: Resume | None = None,
        continues: str | None = None,
        max_duration_s: float | None = None,
    ) -> Session[AudioWindow]:
        settings = self.settings.sessions
        context_s = self._engine.model.context_s
        audio_settings = self.settings.audio
        options = AudioOptions(audio_settings.lookahead_ms, audio_settings.silence_dbfs)
        return Session(
            config,
            self._characters,
            read_only,
            limits=SessionLimits(
                settings.max_duration_s if max_duration_s is None else max_duration_s,
                settings.idle_timeout_s,
            ),
            open_utterance=lambda audio: AudioDecoder(audio, settings.fps, context_s, options),
            open_detector=voice_activity.SileroDetector,
            now=self.clock(),
            open_mode=self._endpoints.open_mode,
            resume=resume,
            continues=continues,
        )

    def open_shell(
        self,
        session: Session[AudioWindow],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> shell.Shell | None:
        """Return what runs beside a session, and calls `changed` after each change of it."""
        return self._endpoints.open_shell(session, changed, clock)

    def set_speaking(self, session_id: str, speaking: bool) -> None:
        """Record whether a session has an active response."""
        if speaking != (session_id in self._speaking):
            (self._speaking.add if speaking else self._speaking.discard)(session_id)
            self.changed()

    def load(self) -> Load:
        """Return the load of the last 30 s; the value is at most half a second old."""
        now = self.clock()
        if now - self._load_at > _LOAD_AGE_S:
            self._load, self._load_at = self.metrics.load(now), now
        return self._load

    def start_document(self) -> StartDocument:
        """Return how far the start is."""
        done: dict[StartStage, float] = dict(self._engine.start_stages)
        if self._process_s is not None:
            done["process"] = self._process_s
        known = {stage: round(done[stage], 3) for stage in START_STAGES if stage in done}
        current = next((stage for stage in START_STAGES if stage not in known), "ready")
        return {"stage": "ready" if self.slots.is_ready else current, "seconds": known}

    def state(self) -> StateDocument:
        """Return the state document: docs/architecture.md, "State and control"."""
        identity, load, slots = self.settings.identity, self.load(), self.slots
        used, total = self._memory() if slots.is_ready else (0, 0)
        curve = self._engine.curve
        self._sequence += 1
        return {
            "pod": identity.pod,
            "service": identity.service,
            "gpu_class": identity.gpu_class,
            "batch_size": self.batcher.limit.batch_size,
            "batch_limit": self.batcher.limit.value,
            "capacity": slots.capacity,
            "sessions": slots.sessions,
            "speaking": len(self._speaking),
            "free": slots.free,
            "draining": slots.draining,
            "ready": slots.is_ready,
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
            "start": self.start_document(),
            "sequence": self._sequence,
        }

    async def measure_lag(self) -> None:
        """Observe how late timers are, until cancelled."""
        while True:
            started_at = self.clock()
            await asyncio.sleep(LAG_PERIOD_S)
            self.metrics.observe_lag(max(0.0, self.clock() - started_at - LAG_PERIOD_S))

    async def follow_memory(self) -> None:
        """Follow the device's memory while no batch runs, until cancelled."""
        while True:
            await asyncio.sleep(MEMORY_PERIOD_S)
            if self.slots.is_ready:
                self.batcher.limit.update()

    async def follow_avatars(self) -> None:
        """Look at the folder of avatars every `AVATAR_PERIOD_S`, until cancelled."""
        while True:
            await asyncio.sleep(AVATAR_PERIOD_S)
            if self.slots.is_ready:
                await self.refresh_avatars()

    async def refresh_avatars(self) -> None:
        """Serve avatars that were added or changed, and offer removed ones no more.

        Running sessions keep the version of the avatar that they have.
        """
        try:
            changed = await self._engine.refresh_avatars(self.batcher.avatars_in_use)
        except Exception:
            # Sessions do not depend on it, and the next round may succeed.
            _log.exception("avatars not refreshed")
            return
        self._update_characters()
        if changed:
            _log.info("avatars changed names=%s", ",".join(self._characters))
            self.changed()

    def stop_watchers(self) -> None:
        """End the state streams, and the sessions that are left, because the process stops."""
        self.stopping = True
        self._end_sessions()
        self.changes.notify()

    async def sleep_until(self, until: float) -> None:
        """Sleep until a time of the runtime's clock."""
        await asyncio.sleep(max(0.0, until - self.clock()))

    def _end_sessions(self) -> None:
        for connection in list(self.connections):
            connection.end(1012, "the pod is stopping")

    async def _wait_until_empty(self, until: float) -> bool:
        while self.slots.sessions and self.clock() < until:
            await self.changes.wait(self.changes.count, until - self.clock())
        return self.slots.sessions == 0

    def _set_capacity(self) -> None:
        """Without a setting, accept the sessions that the device carries, at least one."""
        sessions, curve = self.settings.sessions, self._engine.curve
        if sessions.capacity is not None or curve is None:
            return
        carried = calibration.sessions_carried(curve, self.settings.engine.batch_size, sessions.fps)
        self.slots.capacity = max(1, carried)
        if carried == 0:
            _log.warning("device is too slow for one session fps=%d", sessions.fps)

    def _update_characters(self) -> None:
        """Take over the avatars of the engine; sessions see the same mapping."""
        loaded = self._engine.avatars
        disclosure = self.settings.sessions.disclosure
        names = self.settings.sessions.avatars or sorted(loaded)
        characters = {
            name: Character(
                name,
                loaded[name].width,
                loaded[name].height,
                loaded[name].fps,
                loaded[name].key,
                disclosure or loaded[name].disclosure,
                loaded[name].frames,
                loaded[name].has_alpha,
            )
            for name in names
            if name in loaded
        }
        self._characters.clear()
        self._characters.update(characters)
        self.metrics.show_avatars(len(characters), self._engine.avatar_faults)

    def _memory(self) -> tuple[int, int]:
        memory = self._engine.memory()
        return memory.used_bytes, memory.total_bytes


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
