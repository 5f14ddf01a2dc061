"""Services and pods from the Kubernetes API, by list and watch; the only caller of that API."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from kubernetes.aio import client, config

from avatar_gateway import errors
from avatar_gateway.core import model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from avatar_gateway.backoff import Backoff
    from avatar_gateway.directory import Directory

logger = logging.getLogger(__name__)

PODS: Final = "pods"
SERVICES: Final = "avatarservices"
_GROUP_PATHS: Final = {PODS: "/api/v1", SERVICES: "/apis/avatar.musetalk.io/v1alpha1"}
_PAGE: Final = 500
_WATCH_S: Final = 60
"""The server ends a watch after this; the next one goes on from its last version."""
_INACTIVITY_S: Final = 70
"""A watch that is silent past its own end is a dead connection (the client has no limit)."""
_RESYNC_S: Final = 600
"""Everything is listed again this often, whatever the watch said."""
_GONE: Final = 410


class Sink(Protocol):
    """Who wants to know of one kind of object."""

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Take a whole list, of one namespace or of all."""

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Take an object that is new or changed."""

    def remove(self, body: Mapping[str, Any]) -> None:
        """Forget an object."""


class PodSink:
    """Turns pod bodies into entries of the directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Take the whole list."""
        pods = [pod for body in bodies if (pod := model.parse_pod(body)) is not None]
        self._directory.replace_pods(pods, namespace)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Take one pod."""
        pod = model.parse_pod(body)
        if pod is not None:
            self._directory.set_pod(pod)

    def remove(self, body: Mapping[str, Any]) -> None:
        """Forget one pod."""
        self._directory.remove_pod(_key(body))


class ServiceSink:
    """Turns AvatarService bodies into entries of the directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Take the whole list."""
        self._directory.replace_services(map(_key, bodies), namespace)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Take one service."""
        self._directory.add_service(_key(body))

    def remove(self, body: Mapping[str, Any]) -> None:
        """Forget one service."""
        self._directory.remove_service(_key(body))


class Watch:
    """Keeps one sink equal to what the API server holds of one kind."""

    def __init__(
        self, api: client.ApiClient, kind: str, namespace: str | None, sink: Sink, backoff: Backoff
    ) -> None:
        scope = "" if namespace is None else f"/namespaces/{namespace}"
        self.synced = asyncio.Event()
        self._api = api
        self._path = f"{_GROUP_PATHS[kind]}{scope}/{kind}"
        self._selector = {"labelSelector": model.POD_SELECTOR} if kind == PODS else {}
        self._namespace = namespace
        self._sink = sink
        self._backoff = backoff

    async def run(self) -> None:
        """List and watch for ever; what was known stays known while the API is away."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                version: str | None = await self._list()
                self.synced.set()
                self._backoff.reset()
                relist_at = loop.time() + _RESYNC_S
                while version is not None and loop.time() < relist_at:
                    version = await self._follow(version)
            except (aiohttp.ClientError, OSError, TimeoutError, errors.WatchError) as error:
                logger.warning("watch interrupted path=%s error=%r", self._path, error)
                await asyncio.sleep(self._backoff.next_s())

    async def _list(self) -> str:
        items: list[Mapping[str, Any]] = []
        parameters: dict[str, Any] = {"limit": _PAGE, **self._selector}
        while True:
            async with self._get(parameters) as response:
                body = json.loads(await response.read())
            items += body["items"]
            metadata = body["metadata"]
            if not metadata.get("continue"):
                self._sink.replace(items, self._namespace)
                return str(metadata["resourceVersion"])
            parameters["continue"] = metadata["continue"]

    async def _follow(self, version: str) -> str | None:
        """Take the events of one watch; return where to go on, None to list again."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": _WATCH_S,
            **self._selector,
        }
        async with self._get(parameters) as response:
            async for event in _events(response):
                body = event["object"]
                match event["type"]:
                    case "ADDED" | "MODIFIED":
                        self._sink.upsert(body)
                    case "DELETED":
                        self._sink.remove(body)
                    case "ERROR" if body.get("code") == _GONE:
                        return None
                    case "ERROR":
                        raise errors.WatchError(self._path, body.get("code", 0), str(body))
                version = str(body["metadata"]["resourceVersion"])
        if loop.time() - begun < 1:
            # A server that ends watches at once must not be asked in a tight loop.
            await asyncio.sleep(self._backoff.next_s())
        return version

    @asynccontextmanager
    async def _get(self, parameters: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        method, url, headers, *_ = await self._api.param_serialize(
            "GET",
            self._path,
            query_params=list(parameters.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_INACTIVITY_S)
        answer = await self._api.rest_client.request(method, url, headers, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        async with response:
            if response.status != 200:
                text = (await response.read())[:1000].decode(errors="replace")
                raise errors.WatchError(self._path, response.status, text)
            yield response


@asynccontextmanager
async def connected(kubeconfig: str | None) -> AsyncIterator[client.ApiClient]:
    """Open the API with a kubeconfig file, or None for the pod's ServiceAccount."""
    configuration = client.Configuration()
    if kubeconfig is None:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        yield api


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the objects of a watch; a line may be longer than the reader's own limit."""
    rest = bytearray()
    async for data in response.content.iter_any():
        rest += data
        for line in _lines(rest):
            yield json.loads(line)


def _lines(buffer: bytearray) -> Iterator[bytes]:
    while (end := buffer.find(b"\n")) >= 0:
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        if line.strip():
            yield line


def _key(body: Mapping[str, Any]) -> str:
    metadata = body["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"
