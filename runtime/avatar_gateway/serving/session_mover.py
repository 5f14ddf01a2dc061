"""Moves the sessions of pods that leave or are lost to other pods of their service.

A pod that drains asks its sessions to move at its deadline. Their callers come back to a gateway,
which exports the session from the one pod and imports it on another one. A session whose pod is
lost goes on from its last snapshot. One attempt is made at a time for each session. A session that
cannot move, or for which no pod has room, stays. A document that no pod takes is kept until its
session would have ended, and each attempt of its caller is another attempt.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_contracts.answer_limits import MAX_DOCUMENT_BYTES
from avatar_gateway import errors
from avatar_gateway.core import routing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from avatar_gateway.core.model import Pod
    from avatar_gateway.core.snapshots import Snapshot
    from avatar_gateway.pod_registry import PodRegistry
    from avatar_gateway.serving.pod_answers import Answer, PodRequests

_LOST_S: Final = 2.0
"""How long a pod whose connection was lost may take to say whether it has a session."""
_KEPT_S: Final = 30.0
"""How long a document is kept that every pod refuses: as long as a session waits by default."""
_MAX_KEPT_BYTES: Final = 256 * 2**20
_MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_MOVES: Final = 4
"""Sessions that move at a time; each may hold a document."""
_MAX_HOPS: Final = 4
"""Moves that are followed for one caller."""
_MAX_KNOWN: Final = 4096
_KNOWN_S: Final = 120.0
"""How long a move is remembered: longer than a session waits for its caller."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A session that no pod has: its document waits for a pod that takes it."""

    document: bytes
    source: Pod
    """The pod that it comes from."""
    until: float
    """When its caller no longer comes back, seconds of the loop."""
    age_s: float | None = None
    """How old the document is if it is a snapshot."""


class SessionMover:
    """Finds the pod that has a session, after the moves that this gateway knows or makes."""

    def __init__(
        self,
        registry: PodRegistry,
        requests: PodRequests,
    ) -> None:
        self._registry = registry
        self._post = requests.post
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._running: dict[str, asyncio.Task[str | None]] = {}
        self._limit = asyncio.Semaphore(_MAX_MOVES)

    async def locate(self, session_id: str, service: str, holders: Sequence[str]) -> Sequence[str]:
        """Return the pods to try for a session, after it has moved if its pod asks for that.

        `holders` are the pods that its id names.

        Raises:
            Rejection: no pod has it, and none takes its document now.
        """
        if session_id in self._kept:
            await self._once(session_id, lambda: self._retry(session_id, service))
            self._check_taken(session_id)
        known = self._find_known(session_id)
        found = []
        for holder in [known] if known is not None else holders:
            key = holder
            for _ in range(_MAX_HOPS):
                pod = self._registry.pods.get(key)
                if pod is None or not self._leaves(pod):
                    break
                moved = await self._move_once(session_id, pod, service)
                if moved is None:
                    self._check_taken(session_id)
                    break
                key = moved
            found.append(key)
        return found

    def _check_taken(self, session_id: str) -> None:
        if session_id in self._kept:
            message = "no pod of the service takes the session now"
            raise errors.Rejection("not_ready", message)

    async def recover(self, snapshot: Snapshot) -> str | None:
        """Continue a session whose pod is lost, and return its new id.

        Return `None` if its pod has it still, or if no pod takes it now: then it is kept.
        """
        session_id = snapshot.session_id
        age_s = _now() - snapshot.at

        async def attempt() -> str | None:
            document = snapshot.document
            age: float | None = age_s
            if snapshot.pod.key in self._registry.pods:
                answer = await self._ask(snapshot)
                if answer is not None and answer.status == 200:
                    document, age = answer.body, None  # it was about to move
                elif answer is not None and answer.status != 404:
                    return None
            until = _now() + snapshot.resume_s
            self._keep(session_id, _Kept(document, snapshot.pod, until, age))
            return await self._retry(session_id, snapshot.pod.service)

        return await self._once(session_id, attempt)

    def keeps(self, session_id: str) -> bool:
        """Return whether the document of a session waits for a pod."""
        return session_id in self._kept

    async def _ask(self, snapshot: Snapshot) -> Answer | None:
        """Ask a pod for a session after its connection was lost; `None` if it does not answer."""
        path = f"{labels.SESSIONS_PATH}/{snapshot.session_id}/export"
        body = json.dumps({"only_if_asked": True}).encode()
        try:
            return await self._post(snapshot.pod, path, body, MAX_DOCUMENT_BYTES, _LOST_S)
        except errors.PodError:
            return None

    async def _retry(self, session_id: str, service: str) -> str | None:
        """Give a document that is kept to a pod, and return the id of the session there."""
        kept = self._kept.get(session_id)
        if kept is None or kept.source.service != service:
            return None
        async with self._limit:
            destinations = self._destinations(kept.source, service)
            new_id = await self._import(session_id, kept, destinations)
        return new_id

    def _keep(self, session_id: str, kept: _Kept) -> None:
        """Keep a document.

        Those whose time is over make room, and then the oldest of the service that has most.
        """
        self._forget(session_id)
        self._kept[session_id] = kept
        self._kept_bytes += len(kept.document)
        now = _now()
        for each in [name for name, other in self._kept.items() if other.until <= now]:
            self._forget(each)
        while self._kept_bytes > _MAX_KEPT_BYTES:
            _log.error("session lost problem=no pod has taken its document, and others are kept")
            sizes: Counter[str] = Counter()
            for other in self._kept.values():
                sizes[other.source.service] += len(other.document)
            ((largest, _),) = sizes.most_common(1)
            own = (name for name, each in self._kept.items() if each.source.service == largest)
            self._forget(next(own))

    def _forget(self, session_id: str) -> None:
        kept = self._kept.pop(session_id, None)
        if kept is not None:
            self._kept_bytes -= len(kept.document)

    def _find_known(self, session_id: str) -> str | None:
        key, until = self._known.get(session_id, ("", 0.0))
        is_known = until > _now() and key in self._registry.pods
        return key if is_known else None

    def _leaves(self, pod: Pod) -> bool:
        """Return whether a pod drains; only such a pod asks its sessions to move."""
        if pod.terminating:
            return True
        candidate = self._registry.pods_of(pod.service).get(pod.key)
        return candidate is not None and candidate.state is not None and candidate.state.draining

    async def _move_once(self, session_id: str, source: Pod, service: str) -> str | None:
        """Move a session away from a pod, and return the pod that has it; `None` if it stays."""
        return await self._once(session_id, lambda: self._move(session_id, source, service))

    async def _once(
        self, session_id: str, attempt: Callable[[], Coroutine[None, None, str | None]]
    ) -> str | None:
        """Make an attempt for a session, or wait for the one that is under way."""
        task = self._running.get(session_id)
        if task is None:
            task = asyncio.create_task(attempt(), name="move")
            self._running[session_id] = task
            task.add_done_callback(lambda _: self._running.pop(session_id))
        # A caller that leaves does not stop the move: the session has left its pod already.
        return await asyncio.shield(task)

    async def _move(self, session_id: str, source: Pod, service: str) -> str | None:
        """Return the pod that has the session now, or `None` if it stays."""
        async with self._limit:
            destinations = self._destinations(source, service)
            name = destinations[0].rpartition("/")[2] if destinations else ""
            if not name:
                _log.info("session stays pod=%s problem=no pod has room", source.key)
                return None
            body = json.dumps({"destination": name, "only_if_asked": True}).encode()
            path = f"{labels.SESSIONS_PATH}/{session_id}/export"
            try:
                answer = await self._post(source, path, body, MAX_DOCUMENT_BYTES)
            except errors.PodError as error:
                _log.warning("session not exported pod=%s problem=%s", source.key, error.problem)
                return None
            if answer.status == 200:
                until = _now() + _KEPT_S
                self._keep(session_id, _Kept(answer.body, source, until))
                kept = self._kept[session_id]
                await self._import(session_id, kept, [*destinations, source.key])
                return self._find_known(session_id)
            if answer.status == 410:
                key = f"{source.namespace}/{answer.error.get('value')}"
                # A pod leads no caller to another service.
                if self._registry.pods_of(service).get(key) is not None:
                    return self._remember(session_id, key)
            _log.info(
                "session stays pod=%s status=%d code=%s",
                source.key,
                answer.status,
                answer.error.get("code"),
            )
            return None

    async def _import(
        self, session_id: str, kept: _Kept, destinations: Sequence[str]
    ) -> str | None:
        """Give a document to the first pod that takes it, and return the id of the session there.

        If none takes it, the document is kept for the next attempt.
        """
        path = labels.SESSIONS_PATH
        if kept.age_s is not None:
            path = f"{path}?recovered_ms={min(999_999, round(kept.age_s * 1000))}"
        for key in destinations:
            pod = self._registry.pods.get(key)
            if pod is None:
                continue
            placement = self._registry.add_placement(key)
            try:
                answer = await self._post(pod, path, kept.document, _MAX_ANSWER_BYTES)
            except errors.PodError as error:
                self._registry.release(placement)
                _log.info("session not imported pod=%s problem=%s", key, error.problem)
                continue
            if answer.status == 200:
                placement.accepted_at = _now()
                self._forget(session_id)
                _log.info("session moved source=%s pod=%s", kept.source.key, key)
                if key != kept.source.key:
                    self._remember(session_id, key)
                session = answer.document.get("session")
                found = session.get("id") if isinstance(session, dict) else None
                return found if isinstance(found, str) else None
            self._registry.release(placement)
            _log.info(
                "session not imported pod=%s status=%d code=%s",
                key,
                answer.status,
                answer.error.get("code"),
            )
        _log.warning("session kept source=%s problem=no pod takes its document", kept.source.key)
        return None

    def _destinations(self, source: Pod, service: str) -> Sequence[str]:
        """Return the pods that may take the sessions of a pod, the best first."""
        others = [
            each
            for each in self._registry.candidates(service)
            if each.key != source.key
            and self._registry.pods[each.key].original_service == source.original_service
        ]
        ranked = routing.order(others, _now())
        return () if isinstance(ranked, routing.Shortage) else ranked

    def _remember(self, session_id: str, key: str) -> str:
        self._known[session_id] = key, _now() + _KNOWN_S
        self._known.move_to_end(session_id)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return key


def _now() -> float:
    return asyncio.get_running_loop().time()
