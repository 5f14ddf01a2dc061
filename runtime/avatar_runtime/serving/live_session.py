"""A session and its connections: a client that has lost one continues on the next."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from starlette.websockets import WebSocketDisconnect

from avatar_contracts import refusals
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import resume_limits, server_events, session_document
from avatar_runtime.protocol.dialects import translation
from avatar_runtime.protocol.replay import Gap, ReplayMemory
from avatar_runtime.protocol.resume import Resume
from avatar_runtime.protocol.speech import not_movable
from avatar_runtime.serving import rejections
from avatar_runtime.serving.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.websockets import WebSocket

    from avatar_contracts.usage import SessionUsageDocument
    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.protocol.dialects.translation import Dialect
    from avatar_runtime.protocol.resume import ResumeRequest, ResumeTokens
    from avatar_runtime.protocol.session import Session
    from avatar_runtime.serving.runtime import Runtime
    from avatar_runtime.serving.session_clock import SessionClock

REPLACED: Final = 4409
"""Close code of a connection whose session continues on another one."""
MOVED: Final = 1012
"""Close code of a connection whose session continues on another pod."""
_MAX_UNKNOWN: Final = 100_000
"""Messages after the snapshot of a session that its client may have: minutes of them."""
ASKED_S: Final = 1.0
"""Time from `session.migrate` to the end of the connection."""
_REPLACED: Final = "the session continues on another connection"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Attachment:
    """A WebSocket that carries the session next."""

    websocket: WebSocket
    request: ResumeRequest | None
    """What the client has, `None` on the first connection of the session."""
    carrier: str
    """What the gateway calls the connection."""
    is_over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Move:
    """A request for the document of a session, which leaves this pod then."""

    describe: Callable[[LiveSession], dict[str, object]]
    document: asyncio.Future[bytes]

    def succeed(self, body: bytes) -> None:
        if not self.document.done():
            self.document.set_result(body)

    def fail(self, error: ProtocolError) -> None:
        if not self.document.done():
            self.document.set_exception(error)


class LiveSession:
    """One session with all that outlives a connection: its clock, its encoder, its last messages.

    `run` serves it until it ends; the handler of each connection waits in `carry`.
    """

    def __init__(
        self,
        session: Session[AudioWindow],
        runtime: Runtime,
        clock: SessionClock,
        tokens: ResumeTokens,
        dialect: Dialect | None = None,
    ) -> None:
        """`dialect` is the form of the protocol that the client speaks, `None` for the GA form."""
        settings = runtime.settings.sessions
        self.session = session
        self.runtime = runtime
        self.clock = clock
        self.dialect = dialect
        self.replay = ReplayMemory(settings.fps)
        self.encoder = runtime.video_encoders.open()
        self.tokens = tokens
        self.account = ""
        """What gateways know a session by that was opened without one; empty for others."""
        self.former_ids: tuple[str, ...] = ()
        """Ids of the session on other pods, by which its client may ask for it."""
        self.frames_sent = 0
        """Frames of responses that were sent to the client."""
        self.recovered_s: float | None = None
        """Age of the snapshot from which the session goes on, seconds, until its client is back;
        `None` if it has its state."""
        self.carrier = ""
        """What the gateway calls the connection that carries the session; empty without one."""
        self.is_asked_to_move = False
        """Whether the client was asked to continue it on another pod."""
        self._resumes = resume_limits.new_bucket()
        self._ttl_s = settings.resume_ttl_s
        self._ends_at = runtime.clock() + settings.max_duration_s
        self._shell = runtime.open_shell(session, self.apply, clock)
        self._connection: Connection | None = None
        self._next: _Attachment | None = None
        self._move: _Move | None = None
        self._is_over = False  # nobody can continue it any more
        self._changed = asyncio.Event()

    @property
    def is_held(self) -> bool:
        """Whether the session waits for its client."""
        return self.clock.is_stopped

    @property
    def is_moving(self) -> bool:
        """Whether the session leaves this pod."""
        return self._move is not None

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids of the session."""
        return (self.session.id, *self.former_ids)

    @property
    def usage(self) -> SessionUsageDocument:
        """What the session has used on this pod."""
        return {
            "id": self.session.id,
            "frames": self.frames_sent,
            "speech_ms": round(self.session.spoken_s * 1000),
            "ended": False,
        }

    @property
    def remaining_s(self) -> float:
        """Time until the maximum duration of the session, seconds."""
        return self._ends_at - self.runtime.clock()

    @remaining_s.setter
    def remaining_s(self, seconds: float) -> None:
        self._ends_at = self.runtime.clock() + seconds

    # Connections

    async def carry(
        self, websocket: WebSocket, request: ResumeRequest | None = None, carrier: str = ""
    ) -> None:
        """Serve the session on a connection, and return when that one is over.

        `request` is the first message of a connection that continues the session; `admit` has
        accepted it. `carrier` is what the gateway calls the connection.
        """
        earlier, attachment = self._next, _Attachment(websocket, request, carrier)
        self._next = attachment
        self._changed.set()
        if earlier is not None:  # the client has lost that connection, too
            earlier.is_over.set()
            with suppress(WebSocketDisconnect, RuntimeError):
                await earlier.websocket.close(REPLACED, _REPLACED)
        if self._connection is not None:
            await self._connection.replace(REPLACED, _REPLACED)
        await attachment.is_over.wait()

    def admit(self, request: ResumeRequest) -> None:
        """Check that a client may continue the session now. `carry` follows at once.

        Raises:
            ProtocolError: the token is wrong, the request does not fit the session, or the session
                is resumed too often; its `close` says how to close.
        """
        if not self.tokens.accepts(request.token):
            raise refused()
        if self.is_moving:
            raise moving()
        last_seq = self.replay.last_seq
        if self.recovered_s is not None:
            last_seq += _MAX_UNKNOWN
        if request.last_seq > last_seq:
            message = f"last_seq is {request.last_seq}; the last message has {last_seq}"
            raise ProtocolError(
                "invalid_value",
                message,
                param="last_seq",
                value=request.last_seq,
                limit=last_seq,
                close=refusals.RESUME_REFUSED_CLOSE,
            )
        now = self.runtime.clock()
        if not self._resumes.admits(now):
            self.runtime.metrics.count_resume("limited")
            raise _too_often(self._resumes.wait_s(now))

    # Moving

    async def ask_to_move(self, reason: str) -> None:
        """Ask the client to continue the session on another pod, if it can move now.

        Its connection ends `ASKED_S` later. The session is held then, and can be exported.
        """
        try:
            self._check_resumable()
            self.session.check_movable()
        except ProtocolError as error:
            _log.debug("session not asked to move session=%s reason=%s", self.session.id, error)
            return
        self.is_asked_to_move = True
        connection = self._connection
        if connection is None:
            return
        self._tell_migrate(connection, reason, ASKED_S)
        await asyncio.sleep(ASKED_S)
        await connection.replace(MOVED, "the session continues on another pod")

    async def export(self, describe: Callable[[LiveSession], dict[str, object]]) -> bytes:
        """Stop the session on this pod, and return its document, which `describe` makes.

        A session that cannot move goes on.

        Raises:
            ProtocolError: it cannot move, or moves already.
        """
        self._check_resumable()
        if self.is_moving or self.session.closing is not None:
            raise not_movable("it moves already, or has ended")
        self.session.check_movable()  # what cannot move keeps its connection
        move = self._move = _Move(describe, asyncio.get_running_loop().create_future())
        if self._connection is not None:
            self._tell_migrate(self._connection, "moved", 0.0)
            await self._connection.replace(MOVED, "the session continues on another pod")
        self._changed.set()
        return await move.document

    def _check_resumable(self) -> None:
        if self._ttl_s == 0:
            raise not_movable("sessions of this service cannot be resumed")

    def _tell_migrate(self, connection: Connection, reason: str, deadline_s: float) -> None:
        """Announce the end of a connection to a client that knows the event."""
        event = {
            "type": "session.migrate",
            "event_id": f"event_{self.session.suffix}_migrate",
            "reason": reason,
            "deadline_ms": round(deadline_s * 1000),
        }
        text = json.dumps(event, separators=(",", ":"))
        if self.dialect is None and not self.session.official_only:
            connection.tell(text)

    async def _finish_move(self, move: _Move) -> bool:
        """Make the document of a session without connection, and return whether it leaves."""
        try:
            if self.session.closing is not None:
                raise not_movable("it has ended")
            body = await asyncio.to_thread(session_document.encode, move.describe(self))
        except ProtocolError as error:
            self._move = None
            move.fail(error)
            return False
        move.succeed(body)
        return True

    # The session

    def end(self, code: int, reason: str) -> None:
        """Close the connection after the messages that wait; a held session just ends."""
        self.session.end(code, reason, self.clock())
        self.wake()

    def apply(self) -> None:
        """Apply what has changed in the session, and send what it has to say."""
        self.update()
        self.wake()

    def wake(self) -> None:
        """Look at the session: its connection sends what it has to say."""
        if self._connection is not None:
            self._connection.wake()
        else:
            self._changed.set()

    def update(self) -> None:
        """Apply what has changed: due frames, who is speaking, the endpoints."""
        session = self.session
        self.runtime.batcher.collect_due(session.id)
        self.runtime.set_speaking(session.id, session.is_speaking)
        if self._shell is not None:
            self._shell.notify()

    def tick(self) -> None:
        """Apply the time limits. Those of the whole session also count the time without client."""
        self.session.tick(self.clock())
        if self.runtime.clock() >= self._ends_at:
            self.session.end(4410, "the session reached its maximum duration", self.clock())

    def wait_s(self) -> float:
        """Return when `tick` must be called next, seconds from now."""
        session_s = self.session.wakeup() - self.clock()
        return max(0.0, min(session_s, self._ends_at - self.runtime.clock()))

    async def run(self) -> str:
        """Serve the session until it ends, and return how it ended."""
        batcher, session = self.runtime.batcher, self.session
        batcher.add(session, self.wake, self.clock)
        self.runtime.connections.add(self)
        self.runtime.usage.add(session.id, self)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = []
                if self._shell is not None:
                    tasks.append(group.create_task(self._shell.run(), name=f"shell {session.id}"))
                how = await self._serve()
                for task in tasks:
                    task.cancel()
        finally:
            self.runtime.connections.discard(self)
            self.runtime.usage.remove(session.id)
            batcher.remove(session.id)
            self.runtime.set_speaking(session.id, False)
            if self._move is not None:
                self._move.fail(not_movable("it has ended"))
            if self._next is not None:
                self._next.is_over.set()
        return how

    async def _serve(self) -> str:
        how = "no connection"
        while True:
            attachment = await self._wait_for_connection()
            if self._move is not None and await self._finish_move(self._move):
                if attachment is not None:
                    await close_refused(attachment.websocket, moving())
                    attachment.is_over.set()
                return "moved to another pod"
            if attachment is None:
                if self._is_over or self.session.closing is not None:
                    break
                continue
            self.carrier = attachment.carrier
            try:
                first = await self._first_messages(attachment)
                if first is None:
                    return "messages are missing"
                connection = self._connection = Connection(attachment.websocket, self)
                ended = await connection.run(first)
            except Exception:
                # Starlette raises RuntimeError for a connection that is closed already.
                with suppress(WebSocketDisconnect, RuntimeError):
                    await attachment.websocket.close(1011, "internal_error")
                raise
            finally:
                self._connection, self.carrier = None, ""
                attachment.is_over.set()
            how = ended.how
            if not ended.is_resumable or self._ttl_s == 0:
                break
        if self._next is not None:
            await close_refused(self._next.websocket, refused())
        return how

    async def _wait_for_connection(self) -> _Attachment | None:
        """Hold the session until its client is back; `None` if it does not come back."""
        now = self.runtime.clock()
        until = min(now + self._ttl_s, self._ends_at)
        if self._next is None and self.session.closing is None and self._move is None:
            _log.info("session held session=%s seconds=%g", self.session.id, until - now)
            self.clock.stop()
            while self._next is None and self.session.closing is None and self._move is None:
                self._changed.clear()
                try:
                    async with asyncio.timeout(until - self.runtime.clock()):
                        await self._changed.wait()
                except TimeoutError:
                    self.runtime.metrics.count_resume("expired")
                    self._is_over = True
                    break
            self.clock.start()
        attachment, self._next = self._next, None
        return attachment

    async def _first_messages(self, attachment: _Attachment) -> Sequence[str | bytes] | None:
        """Return what a connection sends first; `None` if messages are lost, which ends it."""
        request = attachment.request
        if request is None:
            return ()
        try:
            lost_ms = self._recover(request)
        except ProtocolError as error:
            await self._end_at_gap(attachment, error)
            return None
        messages = self.replay.after(request.last_seq)
        if isinstance(messages, Gap):
            gap = ProtocolError(
                "resume_gap",
                f"last_seq is {request.last_seq}; the messages before {messages.first_kept} are"
                " not kept any more",
                param="last_seq",
                value=request.last_seq,
                limit=messages.first_kept,
            )
            await self._end_at_gap(attachment, gap)
            return None
        self.replay.forget(request.last_seq)
        resume = Resume(self.tokens.issue(request.token), self._ttl_s * 1000)
        text = self.session.resumed(resume, request.last_seq + 1, lost_ms)
        if self.dialect is not None:
            text = translation.from_ga(self.dialect, text) or text
        self.runtime.metrics.count_resume("resumed")
        _log.info(
            "session resumed session=%s last_seq=%d messages=%d",
            self.session.id,
            request.last_seq,
            len(messages),
        )
        return (text, *messages)

    def _recover(self, request: ResumeRequest) -> float | None:
        """Go on from a snapshot, and return what is lost of the speech, ms; `None` if it is none.

        Raises:
            ProtocolError: the client has messages that this session cannot make again.
        """
        age_s, self.recovered_s = self.recovered_s, None
        if age_s is None:
            return None
        self.clock.advance(age_s)
        lost_ms = 0.0
        if request.last_seq > self.replay.last_seq:
            lost_ms = self.session.recover(request.last_seq, request.position, self.clock())
            self.replay.skip_to(request.last_seq)
        self.runtime.metrics.count_resume("recovered")
        _log.info(
            "session recovered session=%s age_s=%.3f lost_ms=%.0f", self.session.id, age_s, lost_ms
        )
        return lost_ms

    async def _end_at_gap(self, attachment: _Attachment, error: ProtocolError) -> None:
        """End the session, whose client lacks messages."""
        self.runtime.metrics.count_resume("gap")
        self.session.end(refusals.RESUME_REFUSED_CLOSE, error.code, self.clock())
        await close_refused(attachment.websocket, error)


def moving() -> ProtocolError:
    """Return the answer to a client with the right token whose session has left this pod."""
    return ProtocolError("session_moved", "the session continues on another pod", close=MOVED)


def refused() -> ProtocolError:
    """Return the one answer to all sessions and tokens that are unknown, wrong or expired."""
    return ProtocolError(
        refusals.RESUME_REFUSED,
        refusals.RESUME_REFUSED_MESSAGE,
        close=refusals.RESUME_REFUSED_CLOSE,
    )


def _too_often(wait_s: float) -> ProtocolError:
    """Return the answer to the right token; the session continues to wait for its client."""
    limit = resume_limits.PER_MINUTE
    return ProtocolError(
        "rate_limit_exceeded",
        f"this session may be resumed {resume_limits.BURST} times at once, then once every"
        f" {resume_limits.INTERVAL_S:g} s, at most {limit} times a minute;"
        f" try again in {math.ceil(wait_s)} s",
        param="resume",
        limit=limit,
        close=refusals.TRY_LATER_CLOSE,
    )


async def close_refused(websocket: WebSocket, error: ProtocolError) -> None:
    """Send an error and close the connection, which carries no session."""
    described = server_events.error(error, None)
    with suppress(WebSocketDisconnect):
        code = error.close or refusals.RESUME_REFUSED_CLOSE
        await rejections.close(websocket, described, code, error.code)
