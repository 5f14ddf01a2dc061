"""Who gets a session: the checks at the door, before the upgrade to a WebSocket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from avatar_contracts import labels
from avatar_runtime.errors import Refusal, shown, supported

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

_KEYS_IN_URL: Final = ("key", "api_key", "api-key", "apikey", "token", "access_token", "secret")
_LONGEST_WAIT_MS: Final = 600_000
_BETA: Final = "realtime=v1"
_SERVICE: Final = re.compile(r"[a-z0-9][-a-z0-9]{0,62}/[a-z0-9][-a-z0-9.]{0,252}")
_BETA_SUBPROTOCOL: Final = "openai-beta.realtime-v1"


@dataclass(frozen=True, slots=True)
class Caller:
    """What a connection asks for before it is a session."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    subprotocols: Collection[str]


def check(caller: Caller, service: str, avatars: Collection[str]) -> str | None:
    """Return the avatar asked for, `None` for the default.

    Raises `Refusal` with the status of wire protocol §13.
    """
    _check_origin(caller.headers)
    _check_query(caller.query)
    _check_beta(caller)
    model = caller.query.get("model", "")
    if model and service and model != service:
        message = f"model is {shown(model)}, this pod serves {service}"
        raise Refusal(404, 4404, "model_not_found", message, param="model", value=shown(model))
    avatar = caller.query.get("avatar")
    if avatar is not None and avatar not in avatars:
        names = sorted(avatars)
        message = f"avatar is {shown(avatar)}; {supported(names)}"
        raise Refusal(
            404,
            4404,
            "avatar_not_found",
            message,
            param="avatar",
            value=shown(avatar),
            limit=names,
        )
    return avatar


def told_service(caller: Caller, service: str) -> str:
    """Return the service that a session is told it speaks with.

    The gateway names another one where a pod was taken over; it decides nothing here.
    """
    name = caller.headers.get(labels.SERVICE_HEADER.lower(), "")
    return name if _SERVICE.fullmatch(name) else service


def _check_origin(headers: Mapping[str, str]) -> None:
    """Refuse a page of another site: browsers let any page open a WebSocket anywhere."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        message = f"origin is {shown(origin)}, must be the host asked"
        raise Refusal(403, 4403, "origin_not_allowed", message, param="Origin", value=shown(origin))


def _check_query(query: Mapping[str, str]) -> None:
    for name in query:
        if name.lower() in _KEYS_IN_URL:
            message = f"{name} is in the address; send credentials in a header"
            raise Refusal(400, 1008, "key_in_url", message, param=name)
    wait = query.get("wait_ms", "0")
    if not (wait.isascii() and wait.isdigit()) or int(wait) > _LONGEST_WAIT_MS:
        raise _invalid("wait_ms", wait, [0, _LONGEST_WAIT_MS], f"must be 0 to {_LONGEST_WAIT_MS}")
    if "resume" in query:
        raise _invalid("resume", query["resume"], None, "this version does not serve resume")
    if query.get("refuse", "close") != "close":
        raise _invalid("refuse", query["refuse"], ["close"], supported(["close"]))


def _check_beta(caller: Caller) -> None:
    beta = caller.headers.get("openai-beta", "")
    if _BETA in beta or _BETA_SUBPROTOCOL in caller.subprotocols:
        raise _invalid("OpenAI-Beta", _BETA, None, "this version serves the GA interface alone")


def _invalid(name: str, value: str, limit: object, expected: str) -> Refusal:
    message = f"{name} is {shown(value)}; {expected}"
    return Refusal(400, 1008, "invalid_query", message, param=name, value=shown(value), limit=limit)


class Door:
    """Counts the slots of this pod; the authority on whether one more session fits."""

    def __init__(self, capacity: int, changed: Callable[[], None]) -> None:
        self.capacity = capacity
        self.sessions = 0
        self.is_open = False
        """Whether the engine is ready."""
        self.draining = False
        self._changed = changed

    @property
    def free(self) -> int:
        """Sessions that would be let in now."""
        if self.draining or not self.is_open:
            return 0
        return max(0, self.capacity - self.sessions)

    def enter(self) -> None:
        """Take a slot, which `leave` gives back.

        Raises `Refusal` 503 with the time to try again.
        """
        if not self.is_open:
            message = "the engine is not ready yet"
            raise Refusal(503, 1013, "not_ready", message, retry_after_s=2)
        if self.draining:
            message = "this pod is draining and takes no more sessions"
            raise Refusal(503, 1013, "draining", message, retry_after_s=5)
        if self.sessions >= self.capacity:
            message = f"{self.sessions} sessions are served, capacity is {self.capacity}"
            raise Refusal(
                503,
                1013,
                "no_capacity",
                message,
                value=self.sessions,
                limit=self.capacity,
                retry_after_s=2,
            )
        self.sessions += 1
        self._changed()

    def leave(self) -> None:
        """Give a slot back."""
        self.sessions -= 1
        self._changed()

    def set_draining(self, draining: bool) -> None:
        """Refuse or take new sessions; those that are there go on."""
        self.draining = draining
        self._changed()


def headers_of(raw: Collection[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return ASGI headers by lower-case name; the last of several wins."""
    return dict(_decoded(raw))


def _decoded(raw: Collection[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    for name, value in raw:
        yield name.decode("latin-1").lower(), value.decode("latin-1")
