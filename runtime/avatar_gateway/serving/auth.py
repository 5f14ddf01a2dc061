"""Authentication of callers, and the short-lived client secrets that they pass to a browser."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from time import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from avatar_contracts import tokens
from avatar_gateway import errors
from avatar_gateway.core import api_keys, credentials, requests
from avatar_gateway.core.credentials import ClientSecret
from avatar_gateway.core.tenants import PLATFORM, ClientSecretUse, Credential, CredentialKind
from avatar_gateway.core.tenants import Principal as Principal
from avatar_gateway.core.use_counts import LocalUseCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from avatar_gateway.serving.token_verifier import TokenVerifier
    from avatar_gateway.tenant_registry import TenantRegistry


_MAX_USED_UP: Final = 10_000
"""Client secrets that are known to be used up; the count of an older one is asked for again."""


class UseCounts(Protocol):
    """Counts how often client secrets were used, if possible over all gateways."""

    async def count_use(self, use_id: str, limit: int, ttl_s: int) -> bool:
        """Count one use, and return whether it is within the limit; forget it after `ttl_s`."""
        ...


class Authenticator:
    """Finds out who makes a request."""

    def __init__(
        self,
        read_keys: Callable[[], Sequence[str]],
        tenants: TenantRegistry,
        token_verifier: TokenVerifier,
        read_gateway_keys: Callable[[], Sequence[str]],
        uses: UseCounts | None = None,
    ) -> None:
        """`read_keys` returns the keys of the platform; the first one signs client secrets.

        `read_gateway_keys` returns the gateway keys, the current one first.
        """
        self._read_keys = read_keys
        self._tenants = tenants
        self._token_verifier = token_verifier
        self._read_gateway_keys = read_gateway_keys
        self._uses = uses or LocalUseCounts(time)
        self._used_up: OrderedDict[str, None] = OrderedDict()
        """Client secrets that have opened as many sessions as they may."""

    def check_url(self, query: Sequence[tuple[str, str]]) -> None:
        """Reject a URL that contains a credential.

        Raises:
            Rejection: the query contains one.
        """
        requests.check_no_key(query, self._read_keys())

    async def authenticate(
        self,
        headers: Mapping[str, str],
        subprotocols: Sequence[str] = (),
        model: str | None = None,
    ) -> Principal:
        """Return who makes a request, for any service or for one of them.

        Raises:
            Rejection: the credential is missing, wrong, expired or for another service, each with
                the same message; or its page has an origin that is not allowed.
        """
        presented = credentials.presented(headers, subprotocols)
        principal = None if presented is None else await self._identify(presented)
        if principal is None or (model is not None and principal.model not in (None, model)):
            raise _unauthenticated()
        self._check_origin(principal, headers.get("Origin"))
        return principal

    def check_current(self, principal: Principal) -> None:
        """Reject a caller whose credential was revoked since it was verified, or is used up.

        A client secret that this gateway has refused once takes no slot of a pod any more.

        Raises:
            Rejection: as for a wrong credential.
        """
        use = principal.client_secret
        is_used_up = use is not None and use.secret_id in self._used_up
        if is_used_up or self._tenants.is_revoked(principal, time()):
            raise _unauthenticated()

    async def count_use(self, principal: Principal) -> None:
        """Count a session that a client secret opens; of other credentials nothing is counted.

        Raises:
            Rejection: it has opened as many as it may; as for a wrong credential.
        """
        use = principal.client_secret
        if use is None or not use.max_uses:
            return
        ttl_s = max(1, use.expires_at - int(time()))
        if not await self._uses.count_use(use.secret_id, use.max_uses, ttl_s):
            self._used_up[use.secret_id] = None
            if len(self._used_up) > _MAX_USED_UP:
                self._used_up.popitem(last=False)
            raise _unauthenticated()

    async def _identify(self, text: str) -> Principal | None:
        if len(text) > credentials.MAX_LENGTH:
            return None
        now = time()
        if text.startswith(api_keys.PREFIX):
            found = self._tenants.find_key(text, now)
            if found is None:
                return None
            tenant, key = found
            return Principal(tenant.tenant, Credential(CredentialKind.API_KEY, key.key_id))
        if tokens.matches(text, self._read_keys()):
            return PLATFORM
        if text.startswith(credentials.SECRET_PREFIX):
            return self._principal_of_secret(text, now)
        return await self._token_verifier.verify(text, now)

    def _principal_of_secret(self, text: str, now: float) -> Principal | None:
        signed = credentials.parse_secret(text, now)
        if signed is None:
            return None
        secret = signed.content
        if not signed.is_signed_with(self._signing_keys(secret.tenant, secret.source, now)):
            return None
        use = ClientSecretUse(secret.secret_id, secret.expires_at, secret.max_uses, secret.origin)
        found = self._tenants.tenants.get(secret.tenant)
        tenant = None if found is None else found.tenant
        principal = Principal(tenant, secret.source, secret.model, use)
        return None if self._tenants.is_revoked(principal, now) else principal

    def _signing_keys(self, tenant: str, source: Credential, now: float) -> Iterable[bytes]:
        """Return the keys that may have signed the client secrets of a credential, best first."""
        if source.kind is CredentialKind.PLATFORM_KEY:
            # A secret that names a tenant was not minted by the platform.
            keys = () if tenant else self._read_keys()
            return [credentials.platform_signing_key(key) for key in keys]
        found, proof = self._tenants.tenants.get(tenant), b""
        if found is None or found.problem:
            return ()
        if source.kind is CredentialKind.API_KEY:
            stored = self._tenants.key(tenant, source.name, now)
            if stored is None:
                return ()
            proof = stored.hash
        return [
            credentials.tenant_signing_key(key, tenant, source, proof)
            for key in self._read_gateway_keys()
        ]

    def _check_origin(self, principal: Principal, origin: str | None) -> None:
        """Reject a page that may not use the credential.

        Only browsers send an origin, and pages cannot change it: it protects the users of a page,
        not the credential.
        """
        tenant = self._tenants.tenants.get(principal.tenant_name)
        allowed = frozenset[str]() if tenant is None else tenant.origins
        use = principal.client_secret
        is_wrong = bool(allowed) and origin is not None and origin not in allowed
        if use is not None and use.origin:
            is_wrong = is_wrong or origin != use.origin
        if is_wrong:
            raise errors.Rejection(
                "origin_not_allowed",
                "this credential may not be used by a page of this origin",
                param="Origin",
                value=origin,
            )

    def create_client_secret(self, principal: Principal, body: bytes) -> Mapping[str, Any]:
        """Return a new client secret in the format of the OpenAI Realtime API.

        Raises:
            Rejection: the body is not a valid request, or the caller has a client secret itself.
        """
        if principal.client_secret is not None:
            raise _unauthenticated()
        request, now = requests.parse_secret(requests.parse_body(body or b"{}")), time()
        expires_at = int(now) + request.ttl_s
        if principal.expires_at is not None:  # no longer than the token
            expires_at = min(expires_at, int(principal.expires_at))
        secret = ClientSecret(
            expires_at,
            request.model,
            api_keys.new_id(secrets.token_bytes(api_keys.ID_BYTES)),
            request.origin,
            request.max_uses,
            principal.tenant_name,
            principal.source,
        )
        signing_key, *_ = [*self._signing_keys(secret.tenant, secret.source, now), b""]
        if not signing_key:  # between the check of the credential and now
            raise errors.Rejection("not_ready", "this gateway has no key to sign with now")
        return {
            "value": credentials.mint(signing_key, secret),
            "expires_at": expires_at,
            "session": {"type": "realtime", "object": "realtime.session", **request.session},
            "avatar": {
                "id": secret.secret_id,
                "max_uses": request.max_uses or None,
                "origin": request.origin or None,
            },
        }


def _unauthenticated() -> errors.Rejection:
    return errors.Rejection("unauthenticated", "a valid API key or client secret is required")
