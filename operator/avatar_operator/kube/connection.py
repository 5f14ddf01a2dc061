"""Carries requests to the API server: credentials, room, deadlines, the fence, and errors.

Bodies are dictionaries, as the API gives them: models of the client cost memory
and time. Every request has a deadline, and its errors become our own.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as client_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from avatar_operator import names
from avatar_operator.errors import (
    ClusterError,
    Conflict,
    NotFound,
    Refused,
    TemporaryError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.fence import Fence

REQUEST_TIMEOUT_S: Final = 5.0
IN_FLIGHT: Final = 32
"""Requests at once. An API server with 2 cores applies 156 objects a second one by one and 525
with 50 in flight; more than these would only queue there."""

LONGEST_EVENT: Final = 16 << 20  # bytes; etcd takes no object of 2 MiB
SHOWN_LENGTH: Final = 500  # characters of the server's message that are kept

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"  # adds to lists that have keys

_UNBOUND: Final = aiohttp.ClientTimeout(total=None)  # the whole request has one deadline


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach the API server; kopf logs in with the same."""

    server: str
    ca_path: str | None
    authorization: str | None
    certificate_path: str | None
    key_path: str | None
    verifies: bool


async def load_configuration() -> Configuration:
    """Return how to connect as the pod's ServiceAccount, or else as KUBECONFIG says."""
    configuration = Configuration()
    try:
        client_config.load_incluster_config(client_configuration=configuration)
    except client_config.ConfigException:
        await client_config.load_kube_config(client_configuration=configuration)
    return configuration


class Connection:
    """One pool of connections to the API server."""

    def __init__(self, configuration: Configuration, fence: Fence, identity: str) -> None:
        # The client would ask two threads for each request, one for .netrc and one for proxies;
        # a proxy named in the kubeconfig is still used.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._fence = fence
        self._client = ApiClient(configuration)
        # Audit logs tell replicas apart; what is before the slash names the field manager.
        self._user_agent = f"{names.FIELD_MANAGER}/{identity}"
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def credentials(self) -> Credentials:
        """Return what reaches the API server now; tokens are renewed under way."""
        found = self._configuration
        return Credentials(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            authorization=await found.get_api_key_with_prefix("BearerToken"),
            certificate_path=found.cert_file,
            key_path=found.key_file,
            verifies=found.verify_ssl,
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Body:
        """Send a request when there is room for it; a write only if this process leads then.

        Raises:
            NotLeading: the write was not sent.
        """
        asked = (method, path)
        async with self._slots:
            if method == "GET":
                return await self.request(*asked, query=query, timeout_s=timeout_s)
            with self._fence.passage() as left_s:
                within_s = min(timeout_s, left_s)
                # The server, too, gives up then: what it is late with must not come after all.
                query = {**(query or {}), "timeout": f"{max(1, int(within_s * 1000))}ms"}
                return await self.request(
                    *asked, body=body, query=query, content_type=content_type, timeout_s=within_s
                )

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        timeout_s: float,
    ) -> Body:
        """Send a request at once, whoever leads: for the Lease alone, and for reading."""
        request = f"{method} {path}"
        url = self._url(path, query)
        try:
            async with asyncio.timeout(timeout_s):
                headers = await self._headers(content_type)
                answer = await self._client.call_api(
                    method, url, headers, body, _request_timeout=_UNBOUND
                )
                data = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TemporaryError(request, 0, f"{type(error).__name__}: {error}") from error
        document = _document(data)
        if answer.status >= 300:
            raise _error(request, answer.status, document, answer.headers.get("Retry-After"))
        if document is None:  # of a proxy in between, or cut off
            raise TemporaryError(request, answer.status, "the answer is no JSON object")
        return document

    async def watch(
        self, path: str, query: Mapping[str, str], silence_s: float
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield the types and objects of one watch, until it ends or falls silent.

        Raises:
            NotFound: the version asked for is too old, or the kind is not there.
        """
        request = f"GET {path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
        try:
            answer = await self._client.call_api(
                "GET",
                self._url(path, {"watch": "1", **query}),
                await self._headers(JSON),
                _request_timeout=timeout,
            )
            if answer.status >= 300:
                raise _error(request, answer.status, _document(await answer.read()), None)
            async with answer.response:
                rest = b""
                # By chunks, not by lines: many short events may come in one, and an object
                # may be longer than aiohttp's longest line.
                async for chunk in answer.response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = _document(line) or {}
                        yield str(event.get("type")), _document_in(event, "object")
                    if len(rest) > LONGEST_EVENT:
                        raise TemporaryError(request, 0, f"an event over {LONGEST_EVENT} bytes")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TemporaryError(request, 0, f"{type(error).__name__}: {error}") from error

    def _url(self, path: str, query: Mapping[str, str] | None) -> str:
        return f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")

    async def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": self._user_agent}
        authorization = await self._configuration.get_api_key_with_prefix("BearerToken")
        return headers | ({"Authorization": authorization} if authorization else {})


def _document(data: bytes) -> Body | None:
    """Return the JSON object that an answer is, `None` if it is none."""
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _document_in(document: Body, key: str) -> Body:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _error(
    request: str, status: int, document: Body | None, retry_after: str | None
) -> ClusterError:
    message = str((document or {}).get("message") or "no message")[:SHOWN_LENGTH]
    match status:
        case 404 | 410:
            return NotFound(request, status, message)
        case 409:
            return Conflict(request, status, message)
        case 400 | 403 | 405 | 413 | 415 | 422:
            return Refused(request, status, message)
    delay_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return TemporaryError(request, status, message, delay_s)
