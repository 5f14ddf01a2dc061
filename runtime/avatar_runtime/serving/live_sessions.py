"""The sessions of a pod by their ids."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError, Rejection
from avatar_runtime.protocol import session_document
from avatar_runtime.protocol.resume import Resume, ResumeTokens
from avatar_runtime.protocol.resume_limits import FailedResumes
from avatar_runtime.serving import admission, live_session, session_moves
from avatar_runtime.serving.live_session import LiveSession
from avatar_runtime.serving.pending_resumes import PendingResumes
from avatar_runtime.serving.session_clock import SessionClock
from avatar_runtime.serving.session_moves import MovedSession, MovedSessions

if TYPE_CHECKING:
    from avatar_runtime.protocol.resume import ResumeRequest
    from avatar_runtime.serving.runtime import Runtime

_MAX_DOCUMENTS: Final = 2
"""Documents that are written or read at a time: each may have `session_document.MAX_BYTES`."""

_log = logging.getLogger(__name__)


class LiveSessions:
    """Starts sessions, and finds them again for clients that come back."""

    def __init__(self, runtime: Runtime) -> None:
        self.pending = PendingResumes(runtime.metrics)
        self.failed = FailedResumes()
        self._runtime = runtime
        self._sessions: dict[str, LiveSession] = {}
        self._moved = MovedSessions()
        self._documents = asyncio.Semaphore(_MAX_DOCUMENTS)
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, session_id: str, request: ResumeRequest) -> LiveSession:
        """Return the session that a client resumes.

        Raises:
            ProtocolError: there is none with this id, or it has left this pod.
        """
        live = self._sessions.get(session_id)
        if live is not None:
            return live
        moved = self._moved.find(session_id, self._runtime.clock())
        if moved is not None and moved.tokens.accepts(request.token):
            raise live_session.moving()
        raise live_session.refused()

    def id_of(self, session_id: str) -> str | None:
        """Return the present id of a session that this pod has, by any of its ids."""
        live = self._sessions.get(session_id)
        return None if live is None else live.session.id

    def start(
        self,
        request: admission.SessionRequest,
        avatar: str | None,
        session_id: str,
        account: str = "",
    ) -> LiveSession:
        """Start the session of a request, and return its slot when it has ended.

        The caller has acquired the slot. `account` is that of the one-time token, if the client has
        come without a gateway.
        """
        runtime, tokens = self._runtime, ResumeTokens()
        settings = runtime.settings
        ttl_ms = settings.sessions.resume_ttl_s * 1000
        duration_s = admission.max_duration_s(
            request.headers,
            settings.sessions.max_duration_s,
            is_from_gateway=runtime.tokens.session_is_required,
        )
        session = runtime.open_session(
            avatar,
            admission.reported_service(request, settings.identity.service),
            request.video,
            session_id=session_id,
            names_avatar=request.names_avatar,
            resume=Resume(tokens.issue(), ttl_ms) if ttl_ms else None,
            max_duration_s=duration_s,
        )
        clock = SessionClock(runtime.clock)
        live = LiveSession(session, runtime, clock, tokens, request.dialect)
        live.remaining_s = duration_s
        live.account = account
        _log.info("session opened session=%s sessions=%d", session.id, runtime.slots.sessions)
        self._run(live)
        return live

    def end(self, session_id: str, close_code: int, reason: str) -> None:
        """End a session for a gateway that does not carry it.

        Raises:
            Rejection: this pod does not have the session.
        """
        live = self._sessions.get(session_id)
        if live is None:
            raise session_moves.not_found(session_id)
        live.end(close_code, reason)
        _log.info("session ended by a gateway session=%s reason=%s", live.session.id, reason)

    # Moving

    async def export(
        self, session_id: str, *, destination: str = "", only_if_asked: bool = False
    ) -> bytes:
        """Stop a session on this pod, and return its document.

        `destination` is the pod that will have it. `only_if_asked` leaves a session that was not
        asked to move where it is.

        Raises:
            Rejection: this pod does not have the session, or it stays.
        """
        async with self._documents:
            live = self._find_movable(session_id, only_if_asked=only_if_asked)
            # Before it leaves: a client that comes in between is not refused.
            ttl_s = self._runtime.settings.sessions.resume_ttl_s
            moved = MovedSession(live.tokens, destination, self._runtime.clock() + ttl_s)
            self._moved.add(live.ids, moved)
            try:
                body = await live.export(session_moves.export)
            except ProtocolError as error:
                self._moved.forget(live.ids)
                self._runtime.metrics.count_move("refused")
                raise session_moves.not_movable(error) from None
        self._runtime.metrics.count_move("exported")
        _log.info("session exported session=%s bytes=%d", session_id, len(body))
        return body

    def _find_movable(self, session_id: str, *, only_if_asked: bool) -> LiveSession:
        """Return a session that nobody else moves.

        Raises:
            Rejection: there is none, or it stays.
        """
        live = self._sessions.get(session_id)
        if live is None:
            moved = self._moved.find(session_id, self._runtime.clock())
            if moved is not None:
                raise session_moves.has_moved(moved.destination)
            raise session_moves.not_found(session_id)
        if live.is_moving:
            raise session_moves.not_movable(live_session.moving())
        if only_if_asked and not live.is_asked_to_move:
            raise session_moves.not_asked()
        return live

    def carried_by(self, gateway: str) -> list[LiveSession]:
        """Return the sessions that a gateway carries now."""
        prefix = f"{gateway}/"
        return [
            live
            for session_id, live in self._sessions.items()
            if live.carrier.startswith(prefix) and session_id == live.session.id
        ]

    async def take(self, body: bytes, recovered_s: float | None = None) -> LiveSession:
        """Continue the session of a document, which waits for its client.

        `recovered_s` is the age of the document if it is the last snapshot of a session whose pod
        is lost, seconds.

        Raises:
            ProtocolError: the document is wrong, or this pod cannot continue the session.
            Rejection: the pod has no slot, or has the session already.
        """
        async with self._documents:
            fields = await asyncio.to_thread(session_document.decode, body)
            heading = session_document.heading(fields)
            for session_id in heading.known_ids:
                if session_id in self._sessions:
                    message = f"this pod has the session {session_id} already"
                    raise Rejection(409, 1012, "session_exists", message, param="id")
            is_own = self._moved.find(heading.id, self._runtime.clock()) is not None
            self._runtime.slots.acquire(is_own=is_own)
            try:
                live = session_moves.restore(fields, heading, self._runtime)
            except BaseException:
                self._runtime.slots.release()
                raise
        # A session that comes back was refused elsewhere: the drain does not ask it again.
        live.is_asked_to_move = is_own
        live.recovered_s = recovered_s
        self._moved.forget(live.ids)
        self._runtime.metrics.count_move("imported")
        _log.info("session imported session=%s was=%s", live.session.id, heading.id)
        self._run(live)
        return live

    def _run(self, live: LiveSession) -> None:
        for session_id in live.ids:
            self._sessions[session_id] = live
        # The session outlives its connections: it has a task of its own.
        task = asyncio.create_task(self._serve(live), name=f"session {live.session.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, live: LiveSession) -> None:
        session_id = live.session.id
        try:
            _log.info("session ended session=%s how=%s", session_id, await live.run())
        except Exception:
            # A defect of the runtime ends this session only.
            _log.exception("session failed session=%s", session_id)
        finally:
            for each in live.ids:
                self._sessions.pop(each, None)
            self._runtime.slots.release()
