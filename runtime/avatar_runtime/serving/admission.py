"""Which connections get a session: the checks before the upgrade to a WebSocket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_contracts import labels
from avatar_contracts.addresses import address_key
from avatar_contracts.tokens import URL_KEYS, matches
from avatar_runtime.errors import Rejection, quoted, shown, supported
from avatar_runtime.protocol.dialects import translation, voice_live
from avatar_runtime.protocol.session_config import VideoMode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from avatar_runtime.protocol.dialects.translation import Dialect
    from avatar_runtime.serving.pod_tokens import PodTokens

_MAX_WAIT_MS: Final = 600_000
_MAX_TOKENS: Final = 4
_MAX_DURATION_DIGITS: Final = 10
_CALLER_CHARACTERS: Final = 64
REALTIME_PATH: Final = "/v1/realtime"
PATHS: Final = (REALTIME_PATH, voice_live.PATH)
"""Where a client opens a session."""
_VIDEO_MODES: Final = tuple(mode.value for mode in VideoMode)
_SERVICE: Final = re.compile(r"[a-z0-9][-a-z0-9]{0,62}/[a-z0-9][-a-z0-9.]{0,252}")


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """The request of a connection, before it has a session."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By name in lower case."""
    subprotocols: Collection[str]
    path: str = REALTIME_PATH

    @property
    def dialect(self) -> Dialect | None:
        """The form of the protocol that the client speaks; `None` for the GA form."""
        beta = self.headers.get("openai-beta", "")
        return translation.choose(self.path, beta, self.subprotocols)

    @property
    def names_avatar(self) -> bool:
        """Whether the query names the avatar, or asks for its video."""
        return "avatar" in self.query or self.query.get("video", "none") != "none"

    @property
    def video(self) -> VideoMode:
        """What the client sees until it says what it wants.

        A client of Azure Voice Live gets video only if it asks for it.
        """
        is_azure = self.path == voice_live.PATH and not self.names_avatar
        default = VideoMode.NONE if is_azure else VideoMode.JPEG
        return VideoMode(self.query.get("video", default.value))


def check_token(request: SessionRequest, accepted: Sequence[str]) -> None:
    """Check that the gateway sent one of the accepted session tokens.

    Raises:
        Rejection: with status 401, if it did not.
    """
    sent = request.headers.get(labels.SESSION_TOKEN_HEADER.lower(), "")
    found = [matches(token.strip(), accepted) for token in sent.split(",")[:_MAX_TOKENS]]
    if not any(found):
        message = "this pod accepts sessions from its gateway only; connect to the gateway"
        raise Rejection(401, 4401, "unauthenticated", message)


def check_headers(raw: Collection[tuple[bytes, bytes]], tokens: PodTokens) -> None:
    """Check the session token of an HTTP request, if this pod requires one.

    Raises:
        Rejection: with status 401, if it is missing or wrong.
    """
    if tokens.session_is_required:
        request = SessionRequest(query={}, headers=headers_of(raw), subprotocols=())
        check_token(request, tokens.session())


def check(request: SessionRequest, service: str, avatars: Collection[str]) -> str | None:
    """Return the requested avatar, or `None` for the default.

    Raises:
        Rejection: with a code of docs/wire-protocol.md, "Refused connections".
    """
    _check_origin(request.headers)
    _check_query(request.query)
    model = request.query.get("model", "")
    if model and service and model != service:
        message = f"model is {quoted(model)}, this pod serves {service}"
        raise Rejection(404, 4404, "model_not_found", message, param="model", value=shown(model))
    avatar = request.query.get("avatar")
    if avatar not in avatars and (avatar is not None or not avatars):
        raise avatar_not_found(avatar, avatars)
    return avatar


def avatar_not_found(avatar: str | None, avatars: Collection[str]) -> Rejection:
    """Return the refusal of an avatar that is not one of `avatars`."""
    names = sorted(avatars)
    message = f"avatar is {quoted(avatar)}; {supported(names)}"
    if not avatars:
        message = "this pod has no avatar: the folders of all avatars were removed"
    return Rejection(
        404, 4404, "avatar_not_found", message, param="avatar", value=shown(avatar), limit=names
    )


def check_resume(request: SessionRequest) -> None:
    """Check a request to continue a session, apart from its token.

    Raises:
        Rejection: the origin or the query is not allowed.
    """
    _check_origin(request.headers)
    _check_query(request.query)


def max_duration_s(headers: Mapping[str, str], own_s: float, *, is_from_gateway: bool) -> float:
    """Return how long a new session may take, in seconds.

    The gateway can shorten it to the limit of a tenant, and cannot make it longer. Callers without
    a gateway choose nothing.
    """
    text = headers.get(labels.MAX_DURATION_HEADER.lower(), "") if is_from_gateway else ""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DURATION_DIGITS
    return min(own_s, max(1, int(text))) if is_number else own_s


def caller_of(headers: Mapping[str, str], peer: str, *, is_from_gateway: bool) -> str:
    """Return what counts as one caller: what the gateway names, or the address of the connection.

    Args:
        headers: of the request, by name in lower case.
        peer: the address that has connected.
        is_from_gateway: whether the request has proved that it comes from the gateway.
    """
    named = headers.get(labels.CALLER_HEADER.lower(), "") if is_from_gateway else ""
    return f"gateway {named[:_CALLER_CHARACTERS]}" if named else address_key(peer)


def reported_service(request: SessionRequest, service: str) -> str:
    """Return the service that the session reports to the client.

    The gateway names another service if that one has taken over the pod. The name has no other
    effect.
    """
    name = request.headers.get(labels.SERVICE_HEADER.lower(), "")
    return name if _SERVICE.fullmatch(name) else service


def _check_origin(headers: Mapping[str, str]) -> None:
    """Refuse a page of another site: browsers allow any page to open a WebSocket to any host."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        message = f"origin is {quoted(origin)}, must be the host of the request"
        raise Rejection(
            403, 4403, "origin_not_allowed", message, param="Origin", value=shown(origin)
        )


def _check_query(query: Mapping[str, str]) -> None:
    for name in query:
        if name.lower() in URL_KEYS:
            message = f"{name} is in the URL; send credentials in a header"
            raise Rejection(400, 1008, "key_in_url", message, param=name)
    wait = query.get("wait_ms", "0")
    if not (wait.isascii() and wait.isdigit()) or int(wait) > _MAX_WAIT_MS:
        raise _invalid("wait_ms", wait, [0, _MAX_WAIT_MS], f"must be 0 to {_MAX_WAIT_MS}")
    if query.get("video", "jpeg") not in _VIDEO_MODES:
        raise _invalid("video", query["video"], list(_VIDEO_MODES), supported(_VIDEO_MODES))
    if query.get("refuse", "close") != "close":
        raise _invalid("refuse", query["refuse"], ["close"], supported(["close"]))


def _invalid(name: str, value: str, limit: object, expected: str) -> Rejection:
    message = f"{name} is {quoted(value)}; {expected}"
    return Rejection(
        400, 1008, "invalid_query", message, param=name, value=shown(value), limit=limit
    )


class SlotLimiter:
    """Counts the sessions of this pod, and decides whether one more is accepted."""

    def __init__(self, capacity: int, on_change: Callable[[], None]) -> None:
        self.capacity = capacity
        self.sessions = 0
        self.is_ready = False
        """Whether the engine is ready."""
        self.draining = False
        self._on_change = on_change

    @property
    def free(self) -> int:
        """Number of sessions that would be accepted now."""
        if self.draining or not self.is_ready:
            return 0
        return max(0, self.capacity - self.sessions)

    def acquire(self, *, is_own: bool = False) -> None:
        """Take a slot; `release` returns it.

        `is_own` is whether a session comes back that has left this pod: also while it drains.

        Raises:
            Rejection: with status 503 and the time after which to try again.
        """
        if not self.is_ready:
            message = "the engine is not ready yet"
            raise Rejection(503, 1013, "not_ready", message, retry_after_s=2)
        if self.draining and not is_own:
            message = "this pod is draining and accepts no new sessions"
            raise Rejection(503, 1013, "draining", message, retry_after_s=5)
        if self.sessions >= self.capacity:
            message = f"{self.sessions} sessions are served, capacity is {self.capacity}"
            raise Rejection(
                503,
                1013,
                "no_capacity",
                message,
                value=self.sessions,
                limit=self.capacity,
                retry_after_s=2,
            )
        self.sessions += 1
        self._on_change()

    def release(self) -> None:
        """Return a slot."""
        self.sessions -= 1
        self._on_change()

    def set_draining(self, draining: bool) -> None:
        """Refuse or accept new sessions; existing sessions continue."""
        self.draining = draining
        self._on_change()


def headers_of(raw: Collection[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return ASGI headers by name in lower case; of several with one name, the last one."""
    return dict(_decoded(raw))


def _decoded(raw: Collection[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    for name, value in raw:
        yield name.decode("latin-1").lower(), value.decode("latin-1")
