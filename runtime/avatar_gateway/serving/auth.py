"""Authentication of callers, and the short-lived client secrets that they pass to a browser."""

from __future__ import annotations

import secrets
from time import time
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import documents, tokens
from avatar_gateway import errors
from avatar_gateway.core import credentials, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ALL: Final = "*"
"""All services; no service has this name."""
_MAX_BODY_BYTES: Final = 64 * 1024


class Authenticator:
    """Checks credentials against the API keys."""

    def __init__(self, read_keys: Callable[[], Sequence[str]]) -> None:
        """`read_keys` returns the API keys; the first one signs client secrets."""
        self._read_keys = read_keys

    def check_url(self, query: Sequence[tuple[str, str]]) -> None:
        """Reject a URL that contains a credential.

        Raises:
            Rejection: the query contains one.
        """
        requests.check_no_key(query, self._read_keys())

    def authenticate(
        self, headers: Mapping[str, str], subprotocols: Sequence[str], model: str | None
    ) -> None:
        """Authenticate a caller for one service, or for what requires the API key (None).

        Raises:
            Rejection: the credential is missing, wrong or expired; the message is the same.
        """
        permitted = self.permitted(headers, subprotocols)
        if permitted != ALL and (model is None or model != permitted):
            raise _unauthenticated()

    def permitted(self, headers: Mapping[str, str], subprotocols: Sequence[str] = ()) -> str:
        """Return the service that a caller may use, `ALL` for a caller with an API key.

        Raises:
            Rejection: the credential is missing, wrong or expired; the message is the same.
        """
        credential = credentials.presented(headers, subprotocols)
        if credential is not None:
            keys = self._read_keys()
            if tokens.matches(credential, keys):
                return ALL
            for key in keys:
                secret = credentials.verify(key, credential, time())
                if secret is not None:
                    return secret.model
        raise _unauthenticated()

    def create_client_secret(self, body: bytes) -> Mapping[str, Any]:
        """Return a new client secret in the format of the OpenAI Realtime API.

        Raises:
            Rejection: the body is not a valid request.
        """
        if len(body) > _MAX_BODY_BYTES:
            raise errors.Rejection(
                "invalid_query",
                f"the body has {len(body)} bytes, must have at most {_MAX_BODY_BYTES}",
                value=len(body),
                limit=_MAX_BODY_BYTES,
            )
        try:
            parsed = documents.parse(body or b"{}")
        except ValueError as error:
            raise errors.Rejection("invalid_query", "the body is not valid JSON") from error
        request = requests.parse_secret(parsed)
        expires_at = int(time()) + request.ttl_s
        secret = credentials.ClientSecret(expires_at, request.model)
        signing_key, *_ = self._read_keys() or [""]
        if not signing_key:  # between the check of the credential and now
            raise errors.Rejection("not_ready", "this gateway has no API key now")
        return {
            "value": credentials.mint(signing_key, secret, secrets.token_urlsafe(12)),
            "expires_at": expires_at,
            "session": {"type": "realtime", "object": "realtime.session", **request.session},
        }


def _unauthenticated() -> errors.Rejection:
    return errors.Rejection("unauthenticated", "a valid API key or client secret is required")
