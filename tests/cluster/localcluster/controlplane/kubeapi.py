"""The API server as its administrator sees it: requests, and mirrors of what there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from localcluster.controlplane import certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from localcluster.controlplane.cluster import ControlPlane

Body = dict[str, Any]
PAGE: Final = 1000
LOOK_AGAIN_S: Final = 0.2
MERGE: Final = "application/merge-patch+json"

log = logging.getLogger(__name__)


class Api:
    """The administrator's connection; bodies are as the API gives them."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server

    async def send(
        self, method: str, path: str, body: Body | None = None, content_type: str = ""
    ) -> Body:
        """Return the answer. Raises `aiohttp.ClientResponseError` if it is an error."""
        headers = {"Content-Type": content_type or "application/json"}
        async with self._session.request(
            method, self._server + path, data=json.dumps(body) if body else None, headers=headers
        ) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise aiohttp.ClientResponseError(
                    answer.request_info, answer.history, status=answer.status, message=text[:500]
                )
            return dict(json.loads(text))

    async def get(self, path: str) -> Body:
        return await self.send("GET", path)

    async def post(self, path: str, body: Body) -> Body:
        return await self.send("POST", path, body)

    async def merge(self, path: str, body: Body) -> None:
        """Patch an object, if there is one."""
        await self._if_there(self.send("PATCH", path, body, MERGE))

    async def delete(self, path: str, body: Body | None = None) -> None:
        """Delete an object, if there is one."""
        await self._if_there(self.send("DELETE", path, body))

    async def _if_there(self, request: Awaitable[Body]) -> None:
        try:
            await request
        except aiohttp.ClientResponseError as error:
            if error.status != 404:
                raise

    async def list(self, path: str) -> tuple[list[Body], str]:
        """Return all objects and the version to watch from."""
        items: list[Body] = []
        token = ""
        while True:
            page = await self.get(f"{path}?limit={PAGE}&continue={token}")
            items += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return items, page["metadata"]["resourceVersion"]

    async def watch(self, path: str, version: str) -> AsyncIterator[Body]:
        """Yield the events after a version, until the server ends the watch."""
        url = f"{self._server}{path}?watch=1&resourceVersion={version}&allowWatchBookmarks=true"
        async with self._session.get(url) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield json.loads(line)


@contextlib.asynccontextmanager
async def connected(cluster: ControlPlane) -> AsyncIterator[Api]:
    """Connect as the administrator."""
    pki = certificates.Pki(cluster.layout.pki)
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(pki.certificate("admin"), pki.key("admin"))
    connector = aiohttp.TCPConnector(limit=64, ssl=context)
    timeout = aiohttp.ClientTimeout(total=None, connect=30)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=1 << 22
    ) as session:
        yield Api(session, cluster.server)


class Mirror:
    """All objects of a path as they are now, by namespace and name.

    Several may share one condition, so that one can wait for what depends on all of them.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        changed: asyncio.Condition,
        seen: Callable[[str, Body], None] | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self._changed = changed
        self._seen = seen
        self.objects: dict[tuple[str, str], Body] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Mirror]:
        """Keep up with the server until the block ends."""
        version = await self._look()
        task = asyncio.create_task(self._follow(version), name=f"mirror of {self._path}")
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task  # what broke it is told, too

    def of(self, namespace: str) -> list[Body]:
        """Return the objects of a namespace, by name."""
        found = [key for key in self.objects if key[0] == namespace]
        return [self.objects[key] for key in sorted(found)]

    async def _follow(self, version: str) -> None:
        while True:
            try:
                async for event in self._api.watch(self._path, version):
                    if event["type"] == "ERROR":
                        raise _GoneError(event["object"])
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(event["type"], event["object"])
                        await self._tell()
            except (aiohttp.ClientError, TimeoutError, _GoneError) as error:
                # A server refuses watches of a kind while it gets ready to serve it, for one.
                log.warning("the mirror of %s looks anew: %r", self._path, error)
                version = await self._look_until_seen()

    async def _look_until_seen(self) -> str:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            try:
                version = await self._look()
            except (aiohttp.ClientError, TimeoutError) as error:
                log.warning("the mirror of %s cannot look: %r", self._path, error)
            else:
                await self._tell()
                return version

    async def _look(self) -> str:
        """Take in what there is, and return the version to watch from."""
        items, version = await self._api.list(self._path)
        gone = self.objects.keys() - {_key(item) for item in items}
        for key in gone:
            self._take("DELETED", self.objects[key])
        for item in items:
            self._take("MODIFIED" if _key(item) in self.objects else "ADDED", item)
        return version

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _take(self, kind: str, body: Body) -> None:
        key = _key(body)
        if kind == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = body
        if self._seen is not None:
            self._seen(kind, body)


class _GoneError(Exception):
    """A watch was ended with an error: what it was to go on from is not kept any more."""


def _key(body: Body) -> tuple[str, str]:
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


async def until(
    changed: asyncio.Condition,
    holds: Callable[[], object],
    what: Callable[[], str] | str,
    within_s: float,
) -> None:
    """Wait for a condition on mirrors. Raises `TimeoutError`, which tells what was seen last."""
    try:
        async with asyncio.timeout(within_s), changed:
            await changed.wait_for(lambda: bool(holds()))
    except TimeoutError:
        told = what if isinstance(what, str) else what()
        raise TimeoutError(f"{told}: not within {within_s:g} s") from None
