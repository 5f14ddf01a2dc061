"""Moves frames: asks sessions what is due, gives batches to the engine, hands pictures back."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from avatar_runtime.batching import governor
from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.batching.scheduler import Scheduler
from avatar_runtime.engine import device
from avatar_runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_runtime.avatars.cache import AvatarInfo
    from avatar_runtime.batching.frames import AudioWindow, Frame
    from avatar_runtime.engine import engine
    from avatar_runtime.metrics import Metrics
    from avatar_runtime.protocol.session import Session
    from avatar_runtime.protocol.speech import FrameDue

HUNG_S: Final = 30.0  # far over any batch of any class; liveness takes another minute
FAILING_S: Final = 30.0

_log: Final = logging.getLogger(__name__)


class Engine(Protocol):
    """What serving needs of the engine; tests give a small one."""

    @property
    def avatars(self) -> Mapping[str, AvatarInfo]: ...
    @property
    def device_name(self) -> str: ...
    @property
    def curve(self) -> device.Curve | None: ...
    @property
    def model(self) -> device.ModelInfo: ...
    @property
    def pads(self) -> bool: ...
    @property
    def overlaps(self) -> bool: ...
    async def start(self) -> None: ...
    async def run(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None]
    ) -> Sequence[Frame]: ...
    async def idle_frames(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]: ...
    async def stop(self) -> None: ...
    async def release(self) -> None: ...
    def memory(self) -> device.Memory: ...
    def statistics(self) -> engine.Statistics: ...


@dataclass(slots=True)
class Speaker:
    """One session as the pump sees it."""

    session: Session[AudioWindow]
    wake: Callable[[], None]
    """Tells the session's writer that there may be something to send."""
    epoch: int
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests that ride together."""

    requests: Sequence[FrameRequest]
    limit: int
    """How many there might have been."""
    began: float


class Pump:
    """The owner of the queue between sessions and engine."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        metrics: Metrics,
        clock: Callable[[], float],
        limited: Callable[[], None],
    ) -> None:
        """`limited` is told when memory has changed the limit."""
        self.batch_size = batch_size
        self.asked_limit: int | None = None
        """What the control listener asked for; `None`: nothing."""
        self._limited = limited
        self._governor = governor.Governor(batch_size)
        self._knows_plan = False
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._scheduler = Scheduler(pads=engine.pads)
        self._speakers: dict[str, Speaker] = {}
        self._asked = asyncio.Event()
        # Frames that need no device; bounded by what each session may have in flight.
        self._resting: list[FrameRequest] = []
        self._rests = asyncio.Event()
        # A batch on the device and one on the host: a third would be decided too early.
        self._in_flight = asyncio.Semaphore(2)
        self._running: list[Batch] = []  # oldest first; they end in this order
        self._busy_until = 0.0
        self._failing_since: float | None = None
        self._dead: str | None = None
        self._recoveries = 0
        self._shrunk = False  # the limit has fallen, and the device still holds more

    @property
    def batch_limit(self) -> int:
        """Frames that the next batch may have."""
        return governor.combined(self._governor, self.asked_limit)

    def add(self, session: Session[AudioWindow], wake: Callable[[], None]) -> None:
        """Serve a session from now on."""
        self._speakers[session.id] = Speaker(session, wake, session.epoch)

    def remove(self, session_id: str) -> None:
        """Forget a session and its frames."""
        speaker = self._speakers.pop(session_id)
        if speaker.timer is not None:
            speaker.timer.cancel()
        self._cancel(session_id, speaker.session.epoch + 1)

    def attend(self, session_id: str) -> None:
        """Ask a session for the frames that are due, and come back when more will be."""
        speaker = self._speakers.get(session_id)
        if speaker is None:
            return
        session = speaker.session
        if speaker.epoch != session.epoch:
            speaker.epoch = session.epoch
            self._cancel(session_id, session.epoch)
        now = self._clock()
        room = self._scheduler.statistics().room
        for due in islice(session.due(now), room):
            if due.window.silent:
                self._resting.append(_request(session_id, due))
                self._rests.set()
            else:
                self._scheduler.offer(_request(session_id, due), now, droppable=session.may_skip)
                self._asked.set()
        self._arm(speaker, now)

    def health(self) -> str | None:
        """Return what is wrong with the engine, or `None`."""
        now = self._clock()
        if self._dead is not None:
            return self._dead
        if self._running and now - self._running[0].began > HUNG_S:
            return f"a batch has been running for {now - self._running[0].began:.0f} s"
        if self._failing_since is not None and now - self._failing_since > FAILING_S:
            return f"every batch has failed for {now - self._failing_since:.0f} s"
        return None

    async def run(self) -> None:
        """Make frames until cancelled; a fault here fails what is in flight and stays red."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._make_batches(group), name="batches")
                group.create_task(self._make_rests(), name="silent frames")
        except* Exception as faults:
            self._dead = f"the pump stopped: {type(faults.exceptions[0]).__name__}"
            _log.exception("pump stopped sessions=%d", len(self._speakers))
            for speaker in self._speakers.values():
                speaker.session.end(1011, "internal_error", self._clock())
                speaker.wake()

    def govern(self) -> None:
        """Follow the device's memory; after each batch, and while there is none."""
        self._know_plan()
        now, before = self._clock(), self._governor.limit
        done = self._engine.statistics()
        recoveries = done.oom_recoveries - self._recoveries
        self._recoveries = done.oom_recoveries
        self._metrics.count_oom_recoveries(recoveries)
        if recoveries and done.oom_frames:
            self._governor = self._governor.with_out_of_memory(done.oom_frames, now)
        memory = self._engine.memory()
        ratio = memory.used_bytes / max(1, memory.total_bytes)
        self._governor = self._governor.with_memory(ratio, now)
        if self._governor.limit != before:
            _log.info(
                "batch limit changed from=%d to=%d memory_ratio=%.3f refusals=%d",
                before, self._governor.limit, ratio, recoveries,
            )  # fmt: skip
            self._shrunk = self._governor.limit < before
            self._limited()

    def _know_plan(self) -> None:
        """Take what the boot probe found: the memory that the full batch itself takes."""
        curve = self._engine.curve
        if self._knows_plan or curve is None:
            return
        self._knows_plan = True
        planned = (curve.base_mib + curve.per_frame_mib * self.batch_size) * device.MIB
        ratio = planned / max(1, self._engine.memory().total_bytes)
        self._governor = replace(self._governor, thresholds=governor.thresholds(ratio))

    async def _make_batches(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._asked.wait()
            await self._in_flight.acquire()
            batch = await self._next_batch()
            if batch is None:
                self._asked.clear()
                self._in_flight.release()
                self._attend_all()
                continue
            is_free = asyncio.Event()
            if not self._engine.overlaps:
                # In one go with the next one: sessions that send meanwhile would keep the device.
                await self._make(batch, is_free)
                continue
            group.create_task(self._make(batch, is_free), name="batch")
            await is_free.wait()

    async def _make_rests(self) -> None:
        while True:
            await self._rests.wait()
            self._rests.clear()
            requests, self._resting = tuple(self._resting), []
            try:
                frames = await self._engine.idle_frames(requests)
            except EngineError as error:
                _log.error("silent frames failed frames=%d error=%s", len(requests), error)
                self._fail(requests)
                continue
            now = self._clock()
            for frame in frames:
                self._deliver(frame, now)

    async def _next_batch(self) -> Batch | None:
        """Take what is most urgent now, or `None` if nothing waits."""
        if self._shrunk:
            self._shrunk = False
            await self._engine.release()
        self._shed()
        now, limit = self._clock(), self.batch_limit
        queued = self._scheduler.take(limit, now)
        for entry in queued:
            self._metrics.observe_stage("queue", now - entry.since)
        return Batch(tuple(entry.request for entry in queued), limit, now) if queued else None

    async def _make(self, batch: Batch, is_free: asyncio.Event) -> None:
        """Have a batch made and delivered; `is_free` is set when the next one may be taken."""
        self._running.append(batch)
        try:
            frames = await self._engine.run(batch.requests, is_free.set)
        except EngineError as error:
            _log.error("batch failed frames=%d error=%s", len(batch.requests), error)
            self._fail(batch.requests)
        else:
            self._finish(batch, frames)
        finally:
            self._running.remove(batch)
            self._in_flight.release()
            is_free.set()
        self._attend_all()

    def _finish(self, batch: Batch, frames: Sequence[Frame]) -> None:
        self._failing_since = None
        now = self._clock()
        # What two batches share counts once: one has waited for the other.
        busy = now - max(batch.began, self._busy_until)
        self._busy_until = now
        self._metrics.observe_batch(len(frames), batch.limit, busy, now)
        self._metrics.observe_stage("engine", now - batch.began)
        self.govern()
        for frame in frames:
            self._deliver(frame, now)

    def _attend_all(self) -> None:
        """Ask everyone again: a queue that had no room has kept frames back."""
        for session_id in list(self._speakers):
            self.attend(session_id)

    def _shed(self) -> None:
        """Give up what is far too late, so that everyone else is not."""
        now = self._clock()
        for request in self._scheduler.shed(self.batch_limit, now):
            self._metrics.count_discarded("overload")
            speaker = self._speakers.get(request.session)
            if speaker is not None and speaker.session.skip(
                request.response_ref, request.epoch, request.frame_index, now
            ):
                speaker.wake()

    def _deliver(self, frame: Frame, now: float) -> None:
        request = frame.request
        self._metrics.count_finished(now > request.deadline, now)
        speaker = self._speakers.get(request.session)
        if speaker is not None and speaker.session.deliver(
            request.response_ref,
            request.epoch,
            request.frame_index,
            frame.jpeg,
            now,
            is_drawn=not request.window.silent,
        ):
            speaker.wake()
        else:
            self._metrics.count_discarded("cancelled")

    def _fail(self, batch: Sequence[FrameRequest]) -> None:
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        self._metrics.count_failed_batch()
        self._metrics.count_discarded("failed", len(batch))
        for session_id, ref, epoch in dict.fromkeys(
            (request.session, request.response_ref, request.epoch) for request in batch
        ):
            self._cancel(session_id, epoch + 1)
            speaker = self._speakers.get(session_id)
            if speaker is not None:
                speaker.session.fail(ref, epoch, now)
                speaker.wake()

    def _cancel(self, session_id: str, epoch: int) -> None:
        thrown = self._scheduler.cancel(session_id, epoch)
        self._metrics.count_discarded("cancelled", thrown)

    def _arm(self, speaker: Speaker, now: float) -> None:
        if speaker.timer is not None:
            speaker.timer.cancel()
            speaker.timer = None
        at = speaker.session.next_due()
        if at is not None and at > now:
            loop = asyncio.get_running_loop()
            speaker.timer = loop.call_later(at - now, self.attend, speaker.session.id)


def _request(session_id: str, due: FrameDue[AudioWindow]) -> FrameRequest:
    return FrameRequest(
        session=session_id,
        response_ref=due.response_ref,
        epoch=due.epoch,
        frame_index=due.frame_index,
        deadline=due.deadline,
        avatar=due.avatar,
        source_frame=due.source_frame,
        window=due.window,
        quality=due.quality,
        width=due.width,
        height=due.height,
    )
