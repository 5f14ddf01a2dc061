"""Requests the due frames of all sessions from the engine in batches, and delivers the results."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.batching.scheduler import Scheduler
from avatar_runtime.errors import EngineError
from avatar_runtime.protocol import idle_stream
from avatar_runtime.protocol.media import PatchImage, RawImage
from avatar_runtime.serving.batch_limit import BatchLimit
from avatar_runtime.serving.engine_health import Batch, EngineHealth
from avatar_runtime.serving.session_clock import SessionClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_runtime.batching.frames import AudioWindow, Frame
    from avatar_runtime.metrics import Metrics
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Image
    from avatar_runtime.protocol.session import Session
    from avatar_runtime.protocol.session_config import Character
    from avatar_runtime.serving.engine_protocol import Engine

_IDLE_BATCH: Final = 4
"""Frames of idle streams between two looks at the frames of responses."""
_RECENT_BATCHES: Final = 4  # with two in flight, the next batch takes as long as one of these

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SessionEntry:
    """One session of the batcher."""

    session: Session[AudioWindow]
    wake: Callable[[], None]
    """Wakes the writer of the session, because there may be a message to send."""
    clock: SessionClock
    """The time of the session, which stands still while its client is away."""
    epoch: int
    """The epoch of the session when its due frames were collected last."""
    frames_lapsed: int = 0
    """Lapsed frames of the session that are counted."""
    timer: asyncio.TimerHandle | None = None
    """Collects the due frames when the session's window has room again."""


class Batcher:
    """The queue between the sessions and the engine."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        metrics: Metrics,
        clock: Callable[[], float],
        on_limit_change: Callable[[], None],
    ) -> None:
        """`on_limit_change` is called after memory has changed the batch limit."""
        self.limit = BatchLimit(engine, batch_size, metrics, clock, on_limit_change)
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._health = EngineHealth()
        self._scheduler = Scheduler(pads=engine.pads)
        self._sessions: dict[str, SessionEntry] = {}
        self._queued = asyncio.Event()
        # Frames that need no device; bounded by what each session may have in flight.
        self._idle_requests: list[FrameRequest] = []
        self._stream_requests: deque[FrameRequest] = deque()  # one for each session at most
        self._idle_queued = asyncio.Event()
        # A batch on the device and one on the host: a third would be taken too early.
        self._in_flight = asyncio.Semaphore(2)
        self._busy_until = 0.0
        self._recent_batches_s: deque[float] = deque(maxlen=_RECENT_BATCHES)

    # Sessions

    def add(
        self,
        session: Session[AudioWindow],
        wake: Callable[[], None],
        clock: SessionClock | None = None,
    ) -> None:
        """Serve a session from now on; `wake` is called when it may have messages to send.

        `clock` is its time; without one, it has the time of the batcher.
        """
        clock = clock or SessionClock(self._clock)
        self._sessions[session.id] = SessionEntry(session, wake, clock, session.epoch)

    def remove(self, session_id: str) -> None:
        """Remove a session and cancel its frames."""
        entry = self._sessions.pop(session_id)
        if entry.timer is not None:
            entry.timer.cancel()
        self._cancel(session_id, entry.session.epoch + 1)

    def avatars_in_use(self) -> dict[str, Character]:
        """Return the avatars of all sessions by the names that frame requests have."""
        return {e.session.avatar: e.session.config.character for e in self._sessions.values()}

    def collect_due(self, session_id: str) -> None:
        """Queue the frames of a session that are due, and set a timer for the next ones."""
        entry = self._sessions.get(session_id)
        if entry is None:
            return
        session = entry.session
        if entry.epoch != session.epoch:
            entry.epoch = session.epoch
            self._cancel(session_id, session.epoch)
        now, clock = self._clock(), entry.clock
        session_now = clock()
        omitted = session.frames_omitted
        room = self._scheduler.statistics().room
        for due in islice(session.due(session_now), room):
            request = _request(session_id, due, clock)
            if due.response_ref == idle_stream.REF:
                self._stream_requests.append(request)
                self._idle_queued.set()
            elif due.window.silent:
                self._idle_requests.append(request)
                self._idle_queued.set()
            else:
                self._scheduler.offer(
                    request,
                    now,
                    droppable=session.allows_dropping,
                    expires=inf if due.expires is None else clock.runtime_time(due.expires),
                )
                self._queued.set()
        if session.frames_omitted != omitted:
            entry.wake()
        self._count_lapsed(entry, now)
        self._set_timer(entry, session_now)

    # Engine

    def health(self) -> str | None:
        """Return what is wrong with the engine, or `None`."""
        return self._health.problem(self._clock())

    async def run(self) -> None:
        """Generate frames until cancelled.

        An unexpected error ends all sessions, and `health` reports it from then on.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._serve_batches(group), name="batches")
                group.create_task(self._serve_idle_frames(), name="idle frames")
        except* Exception as errors:
            self._health.stopped(errors.exceptions[0])
            _log.exception("batcher stopped sessions=%d", len(self._sessions))
            for entry in self._sessions.values():
                entry.session.end(1011, "internal_error", entry.clock())
                entry.wake()

    async def _serve_batches(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._queued.wait()
            await self._in_flight.acquire()
            batch = await self._take_batch()
            if batch is None:
                self._queued.clear()
                self._in_flight.release()
                self._collect_all()
                continue
            is_free = asyncio.Event()
            if not self._engine.overlaps:
                # Without a task: otherwise sessions that send meanwhile would delay the next batch.
                await self._run_batch(batch, is_free)
                continue
            group.create_task(self._run_batch(batch, is_free), name="batch")
            await is_free.wait()

    async def _serve_idle_frames(self) -> None:
        while True:
            await self._idle_queued.wait()
            self._idle_queued.clear()
            requests = self._take_idle_requests()
            try:
                frames = await self._engine.idle_frames(requests)
            except EngineError as error:
                _log.error("idle frames failed frames=%d error=%s", len(requests), error)
                self._fail(requests)
                continue
            now = self._clock()
            for frame in frames:
                self._deliver(frame, now)

    def _take_idle_requests(self) -> tuple[FrameRequest, ...]:
        """Return the frames of responses, or a few of idle streams if there are none."""
        requests, self._idle_requests = tuple(self._idle_requests), []
        if not requests:
            count = min(len(self._stream_requests), _IDLE_BATCH)
            requests = tuple(self._stream_requests.popleft() for _ in range(count))
        if self._stream_requests:
            self._idle_queued.set()
        return requests

    async def _take_batch(self) -> Batch | None:
        """Return the most urgent requests, or `None` if none is queued."""
        await self.limit.release_memory()
        self._shed()
        now, limit = self._clock(), self.limit.value
        queued = self._scheduler.take(limit, now)
        for entry in queued:
            self._metrics.observe_stage("queue", now - entry.since)
        return Batch(tuple(entry.request for entry in queued), limit, now) if queued else None

    async def _run_batch(self, batch: Batch, is_free: asyncio.Event) -> None:
        """Run and deliver a batch; `is_free` is set when the next one may be taken."""
        self._health.started(batch)
        try:
            frames = await self._engine.run(batch.requests, is_free.set)
        except EngineError as error:
            _log.error("batch failed frames=%d error=%s", len(batch.requests), error)
            self._fail(batch.requests)
        else:
            self._finish(batch, frames)
        finally:
            self._health.ended(batch)
            self._in_flight.release()
            is_free.set()
        self._collect_all()

    # Results

    def _finish(self, batch: Batch, frames: Sequence[Frame]) -> None:
        self._health.succeeded()
        now = self._clock()
        # Time that two batches share counts once: one has waited for the other.
        busy = now - max(batch.started_at, self._busy_until)
        self._busy_until = now
        self._metrics.observe_batch(len(frames), batch.limit, busy, now)
        self._metrics.observe_stage("engine", now - batch.started_at)
        self._recent_batches_s.append(now - batch.started_at)
        self.limit.update()
        for frame in frames:
            self._deliver(frame, now)

    def _deliver(self, frame: Frame, now: float) -> None:
        request = frame.request
        entry = self._sessions.get(request.session)
        if entry is not None and entry.session.deliver(
            request.response_ref,
            request.epoch,
            request.frame_index,
            _image(frame),
            entry.clock(),
            is_drawn=not request.window.silent,
        ):
            entry.wake()
        elif request.response_ref == idle_stream.REF:
            return  # a response has started
        elif entry is None or entry.session.epoch != request.epoch:
            self._metrics.count_discarded("cancelled")
        else:
            return  # it lapsed, or its response failed: it is counted
        if request.response_ref != idle_stream.REF:  # nobody waits for a frame of an idle stream
            self._metrics.count_finished(now > request.deadline, now)

    def _fail(self, requests: Sequence[FrameRequest]) -> None:
        now = self._clock()
        self._health.failed(now)
        self._metrics.count_failed_batch()
        self._metrics.count_discarded("failed", len(requests))
        for session_id, ref, epoch in dict.fromkeys(
            (request.session, request.response_ref, request.epoch) for request in requests
        ):
            self._cancel(session_id, epoch + 1)
            entry = self._sessions.get(session_id)
            if entry is not None:
                entry.session.fail(ref, epoch, entry.clock())
                entry.wake()

    # Queue

    def _collect_all(self) -> None:
        """Collect the due frames of all sessions: a full queue may have kept some back."""
        for session_id in list(self._sessions):
            self.collect_due(session_id)

    def _shed(self) -> None:
        """Drop the frames that are far too late, so that the others are in time."""
        now = self._clock()
        service_s = max(self._recent_batches_s, default=0.0)
        expired = self._scheduler.expire(now, service_s)
        for request in (*expired, *self._scheduler.shed(self.limit.value, now)):
            entry = self._sessions.get(request.session)
            if entry is not None and entry.session.skip(
                request.response_ref, request.epoch, request.frame_index, entry.clock()
            ):
                self._metrics.count_dropped(1, now)
                entry.wake()

    def _count_lapsed(self, entry: SessionEntry, now: float) -> None:
        lapsed = entry.session.frames_lapsed
        if lapsed != entry.frames_lapsed:
            self._metrics.count_dropped(lapsed - entry.frames_lapsed, now)
            entry.frames_lapsed = lapsed
            entry.wake()  # the frames after them may have waited for them

    def _cancel(self, session_id: str, epoch: int) -> None:
        cancelled = self._scheduler.cancel(session_id, epoch)
        self._metrics.count_discarded("cancelled", cancelled)

    def _set_timer(self, entry: SessionEntry, collected_at: float) -> None:
        """Collect again when the next frame is due.

        `collected_at` is the time of the session until which its frames were collected now. What
        has become due since then is collected at once.
        """
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.clock.is_stopped:
            return  # no time passes, and the session is looked at again when its client is back
        at = entry.session.next_due()
        if at is not None and at > collected_at:
            loop = asyncio.get_running_loop()
            wait_s = max(0.0, at - entry.clock())
            entry.timer = loop.call_later(wait_s, self.collect_due, entry.session.id)


def _request(session_id: str, due: FrameDue[AudioWindow], clock: SessionClock) -> FrameRequest:
    return FrameRequest(
        session=session_id,
        response_ref=due.response_ref,
        epoch=due.epoch,
        frame_index=due.frame_index,
        deadline=clock.runtime_time(due.deadline),
        avatar=due.avatar,
        source_frame=due.source_frame,
        window=due.window,
        quality=due.quality,
        width=due.width,
        height=due.height,
        raw=due.video.is_encoded_when_sent,
        crop=None if due.crop is None else due.crop.corners,
        patch=due.is_patch,
        background=due.background,
        below=due.has_alpha,
    )


def _image(frame: Frame) -> Image:
    request, patch = frame.request, frame.patch
    if patch is not None:
        return PatchImage(frame.image, patch.rect, patch.source_frame)
    if not request.raw:
        return frame.image
    return RawImage(frame.image, request.width, request.image_height)
