"""Authentication of callers, and the short-lived client secrets that they pass to a browser."""

from __future__ import annotations

import json
import secrets
from time import time
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core import credentials, requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_BODY_BYTES: Final = 64 * 1024


class Authenticator:
    """Checks credentials against the API key."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def check_url(self, query: Sequence[tuple[str, str]]) -> None:
        """Reject a URL that contains a credential.

        Raises:
            Rejection: the query contains one.
        """
        requests.check_no_key(query, self._api_key)

    def authenticate(
        self, headers: Mapping[str, str], subprotocols: Sequence[str], model: str | None
    ) -> None:
        """Authenticate a caller for one service, or for what requires the API key (None).

        Raises:
            Rejection: the credential is missing, wrong or expired; the message is the same.
        """
        credential = credentials.presented(headers, subprotocols)
        if credential is not None:
            if credentials.is_key(credential, self._api_key):
                return
            secret = credentials.verify(self._api_key, credential, time())
            if secret is not None and model is not None and secret.model in (None, model):
                return
        raise errors.Rejection("unauthenticated", "a valid API key or client secret is required")

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
            parsed = json.loads(body or b"{}")
            # Python reads NaN and numbers like 1e999, which the response cannot repeat as JSON.
            json.dumps(parsed, allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise errors.Rejection("invalid_query", "the body is not valid JSON") from error
        request = requests.parse_secret(parsed)
        expires_at = int(time()) + request.ttl_s
        secret = credentials.ClientSecret(expires_at, request.model)
        return {
            "value": credentials.mint(self._api_key, secret, secrets.token_urlsafe(12)),
            "expires_at": expires_at,
            "session": {"type": "realtime", "object": "realtime.session", **request.session},
        }
