"""Moves the sessions of pods that leave to other pods of their service.

A pod that drains asks its sessions to move at its deadline. Their callers come back to a gateway,
which exports the session from the one pod and imports it on another one. One attempt is made at a
time for each session. A session that cannot move, or for which no pod has room, stays.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts import labels, tokens
from avatar_contracts.answer_limits import MAX_DOCUMENT_BYTES
from avatar_gateway import errors
from avatar_gateway.core import routing
from avatar_gateway.serving.pod_answers import read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_gateway.core.model import Pod
    from avatar_gateway.pod_registry import PodRegistry

_REQUEST_S: Final = 10.0
"""How long a pod may take for one request. Most documents have less than 10 MB."""
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
class Answer:
    """The answer of a pod to a request about a session."""

    status: int
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object, empty if there is none."""
        try:
            error = json.loads(self.body).get("error")
        except (ValueError, AttributeError):
            return {}
        return error if isinstance(error, dict) else {}


class SessionMover:
    """Finds the pod that has a session, after the moves that this gateway knows or makes."""

    def __init__(
        self,
        registry: PodRegistry,
        http: aiohttp.ClientSession,
        read_keys: Callable[[], Sequence[str]],
        host_of: Callable[[Pod], str],
    ) -> None:
        self._registry = registry
        self._http = http
        self._read_keys = read_keys
        self._host_of = host_of
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._running: dict[str, asyncio.Task[str | None]] = {}
        self._limit = asyncio.Semaphore(_MAX_MOVES)

    async def locate(self, session_id: str, service: str, holders: Sequence[str]) -> Sequence[str]:
        """Return the pods to try for a session, after it has moved if its pod asks for that.

        `holders` are the pods that its id names.
        """
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
                    break
                key = moved
            found.append(key)
        return found

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
        """Move a session, or wait for the attempt that is under way."""
        task = self._running.get(session_id)
        if task is None:
            task = asyncio.create_task(self._move(session_id, source, service), name="move")
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
                return await self._import(session_id, answer.body, source, destinations)
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
        self, session_id: str, document: bytes, source: Pod, destinations: Sequence[str]
    ) -> str | None:
        """Give the document to the first pod that takes it; the last one is where it came from."""
        for key in (*destinations, source.key):
            pod = self._registry.pods.get(key)
            if pod is None:
                continue
            placement = self._registry.add_placement(key)
            try:
                answer = await self._post(pod, labels.SESSIONS_PATH, document, _MAX_ANSWER_BYTES)
            except errors.PodError as error:
                self._registry.release(placement)
                _log.info("session not imported pod=%s problem=%s", key, error.problem)
                continue
            if answer.status == 200:
                placement.accepted_at = _now()
                _log.info("session moved source=%s pod=%s", source.key, key)
                return self._remember(session_id, key) if key != source.key else None
            self._registry.release(placement)
            _log.info(
                "session not imported pod=%s status=%d code=%s",
                key,
                answer.status,
                answer.error.get("code"),
            )
        _log.error("session lost source=%s problem=no pod has taken its document", source.key)
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

    async def _post(self, pod: Pod, path: str, body: bytes, most: int) -> Answer:
        """Send a request to the admin port of a pod, with the token of each key in turn.

        Raises:
            PodError: the pod does not answer in time, or its answer is too large.
        """
        address = f"http://{self._host_of(pod)}:{pod.admin_port}{path}"
        answer = Answer(401, b"")
        for key in self._read_keys():
            token = tokens.session_token(key, pod.original_service)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            try:
                async with asyncio.timeout(_REQUEST_S):
                    answer = await self._request(address, headers, body, most, pod)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise errors.PodError(pod.key, repr(error)) from error
            if answer.status != 401:
                break
        return answer

    async def _request(
        self, address: str, headers: dict[str, str], body: bytes, most: int, pod: Pod
    ) -> Answer:
        async with self._http.post(
            address, data=body, headers=headers, allow_redirects=False, middlewares=()
        ) as response:
            return Answer(response.status, await read_body(response, pod.key, most))


def _now() -> float:
    return asyncio.get_running_loop().time()
