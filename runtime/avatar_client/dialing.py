"""Opens the WebSocket of a session."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus

from avatar_client import errors
from avatar_contracts import labels

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

MAX_MESSAGE_BYTES: Final = 21 * 2**20
"""Maximum size of a message of the protocol."""
_QUEUED_MESSAGES: Final = 64
"""Maximum number of unread messages; beyond it the server gets back-pressure."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server, the service and the credentials of a session."""

    url: str
    """URL of a gateway or a runtime pod; the scheme is `http`, `https`, `ws` or `wss`."""
    model: str
    """The AvatarService, `NAMESPACE/NAME`."""
    key: str
    """API key; if empty, no key is sent."""
    avatar: str | None = None
    """Avatar of the session; `None` selects the first of the service."""
    wait_ms: int | None = None
    """Maximum wait for a free slot, milliseconds; `None` uses the default of the service."""
    open_timeout_s: float = 20.0
    """Maximum time to open the session, seconds."""
    session_token: str = ""
    """Session token of the service, which a pod in a cluster needs if it is reached directly."""

    def __repr__(self) -> str:
        return f"Target(url={self.url!r}, model={self.model!r}, key='***')"

    def address(self, resume: str = "", *, resumes: bool = False) -> str:
        """Return the WebSocket address with its query; `resume` is the session to continue.

        `resumes` is whether the session goes on on another connection when this one is lost.
        """
        parts = urlsplit(self.url if "://" in self.url else f"ws://{self.url}")
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        path = parts.path if parts.path.strip("/") else "/v1/realtime"
        new = {"avatar": self.avatar, "wait_ms": self.wait_ms, "resumes": "1" if resumes else None}
        query = {"model": self.model, **({"resume": resume} if resume else new)}
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return urlunsplit((scheme, parts.netloc, path, urlencode(given, safe="/"), ""))


async def dial(target: Target, resume: str = "", *, resumes: bool = False) -> ClientConnection:
    """Open a connection; `resume` is the session that it continues, empty for a new one.

    `resumes` tells a gateway that it may end this connection when it restarts.

    Raises:
        Refused: the server refused the connection.
        SessionEnded: the connection closed during the handshake.
        AnswerTimeout: the handshake took too long.
    """
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    if target.session_token:
        headers[labels.SESSION_TOKEN_HEADER] = target.session_token
    opening = open_websocket(
        target.address(resume, resumes=resumes),
        additional_headers=headers,
        compression=None,
        max_size=MAX_MESSAGE_BYTES,
        max_queue=_QUEUED_MESSAGES,
        open_timeout=target.open_timeout_s,
    )
    try:
        return await opening
    except InvalidStatus as error:
        raise _refusal(error) from error
    except InvalidMessage as error:
        raise errors.SessionEnded(1006, "closed during the handshake") from error
    except InvalidHandshake as error:
        raise errors.Refused(None, "handshake_failed", str(error), None) from error
    except TimeoutError as error:
        raise errors.AnswerTimeout("handshake", target.open_timeout_s) from error
    except OSError as error:
        raise errors.Refused(None, "connect_failed", str(error), None) from error


def _refusal(error: InvalidStatus) -> errors.Refused:
    status = error.response.status_code
    retry_after = error.response.headers.get("Retry-After")
    try:
        body = json.loads(error.response.body)["error"]
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        code, message = f"http_{status}", "the response has no error object"
    seconds = int(retry_after) if retry_after and retry_after.isdigit() else None
    return errors.Refused(status, code, message, seconds)
