"""A client of the API server with the rights of the administrator, and mirrors of its objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts.backoff import Backoff
from avatar_contracts.list_watch import (
    BOOKMARK,
    DELETED,
    EventReader,
    ExpiredError,
    ListWatchError,
    Reflector,
    read_page,
    watch_query,
)
from localcluster.controlplane import certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from localcluster.controlplane.cluster import ControlPlane

Body = dict[str, Any]
PAGE: Final = 1000
RETRY_S: Final = (0.2, 1.0)  # first and longest delay before a watch is opened again
MERGE: Final = "application/merge-patch+json"

_log = logging.getLogger(__name__)


class Api:
    """A connection as the administrator; bodies are API objects as dictionaries."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server

    async def send(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        content_type: str = "",
        user: str = "",
    ) -> Body:
        """Send a request and return the response body; with `user`, as this user.

        Raises:
            aiohttp.ClientResponseError: the response is an error.
        """
        headers = {"Content-Type": content_type or "application/json"}
        headers |= {"Impersonate-User": user} if user else {}
        async with self._session.request(
            method,
            self._server + path,
            data=None if body is None else json.dumps(body),
            headers=headers,
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

    async def merge(self, path: str, body: Body, uid: str = "") -> None:
        """Patch an object if it exists; with `uid`, only the object that has it."""
        if uid:
            body = {**body, "metadata": {**body.get("metadata", {}), "uid": uid}}
        await self._if_there(self.send("PATCH", path, body, MERGE), uid)

    async def delete(self, path: str, body: Body | None = None, uid: str = "") -> None:
        """Delete an object if it exists; with `uid`, only the object that has it."""
        if uid:
            body = {**(body or {}), "preconditions": {"uid": uid}}
        await self._if_there(self.send("DELETE", path, body), uid)

    async def _if_there(self, request: Awaitable[Body], uid: str) -> None:
        try:
            await request
        except aiohttp.ClientResponseError as error:
            # 409: another object has the name now.
            if error.status not in ((404, 409) if uid else (404,)):
                raise

    async def list(self, path: str) -> tuple[list[Body], str]:
        """Return all objects, and the version from which to watch."""
        items: list[Body] = []
        token = ""
        while True:
            page = read_page(await self.get(f"{path}?limit={PAGE}&continue={token}"))
            items += page.items
            token = page.token
            if not token:
                return items, page.version

    async def watch(self, path: str, version: str) -> AsyncIterator[tuple[str, Body]]:
        """Yield the events after a version, until the server ends the watch."""
        query, reader = watch_query(version, {}), EventReader()
        async with self._session.get(f"{self._server}{path}", params=query) as answer:
            answer.raise_for_status()
            async for chunk in answer.content.iter_any():
                for event in reader.feed(chunk):
                    yield event


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


async def read(cluster: ControlPlane, path: str, selector: str = "") -> Body:
    """Return an object, or the list of a kind with these labels, over a connection of its own.

    For conditions that a test reads until they hold: a process of kubectl takes 0.1 s of a
    processor each time, away from the pods that the test waits for; this takes a tenth of it.

    Raises:
        aiohttp.ClientResponseError: the response is an error.
    """
    query = f"?labelSelector={urllib.parse.quote(selector, safe='')}" if selector else ""
    async with connected(cluster) as api:
        return await api.get(path + query)


class Mirror:
    """A mirror of all objects of a path, by namespace and name.

    Several mirrors may share one condition, to wait for something that depends on all of them.
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
        """Follow the server until the block ends."""
        reflector = Reflector(self._path, self, Backoff(*RETRY_S, random.random))
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(reflector.run(), name=f"mirror of {self._path}")
            await reflector.synced.wait()
            try:
                yield self
            finally:
                task.cancel()

    def of(self, namespace: str) -> list[Body]:
        """Return the objects of a namespace, sorted by name."""
        found = [key for key in self.objects if key[0] == namespace]
        return [self.objects[key] for key in sorted(found)]

    async def list(self) -> str:
        """List all objects, and return the version from which to watch."""
        with _list_watch_errors():
            items, version = await self._api.list(self._path)
        gone = self.objects.keys() - {_key(item) for item in items}
        for key in gone:
            self._apply(DELETED, self.objects[key])
        for item in items:
            self._apply("MODIFIED" if _key(item) in self.objects else "ADDED", item)
        await self._notify()
        return version

    async def watch(self, version: str) -> AsyncIterator[tuple[str, Body]]:
        """Yield the events of one watch, and report each one after it was applied."""
        with _list_watch_errors():
            async for event in self._api.watch(self._path, version):
                yield event
                await self._notify()

    def on_event(self, event_type: str, body: Body) -> None:
        """Apply an event to the objects."""
        if event_type != BOOKMARK:
            self._apply(event_type, body)

    def on_interrupted(self) -> None:
        """Do nothing: the objects stay as they are until the next list."""

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _apply(self, kind: str, body: Body) -> None:
        key = _key(body)
        if kind == DELETED:
            self.objects.pop(key, None)
        else:
            self.objects[key] = body
        if self._seen is not None:
            self._seen(kind, body)


@contextlib.contextmanager
def _list_watch_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientResponseError as error:
        # For example, a server rejects watches of a kind until it is ready to serve them.
        raise ExpiredError(repr(error)) from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ListWatchError(repr(error)) from error


def _key(body: Body) -> tuple[str, str]:
    return body["metadata"].get("namespace", ""), body["metadata"]["name"]


async def until(
    changed: asyncio.Condition,
    holds: Callable[[], object],
    what: Callable[[], str] | str,
    within_s: float,
) -> None:
    """Wait for a condition on mirrors.

    Raises:
        TimeoutError: the condition does not hold in time; the message shows the last objects.
    """
    try:
        async with asyncio.timeout(within_s), changed:
            await changed.wait_for(lambda: bool(holds()))
    except TimeoutError:
        message = what if isinstance(what, str) else what()
        raise TimeoutError(f"{message}: not within {within_s:g} s") from None
