"""A small asynchronous client of the API server with the identity of a kubeconfig."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import yaml

from avatar_contracts.list_watch import EventReader, watch_query

from .errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path
    from types import TracebackType

Json = dict[str, Any]
STRATEGIC: Final = "application/strategic-merge-patch+json"
WATCH_S: Final = 300  # the server ends a watch after this time, then the reader starts a new one


class Api:
    """A client. It is a context manager, because it keeps connections open."""

    def __init__(self, server: str, context: ssl.SSLContext | None, token: str) -> None:
        self.server = server.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context if context else True, limit=0),
            headers=headers | {"User-Agent": "localcluster-node"},
            timeout=aiohttp.ClientTimeout(total=30),
        )

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """Return a client for the current context; requires a running event loop."""
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        ca = _content(cluster, "certificate-authority", path.parent)
        tls = None
        if cluster["server"].startswith("https"):
            tls = ssl.create_default_context(cadata=ca.decode() if ca else None)
            if certificate := _content(user, "client-certificate", path.parent):
                key = _content(user, "client-key", path.parent)
                # The ssl module reads certificates from files only.
                with tempfile.NamedTemporaryFile() as file:
                    file.write(certificate + b"\n" + key)
                    file.flush()
                    tls.load_cert_chain(file.name)
        return cls(cluster["server"], tls, user.get("token", ""))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Json:
        """Return the object or list at `path`."""
        return await self._call("GET", path, query=query)

    async def create(self, path: str, body: Json) -> Json:
        """Create an object in the collection at `path`."""
        return await self._call("POST", path, body)

    async def patch(self, path: str, body: Json) -> Json:
        """Apply a strategic merge patch."""
        return await self._call("PATCH", path, body, content_type=STRATEGIC)

    async def delete(self, path: str, body: Json) -> Json:
        """Delete an object with the given DeleteOptions."""
        return await self._call("DELETE", path, body)

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[tuple[str, Json]]:
        """Yield the type and the object of each event after `version`, until the watch ends.

        Raises:
            ApiError: the request failed, or the connection broke.
        """
        query = watch_query(version, query) | {"timeoutSeconds": str(WATCH_S)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_S + 30)
        reader = EventReader()
        try:
            async with self._session.get(
                self.server + path, params=query, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise ApiError(response.status, (await response.text())[:500])
                async for chunk in response.content.iter_any():
                    for event in reader.feed(chunk):
                        yield event
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiError(0, f"watch of {path} broke: {error!r}") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method,
                self.server + path,
                data=data,
                params=query,
                headers={"Content-Type": content_type, "Accept": "application/json"},
            ) as response:
                answer = await response.json(content_type=None)
                if response.status >= 400:
                    raise ApiError(response.status, str(answer.get("message", answer)))
                return dict(answer)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiError(0, f"{method} {path} failed: {error!r}") from error


def _named(items: list[Json], name: str) -> Json:
    return next(item for item in items if item["name"] == name)


def _content(section: Json, key: str, folder: Path) -> bytes:
    """Return a certificate or key: inline, or from a file relative to the kubeconfig."""
    if inline := section.get(f"{key}-data"):
        return base64.b64decode(inline)
    return (folder / section[key]).read_bytes() if section.get(key) else b""
