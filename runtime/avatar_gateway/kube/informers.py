"""Lists and watches services and pods; the only module that calls the Kubernetes API."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from kubernetes.aio import client, config

from avatar_contracts import labels
from avatar_contracts.documents import parse_object, take_lines
from avatar_gateway import errors
from avatar_gateway.core import model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from avatar_contracts.backoff import Backoff
    from avatar_gateway.pod_registry import PodRegistry

_log = logging.getLogger(__name__)

PODS: Final = "pods"
SERVICES: Final = labels.SERVICES
_GROUP_PATHS: Final = {PODS: "/api/v1", SERVICES: f"/apis/{labels.GROUP}/{labels.VERSION}"}
_PAGE: Final = 500
_WATCH_S: Final = 60
"""The server ends a watch after this time; the next watch continues from the last version."""
_INACTIVITY_S: Final = 70
"""A watch that is silent for longer than its own time limit has a dead connection."""
_RELIST_S: Final = 600
"""How often all objects are listed again, independent of the watch."""
_GONE: Final = 410


class EventSink(Protocol):
    """Receives the objects of one kind."""

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Replace all objects of one namespace, or of all namespaces (None)."""

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update an object."""

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove an object."""


class PodSink:
    """Stores pods in the pod registry."""

    def __init__(self, registry: PodRegistry) -> None:
        self._registry = registry

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Replace all pods of one namespace, or of all namespaces (None)."""
        pods = [pod for body in bodies if (pod := model.parse_pod(body)) is not None]
        self._registry.replace_pods(pods, namespace)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update one pod."""
        pod = model.parse_pod(body)
        if pod is not None:
            self._registry.set_pod(pod)

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one pod."""
        self._registry.remove_pod(_key(body))


class ServiceSink:
    """Stores AvatarServices in the pod registry."""

    def __init__(self, registry: PodRegistry) -> None:
        self._registry = registry

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Replace all services of one namespace, or of all namespaces (None)."""
        self._registry.replace_services(map(_key, bodies), namespace)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add one service."""
        self._registry.add_service(_key(body))

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one service."""
        self._registry.remove_service(_key(body))


class Watch:
    """Keeps one sink up to date with the objects of one kind."""

    def __init__(
        self,
        api: client.ApiClient,
        kind: str,
        namespace: str | None,
        sink: EventSink,
        backoff: Backoff,
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
        """List and watch indefinitely; the sink keeps its objects while the API is unavailable."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                version: str | None = await self._list()
                self.synced.set()
                self._backoff.reset()
                relist_at = loop.time() + _RELIST_S
                while version is not None and loop.time() < relist_at:
                    version = await self._follow(version)
            except (aiohttp.ClientError, OSError, TimeoutError, errors.WatchError) as error:
                _log.warning("watch interrupted path=%s error=%r", self._path, error)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                # The answer is not what a Kubernetes API sends: a proxy's page, or a cut list.
                _log.warning("answer not used path=%s error=%r", self._path, error)
            else:
                continue
            await asyncio.sleep(self._backoff.next_s())

    async def _list(self) -> str:
        items: list[Mapping[str, Any]] = []
        parameters: dict[str, Any] = {"limit": _PAGE, **self._selector}
        while True:
            async with self._get(parameters) as response:
                body = parse_object(await response.read())
            items += body["items"]
            metadata = body["metadata"]
            if not metadata.get("continue"):
                self._sink.replace(items, self._namespace)
                return str(metadata["resourceVersion"])
            parameters["continue"] = metadata["continue"]

    async def _follow(self, version: str) -> str | None:
        """Process the events of one watch.

        Returns:
            The version from which the next watch continues, or None to list again.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
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
        if loop.time() - started < 1:
            # Back off if the server ends watches immediately.
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
    """Connect with a kubeconfig file, or with the pod's ServiceAccount (None)."""
    configuration = client.Configuration()
    if kubeconfig is None:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        yield api


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the events of a watch. A line may be longer than aiohttp's limit for one line."""
    rest = bytearray()
    async for data in response.content.iter_any():
        rest += data
        for line in take_lines(rest):
            if line.strip():
                yield parse_object(line)


def _key(body: Mapping[str, Any]) -> str:
    metadata = body["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"
