"""Clients that come without a gateway, each with a token that opens one session."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_contracts import direct_tokens, labels
from avatar_runtime.errors import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_contracts.direct_tokens import DirectClaims
    from avatar_runtime.serving.admission import SessionRequest

MAX_USED: Final = 10_000
"""Used tokens that are remembered, each until it expires: 500 new sessions a second."""
_PROTOCOL_PREFIX: Final = "openai-insecure-api-key."
_TRUSTED_HEADERS: Final = frozenset(
    name.lower()
    for name in (
        labels.SESSION_TOKEN_HEADER,
        labels.CALLER_HEADER,
        labels.CONNECTION_HEADER,
        labels.USAGE_HEADER,
        labels.SERVICE_HEADER,
        labels.MAX_DURATION_HEADER,
    )
)
"""What only a gateway may say."""


class DirectAccess:
    """Checks one-time tokens, and remembers those that were used."""

    def __init__(
        self, pod: str, accepted: Callable[[], Sequence[str]], now: Callable[[], float]
    ) -> None:
        """`accepted` returns the session tokens; `now` returns seconds since the epoch."""
        self._pod = pod
        self._accepted = accepted
        self._now = now
        self._used: dict[str, int] = {}
        """The nonces of used tokens, and when these expire."""

    def claims(self, request: SessionRequest) -> DirectClaims | None:
        """Return the claims of the token of a client; None if it has sent no such token.

        Raises:
            Rejection: with status 401; the token is not one for this pod, or was used or is over.
        """
        token = _presented(request)
        if token is None:
            return None
        claims = direct_tokens.read(token, self._accepted())
        if claims is None or claims.pod != self._pod or claims.nonce in self._used:
            raise _unauthenticated("the one-time token is not valid for this pod, or was used")
        if claims.expires_at <= self._now():
            raise _unauthenticated("the one-time token has expired; ask the gateway for another")
        if "resume" in request.query:
            message = "a one-time token opens a new session; resume through a gateway"
            raise Rejection(400, 1008, "invalid_query", message, param="resume")
        return claims

    def use(self, claims: DirectClaims) -> None:
        """Accept a token for the last time.

        Raises:
            Rejection: it was used meanwhile, or too many tokens are remembered.
        """
        if claims.nonce in self._used:
            raise _unauthenticated("the one-time token is not valid for this pod, or was used")
        if len(self._used) >= MAX_USED:
            now = self._now()
            self._used = {nonce: end for nonce, end in self._used.items() if end > now}
        if len(self._used) >= MAX_USED:
            message = f"{MAX_USED} one-time tokens were used in the last seconds"
            raise Rejection(503, 1013, "no_capacity", message, limit=MAX_USED, retry_after_s=5)
        self._used[claims.nonce] = claims.expires_at


def as_session_request(request: SessionRequest, claims: DirectClaims) -> SessionRequest:
    """Return the request of a client with a token, as if a gateway had sent it.

    A page of any site may use a token that it was given, so the origin does not matter.
    """
    kept = {
        name: value
        for name, value in request.headers.items()
        if name not in _TRUSTED_HEADERS and name != "origin"
    }
    said = {labels.SERVICE_HEADER: claims.service}
    if claims.account:
        said[labels.USAGE_HEADER] = claims.account
    if claims.max_duration_s is not None:
        said[labels.MAX_DURATION_HEADER] = str(claims.max_duration_s)
    headers = {**kept, **{name.lower(): value for name, value in said.items()}}
    return replace(request, headers=headers)


def _presented(request: SessionRequest) -> str | None:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credential.startswith(direct_tokens.PREFIX):
        return credential.strip()
    for name in request.subprotocols:
        credential = name.removeprefix(_PROTOCOL_PREFIX)
        if credential != name and credential.startswith(direct_tokens.PREFIX):
            return credential
    return None


def _unauthenticated(message: str) -> Rejection:
    return Rejection(401, 4401, "unauthenticated", message)
