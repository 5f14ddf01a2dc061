"""The sessions of a pod by their ids."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from avatar_runtime.protocol.resume import Resume, ResumeTokens
from avatar_runtime.protocol.resume_limits import FailedResumes
from avatar_runtime.serving import admission, live_session
from avatar_runtime.serving.live_session import LiveSession
from avatar_runtime.serving.pending_resumes import PendingResumes
from avatar_runtime.serving.session_clock import SessionClock

if TYPE_CHECKING:
    from avatar_runtime.serving.runtime import Runtime

_log = logging.getLogger(__name__)


class LiveSessions:
    """Starts sessions, and finds them again for clients that come back."""

    def __init__(self, runtime: Runtime) -> None:
        self.pending = PendingResumes(runtime.metrics)
        self.failed = FailedResumes()
        self._runtime = runtime
        self._sessions: dict[str, LiveSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, session_id: str) -> LiveSession:
        """Return a session.

        Raises:
            ProtocolError: there is none with this id.
        """
        live = self._sessions.get(session_id)
        if live is None:
            raise live_session.refused()
        return live

    def start(self, request: admission.SessionRequest, avatar: str | None) -> LiveSession:
        """Start the session of a request, and return its slot when it has ended.

        The caller has acquired the slot.
        """
        runtime, tokens = self._runtime, ResumeTokens()
        settings = runtime.settings
        ttl_ms = settings.sessions.resume_ttl_s * 1000
        session = runtime.open_session(
            avatar,
            admission.reported_service(request, settings.identity.service),
            request.video,
            names_avatar=request.names_avatar,
            resume=Resume(tokens.issue(), ttl_ms) if ttl_ms else None,
        )
        clock = SessionClock(runtime.clock)
        live = LiveSession(session, runtime, clock, tokens, request.dialect)
        self._sessions[session.id] = live
        _log.info("session opened session=%s sessions=%d", session.id, runtime.slots.sessions)
        # The session outlives its connections: it has a task of its own.
        task = asyncio.create_task(self._serve(live), name=f"session {session.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return live

    async def _serve(self, live: LiveSession) -> None:
        session_id = live.session.id
        try:
            _log.info("session ended session=%s how=%s", session_id, await live.run())
        except Exception:
            # A defect of the runtime ends this session only.
            _log.exception("session failed session=%s", session_id)
        finally:
            del self._sessions[session_id]
            self._runtime.slots.release()
