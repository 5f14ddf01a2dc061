"""Who may come in, and the short-lived secrets they may hand on to a browser."""

from __future__ import annotations

import json
import secrets
from time import time
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core import credentials, requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BODY_LIMIT: Final = 64 * 1024


class Door:
    """Checks credentials against the one API key."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def check_url(self, query: Sequence[tuple[str, str]]) -> None:
        """Refuse an address with a credential in it.

        Raises:
            Refusal: it has one.
        """
        requests.check_no_key(query, self._api_key)

    def admit(
        self, headers: Mapping[str, str], subprotocols: Sequence[str], model: str | None
    ) -> None:
        """Let a caller in, for one service or (None) for what needs the API key itself.

        Raises:
            Refusal: no credential, a wrong or an expired one; the answer is always the same.
        """
        credential = credentials.presented(headers, subprotocols)
        if credential is not None:
            if credentials.is_key(credential, self._api_key):
                return
            secret = credentials.verify(self._api_key, credential, time())
            if secret is not None and model is not None and secret.model in (None, model):
                return
        raise errors.Refusal("unauthenticated", "a valid API key or client secret is required")

    def client_secret(self, body: bytes) -> Mapping[str, Any]:
        """Return a new client secret in OpenAI's shape.

        Raises:
            Refusal: the body is no valid request.
        """
        if len(body) > _BODY_LIMIT:
            raise errors.Refusal(
                "invalid_query", "the body is too long", value=len(body), limit=_BODY_LIMIT
            )
        try:
            parsed = json.loads(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise errors.Refusal("invalid_query", "the body is no JSON") from error
        asked = requests.parse_secret(parsed)
        expires_at = int(time()) + asked.ttl_s
        secret = credentials.ClientSecret(expires_at, asked.model)
        return {
            "value": credentials.mint(self._api_key, secret, secrets.token_urlsafe(12)),
            "expires_at": expires_at,
            "session": {"type": "realtime", "object": "realtime.session", **asked.session},
        }
