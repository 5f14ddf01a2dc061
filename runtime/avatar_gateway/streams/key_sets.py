"""Fetches the key sets of issuers, and keeps the last one while an issuer is away."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts.documents import parse_object
from avatar_gateway.core.key_sets import KeySet, inline_key_set, parse_key_set
from avatar_gateway.core.tenant_objects import is_safe_url

if TYPE_CHECKING:
    import jwt

    from avatar_gateway.core.tenant_objects import Issuer
    from avatar_gateway.tenant_registry import TenantRegistry

REFRESH_S: Final = 300.0
"""How often a key set is fetched: a key that its issuer removed is not accepted for longer."""
UNKNOWN_KEY_S: Final = 30.0
"""How often a token with an unknown key id can cause a fetch from its issuer."""
FAILED_S: Final = 5.0
"""The same, if the issuer has never answered."""
MAX_BYTES: Final = 1 << 18
_FETCH_S: Final = 5.0
_FETCHES: Final = 4
"""Fetches at once, of those that no caller waits for."""
_AWAITED_FETCHES: Final = 16
"""Fetches at once, of those that callers wait for."""
_DISCOVERY: Final = "/.well-known/openid-configuration"

_log = logging.getLogger(__name__)


class KeySetError(Exception):
    """A key set was not fetched; the message is a clause."""


@dataclass(slots=True)
class _Source:
    """What is known of one key set."""

    keys: KeySet | None = None
    tried_at: float | None = None
    """When a fetch began last, seconds on the event loop's clock."""
    task: asyncio.Task[None] | None = None


class KeySets:
    """The key sets of all issuers that tenants trust."""

    def __init__(self, registry: TenantRegistry) -> None:
        self._registry = registry
        self._sources: dict[tuple[str, str], _Source] = {}
        self._limit = asyncio.Semaphore(_FETCHES)
        self._awaited_limit = asyncio.Semaphore(_AWAITED_FETCHES)
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all fetches and connections."""
        tasks = [source.task for source in self._sources.values() if source.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def find(self, issuer: Issuer, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Return the key of an issuer that verifies a token, None if there is none."""
        if issuer.jwks:
            return inline_key_set(issuer.jwks).find(kid, algorithm)
        source = self._sources.setdefault(_place(issuer), _Source())
        if source.keys is None or not source.keys.has(kid):
            task = self._refresh(issuer, source, UNKNOWN_KEY_S, self._awaited_limit)
            if task is not None:
                # A caller that leaves does not end the fetch for the others.
                await asyncio.wait([task], timeout=_FETCH_S)
        return None if source.keys is None else source.keys.find(kid, algorithm)

    async def run(self) -> None:
        """Fetch the key set of each issuer, soon after it appears and then every 300 s."""
        while True:
            issuers = {
                _place(issuer): issuer
                for tenant in self._registry.tenants.values()
                for issuer in tenant.issuers
                if not issuer.jwks
            }
            for place in self._sources.keys() - issuers.keys():
                source = self._sources.pop(place)
                if source.task is not None:
                    source.task.cancel()
            known = {place[1] for place in issuers}
            problems = self._registry.issuer_problems
            for name in problems.keys() - known:
                del problems[name]
            for place, issuer in issuers.items():
                source = self._sources.setdefault(place, _Source())
                self._refresh(issuer, source, REFRESH_S, self._limit)
            await asyncio.sleep(1)

    def _refresh(
        self, issuer: Issuer, source: _Source, spacing_s: float, limit: asyncio.Semaphore
    ) -> asyncio.Task[None] | None:
        """Return the running fetch of a key set, or a new one unless the last was too recent."""
        now = asyncio.get_running_loop().time()
        if source.task is not None:
            return source.task
        if source.keys is None:
            spacing_s = FAILED_S
        if source.tried_at is None or now - source.tried_at >= spacing_s:
            source.tried_at = now
            fetch = self._fetch(issuer, source, limit)
            source.task = asyncio.create_task(fetch, name="key-set")
        return source.task

    async def _fetch(self, issuer: Issuer, source: _Source, limit: asyncio.Semaphore) -> None:
        problems = self._registry.issuer_problems
        try:
            async with limit, asyncio.timeout(_FETCH_S):
                url = issuer.jwks_url or await self._discover(issuer.issuer)
                found = parse_key_set(await self._get(url))
        except (aiohttp.ClientError, OSError) as error:
            problem = _describe(error)
        except (KeySetError, ValueError) as error:
            problem = f"the key set {error}"
        else:
            problem = "" if found.keys else "the key set has no key that can be used"
            source.keys = found
        finally:
            source.task = None
        if problem and source.keys is not None and source.keys.keys:
            problem += "; the keys that were fetched last are used"
        if problem and problems.get(issuer.issuer) != problem:
            _log.warning("key set not fetched issuer=%s problem=%s", issuer.issuer, problem)
        if problem:
            problems[issuer.issuer] = problem
        else:
            problems.pop(issuer.issuer, None)

    async def _discover(self, issuer: str) -> str:
        """Return the address of the key set, as OpenID Connect Discovery 1.0 defines it."""
        text = await self._get(issuer.rstrip("/") + _DISCOVERY)
        try:
            document: dict[str, Any] = parse_object(text)
        except ValueError:
            raise KeySetError("is described by a document that is not a JSON object") from None
        if document.get("issuer") != issuer:
            raise KeySetError("is described by a document of another issuer")
        url = document.get("jwks_uri")
        # What an issuer publishes must not lead the gateway to services of its own machine.
        is_near = issuer.startswith("http:")
        if not isinstance(url, str) or not is_safe_url(url, loopback=is_near):
            raise KeySetError("has no https address (jwks_uri)")
        return url

    async def _get(self, url: str) -> bytes:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_FETCH_S), cookie_jar=aiohttp.DummyCookieJar()
            )
        async with self._http.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise KeySetError(f"was answered with status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise KeySetError(f"has more than {MAX_BYTES} bytes")
            return bytes(body)


def _describe(error: aiohttp.ClientError | OSError) -> str:
    """Return why an issuer gave no answer. The text of an error can name addresses and classes,
    so it is not shown to tenants."""
    match error:
        case TimeoutError():
            return f"the issuer does not answer within {_FETCH_S:.0f} s"
        case aiohttp.ClientConnectorDNSError():
            return "the issuer does not answer: its host name is not found"
        case aiohttp.ClientSSLError():
            return "the issuer does not answer: its TLS certificate is not accepted"
        case aiohttp.InvalidURL():
            return "the issuer has an address that is not a valid URL"
        case aiohttp.ClientConnectorError() | OSError():
            return "the issuer does not answer: its address does not accept a connection"
        case _:
            return "the issuer does not send a complete HTTP answer"


def _place(issuer: Issuer) -> tuple[str, str]:
    return issuer.jwks_url, issuer.issuer
