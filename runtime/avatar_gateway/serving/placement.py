"""Places a session on a pod: tries the ranked pods in order; a pod may reject the session."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from avatar_contracts import labels, refusals, session_ids, tokens
from avatar_contracts.answer_limits import MAX_PICTURE_BYTES
from avatar_gateway import errors
from avatar_gateway.core import routing
from avatar_gateway.core.frames import NORMAL
from avatar_gateway.core.recent_avatars import RecentAvatars
from avatar_gateway.core.snapshots import SnapshotStore
from avatar_gateway.serving import upgrade
from avatar_gateway.serving.pod_answers import PodRequests, read_body
from avatar_gateway.serving.session_mover import SessionMover
from avatar_gateway.serving.silent_pods import SilentPods
from avatar_gateway.streams.snapshots import SnapshotStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_gateway.core.memory_budget import MemoryBudget
    from avatar_gateway.core.model import Pod
    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.pod_registry import Placement, PodRegistry
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.shared.leases import HeldLease
    from avatar_gateway.shared.metering import Meter

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 5.0
"""How long one pod may take to accept a session. A warm pod needs milliseconds."""


_SECONDS: Final = re.compile(r"[0-9]{1,4}")
_MEDIA_TYPES: Final = frozenset({"application/json", "image/jpeg"})
"""Of the same."""


@dataclass(frozen=True, slots=True)
class PlacedSession:
    """A session that a pod accepted."""

    pod: str
    peer: Peer
    placement: Placement
    gpu_class: str = ""
    """The GPU class of the pod, from its label."""
    connection: str = ""
    """What this gateway calls its connection to the pod."""
    source: Pod | None = None
    """The pod if it gives snapshots of the session."""
    lease: HeldLease | None = None
    """What counts for the limits of its tenant; None for a session without a tenant."""
    usage_record: str = ""
    """The id of the record of its usage."""

    @property
    def named_session(self) -> str | None:
        """Return the id of the session, if the pod says it and the id is one of this pod."""
        found = self.peer.session_id
        name = self.pod.rpartition("/")[2]
        return found if found is not None and session_ids.belongs_to(found, name) else None


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer of a pod to a plain request."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str]
    """What the caller gets of its headers."""


class Placer:
    """Opens sessions on pods."""

    def __init__(
        self,
        registry: PodRegistry,
        read_keys: Callable[[], Sequence[str]],
        budget: MemoryBudget,
        meter: Meter | None = None,
    ) -> None:
        """`read_keys` returns the gateway keys, the current one first."""
        self._meter = meter
        self._registry = registry
        self.read_keys = read_keys
        self._budget = budget
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2),
        )

        self._mover = SessionMover(registry, PodRequests(self._http, read_keys))
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self.snapshots = SnapshotStore()
        self._streams = SnapshotStreams(self.snapshots, self._http, read_keys, self._name)
        self._recent = RecentAvatars()
        self.silent_pods = SilentPods(registry)

    @property
    def services(self) -> frozenset[str]:
        """Return the names of all services, `NAMESPACE/NAME`."""
        return self._registry.services

    async def close(self) -> None:
        """Close all connections to pods."""
        await self._streams.close()
        await self._http.close()

    def check_room(self, request: SessionRequest) -> Sequence[str]:
        """Return the pods that may accept a session now, the best first; asks no pod.

        Raises:
            Rejection: the service does not exist, or no pod that the tenant may use has room.
        """
        if request.model not in self._registry.services:
            raise errors.Rejection("model_not_found", _missing(request.model), param="model")
        ranked = self._registry.pods_of(request.model).order(
            asyncio.get_running_loop().time(),
            request.principal.gpu_classes,
            self._recent.pods(request.model, request.avatar),
        )
        if isinstance(ranked, routing.Shortage):
            raise errors.Rejection(ranked.value, _SHORTAGE_MESSAGES[ranked])
        return ranked

    def reserve(self, request: SessionRequest, seconds: float) -> Pod:
        """Reserve a slot for a caller that connects to the pod itself, and return the pod.

        The slot is held for the time, or until the pod is gone.

        Raises:
            Rejection: no pod that the tenant may use has room.
        """
        key = self.check_room(request)[0]
        placement = self._registry.add_placement(key)
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, self._registry.release, placement)
        self._recent.add(request.model, request.avatar, key)
        return self._registry.pods[key]

    def has_room(self, request: SessionRequest) -> bool:
        """Return whether some pod may accept a session now."""
        try:
            return bool(self.check_room(request))
        except errors.Rejection:
            return False

    async def place(
        self, request: SessionRequest, subprotocols: Sequence[str], headers: Mapping[str, str]
    ) -> PlacedSession:
        """Return a session on the first ranked pod that accepts it.

        Raises:
            Rejection: the service does not exist, or no pod accepts the session.
            PodRejection: a pod rejected the request itself; every pod would reject it.
        """
        for key in self.check_room(request):
            try:
                placed = await self._open_session(key, request, subprotocols, headers)
            except errors.PodError as error:
                _log.info("pod did not accept the session pod=%s problem=%s", key, error.problem)
            else:
                self._recent.add(request.model, request.avatar, key)
                return placed
        shortage = routing.Shortage.NO_CAPACITY
        raise errors.Rejection(shortage.value, _SHORTAGE_MESSAGES[shortage])

    async def fetch(self, model: str, path: str, caller: str | None) -> Fetched:
        """Return what a ready pod of a service answers to `GET`; a full pod answers, too.

        `caller` is the address that the request counts for; `None` if it is not known.

        Raises:
            Rejection: the service does not exist, or no ready pod answers.
        """
        if model not in self._registry.services:
            raise errors.Rejection("model_not_found", _missing(model), param="model")
        now = asyncio.get_running_loop().time()
        ready = [pod.key for pod in self._registry.candidates(model) if pod.is_ready(now)]
        for key in sorted(ready)[: routing.MAX_TRIES]:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    return await self._fetch(self._registry.pods[key], path, caller)
            except (aiohttp.ClientError, OSError, TimeoutError, errors.PodError) as error:
                _log.info("pod did not answer pod=%s path=%s problem=%r", key, path, error)
        shortage = routing.Shortage.NOT_READY
        raise errors.Rejection(shortage.value, _SHORTAGE_MESSAGES[shortage])

    async def _fetch(self, pod: Pod, path: str, caller: str | None) -> Fetched:
        headers = _proofs(pod, caller, self.read_keys())
        address = f"http://{pod.host}:{pod.sessions_port}{path}"
        async with self._http.get(address, headers=headers, allow_redirects=False) as response:
            if response.content_type not in _MEDIA_TYPES:
                # A tenant may run an image of its own: no page of a pod has the gateway's origin.
                raise errors.PodError(pod.key, f"its answer is {response.content_type[:64]}")
            body = await read_body(response, pod.key, MAX_PICTURE_BYTES)
            wait = response.headers.get("Retry-After", "")
            headers = {"Retry-After": wait} if _SECONDS.fullmatch(wait) else {}
            return Fetched(response.status, response.content_type, body, headers)

    async def resume(
        self, request: SessionRequest, subprotocols: Sequence[str], headers: Mapping[str, str]
    ) -> PlacedSession:
        """Return a connection to the pod that has the session; the pod checks the token.

        A session whose pod leaves, and has asked it to move, moves first.

        Raises:
            Rejection: no pod of the service has it, or the pod does not answer now.
        """
        assert request.resume is not None
        pods = self._registry.pods
        candidates = self._registry.candidates(request.model)
        own = [each.key for each in candidates if pods[each.key].ip]
        holders, is_silent = routing.holders(request.resume, own), False
        for key in await self._mover.locate(request.resume, request.model, holders):
            try:
                return await self._open_session(key, request, subprotocols, headers)
            except errors.PodError as error:
                _log.info("pod did not resume the session pod=%s problem=%s", key, error.problem)
                is_silent |= key in self._registry.pods
        removed = routing.holders(request.resume, self._registry.removed_pods(request.model))
        if is_silent or removed:  # it may answer later; whether it has the session is not known
            raise errors.Rejection("not_ready", "the pod that the session names does not answer")
        # The words are those of a pod: a stranger does not learn which sessions exist.
        raise errors.Rejection(refusals.RESUME_REFUSED, refusals.RESUME_REFUSED_MESSAGE)

    async def end_session(self, placed: PlacedSession, code: int = NORMAL) -> None:
        """Close the connection to the pod if it is open, and release the placement.

        With `NORMAL`, the pod ends the session; with `GOING_AWAY`, it waits for the caller. The
        lease is released unless it was suspended before.
        """
        try:
            await placed.peer.close(code)
        finally:
            ended_at = asyncio.get_running_loop().time()
            self._registry.release(placed.placement, ended_at)
            if placed.source is not None:
                self.silent_pods.forget(placed.peer)
                self._streams.leave(placed.source, placed.connection)
            if placed.lease is not None:
                placed.lease.release()

    async def recover(self, placed: PlacedSession) -> tuple[str | None, str | None]:
        """Continue a session whose pod is lost on another one.

        Return its new id there, if it has one, and the result to count; `None` if its pod has it
        still.
        """
        snapshot = self.snapshots.pop(placed.connection)
        if snapshot is None:
            return None, "lost"
        _log.info("pod lost pod=%s session=%s", placed.pod, snapshot.session_id)
        found = await self._mover.recover(snapshot)
        if found is not None:
            return found, "recovered"
        return None, "kept" if self._mover.keeps(snapshot.session_id) else None

    async def _open_session(
        self,
        key: str,
        request: SessionRequest,
        subprotocols: Sequence[str],
        headers: Mapping[str, str],
    ) -> PlacedSession:
        pod = self._registry.pods.get(key)
        if pod is None:
            raise errors.PodError(key, "the pod was deleted")
        placement = self._registry.add_placement(key)
        connection = f"{self._name}/{next(self._numbers)}"
        record, account = self._announce(request, pod)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                peer = await upgrade.connect(
                    (pod.ip, pod.sessions_port),
                    request.path,
                    _query(request, pod),
                    {
                        **_headers(headers, request, pod, self.read_keys()),
                        labels.CONNECTION_HEADER: connection,
                        **({labels.USAGE_HEADER: account} if account else {}),
                    },
                    subprotocols,
                    self._budget,
                )
        except BaseException as error:
            self._registry.release(placement)
            if self._meter is not None and isinstance(error, errors.PodRejection):
                self._meter.withdraw(record)
            if isinstance(error, errors.PodRejection) and not _is_request_error(error):
                if error.code == routing.Shortage.NO_CAPACITY.value:
                    self._registry.refuse(key, asyncio.get_running_loop().time())
                raise errors.PodError(key, f"{error.status} {error.code}") from error
            if isinstance(error, (aiohttp.ClientError, OSError, TimeoutError)):
                raise errors.PodError(key, repr(error)) from error
            raise
        placement.accepted_at = asyncio.get_running_loop().time()
        is_followed = request.can_resume and peer.resume_s > 0
        if is_followed:
            self._streams.follow(pod, connection)
        source = pod if is_followed else None
        return PlacedSession(
            key, peer, placement, pod.gpu_class, connection, source, usage_record=record
        )

    def _announce(self, request: SessionRequest, pod: Pod) -> tuple[str, str]:
        """Return the id of the record of a connection, and what its pod gets for it."""
        if self._meter is None:
            return "", ""
        return self._meter.place(
            request.principal.tenant_name, request.model, pod, is_new=request.resume is None
        )


def _missing(model: str) -> str:
    return f"service {model} does not exist"


def _session_tokens(pod: Pod, keys: Sequence[str]) -> str:
    return ",".join(tokens.session_token(key, pod.original_service) for key in keys)


def _query(request: SessionRequest, pod: Pod) -> Sequence[tuple[str, str]]:
    """Return the query for the pod, which accepts only the service that it was started for."""
    return [
        (name, pod.original_service if name == "model" else text)
        for name, text in request.forwarded
    ]


def _headers(
    forwarded: Mapping[str, str], request: SessionRequest, pod: Pod, keys: Sequence[str]
) -> Mapping[str, str]:
    """Add what proves the gateway, the limit of the tenant, and a service of another name."""
    headers = {**forwarded, **_proofs(pod, request.caller, keys)}
    if pod.original_service != request.model:
        headers[labels.SERVICE_HEADER] = request.model
    tenant = request.principal.tenant
    if tenant is not None and tenant.limits.session_s is not None:
        headers[labels.MAX_DURATION_HEADER] = str(tenant.limits.session_s)
    return headers


def _proofs(pod: Pod, caller: str | None, keys: Sequence[str]) -> dict[str, str]:
    """Return the headers with the tokens for the pod, and with the caller if it is known.

    During a rotation a pod may know only one of two keys, so it gets a token for each. Both open
    sessions of this service only.
    """
    headers = {labels.SESSION_TOKEN_HEADER: _session_tokens(pod, keys)}
    if keys and caller is not None:
        headers[labels.CALLER_HEADER] = tokens.caller_code(keys[0], caller)
    return headers


_SHORTAGE_MESSAGES: Final = {
    routing.Shortage.NOT_READY: "no pod of the service is ready",
    routing.Shortage.DRAINING: "all pods of the service are draining",
    routing.Shortage.NO_CAPACITY: "all pods of the service are full",
}


_REQUEST_ERROR_STATUSES: Final = frozenset({400, 403, 404})


def _is_request_error(rejection: errors.PodRejection) -> bool:
    """Return whether every pod of the service would reject the request for the same reason."""
    return rejection.status in _REQUEST_ERROR_STATUSES and rejection.code != "model_not_found"
