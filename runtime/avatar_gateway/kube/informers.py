"""Lists and watches the objects that the gateway follows."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
import yaml
from kubernetes.aio import client, config

from avatar_contracts import labels
from avatar_contracts.documents import parse_object
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
from avatar_gateway import errors
from avatar_gateway.core import model
from avatar_gateway.kube.tenant_sinks import parse_service_access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from avatar_contracts.backoff import Backoff
    from avatar_gateway.pod_registry import PodRegistry
    from avatar_gateway.tenant_registry import TenantRegistry

_log = logging.getLogger(__name__)

PODS: Final = "pods"
SERVICES: Final = labels.SERVICES
TENANTS: Final = labels.TENANTS
NAMESPACES: Final = "namespaces"
SECRETS: Final = "secrets"
_OWN_GROUP: Final = f"/apis/{labels.GROUP}/{labels.VERSION}"
_GROUP_PATHS: Final = {
    PODS: "/api/v1",
    SERVICES: _OWN_GROUP,
    TENANTS: _OWN_GROUP,
    NAMESPACES: "/api/v1",
    SECRETS: "/api/v1",
}
_PAGE: Final = 500
_MAX_CAUSE: Final = 200
_WATCH_S: Final = 60
"""The server ends a watch after this time; the next watch continues from the last version."""
_INACTIVITY_S: Final = 70
"""A watch that is silent for longer than its own time limit has a dead connection."""
_RELIST_S: Final = 600
"""How often all objects are listed again, independent of the watch."""
_GONE: Final = frozenset({404, 410})
_ABSENT: Final = frozenset({403, 404})
"""The kind is not installed, or the gateway has no right to list it."""
_ABSENT_RETRY_S: Final = 30.0


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
        self._ignored: set[str] = set()
        """Pods that the log has named."""

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Replace all pods of one namespace, or of all namespaces (None)."""
        pods = [pod for body in bodies if (pod := self._parse(body)) is not None]
        self._registry.replace_pods(pods, namespace)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update one pod, or remove it if it does not belong to a service any more."""
        pod = self._parse(body)
        if pod is None:
            self._registry.remove_pod(_key(body))
        else:
            self._registry.set_pod(pod)

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one pod."""
        self._ignored.discard(_key(body))
        self._registry.remove_pod(_key(body))

    def _parse(self, body: Mapping[str, Any]) -> model.Pod | None:
        pod = model.parse_pod(body)
        if pod is None and _key(body) not in self._ignored:
            self._ignored.add(_key(body))
            _log.warning("pod not used, no AvatarService controls it pod=%s", _key(body))
        return pod


class ServiceSink:
    """Stores AvatarServices in the pod registry, and who may use them in that of the tenants."""

    def __init__(self, registry: PodRegistry, tenants: TenantRegistry) -> None:
        self._registry = registry
        self._tenants = tenants

    def replace(self, bodies: Sequence[Mapping[str, Any]], namespace: str | None) -> None:
        """Replace all services of one namespace, or of all namespaces (None)."""
        found = {_key(body): parse_service_access(body) for body in bodies}
        # First who may use them: a service is never known without it.
        self._tenants.replace_services(found, namespace)
        self._registry.replace_services(found, namespace)

    def upsert(self, body: Mapping[str, Any]) -> None:
        """Add or update one service."""
        self._tenants.set_service(_key(body), parse_service_access(body))
        self._registry.add_service(_key(body))

    def remove(self, body: Mapping[str, Any]) -> None:
        """Remove one service."""
        self._registry.remove_service(_key(body))
        self._tenants.remove_service(_key(body))


def reflector(
    api: client.ApiClient,
    kind: str,
    namespace: str | None,
    sink: EventSink,
    backoff: Backoff,
    *,
    optional: bool = False,
) -> Reflector:
    """Return what keeps a sink up to date with the objects of one kind.

    The sink keeps its objects while the API is unavailable. If the kind is `optional`, an API
    server that does not have it, or does not permit to list it, is asked again every 30 s; until
    then the kind counts as listed, so that nothing waits for it.
    """
    source = _Source(api, kind, namespace, sink)
    found = Reflector(source.path, source, backoff, _RELIST_S)
    if optional:
        source.on_absent = found.synced.set
    return found


class _Source:
    """Lists and watches one kind for a sink."""

    def __init__(
        self, api: client.ApiClient, kind: str, namespace: str | None, sink: EventSink
    ) -> None:
        scope = "" if namespace is None else f"/namespaces/{namespace}"
        self.path = f"{_GROUP_PATHS[kind]}{scope}/{kind}"
        self._api = api
        self._selector = {"labelSelector": model.POD_SELECTOR} if kind == PODS else {}
        self._namespace = namespace
        self._sink = sink
        self.on_absent: Callable[[], None] | None = None
        """Called when an optional kind cannot be listed; None for a kind that is required."""

    async def list(self) -> str:
        items: list[Mapping[str, Any]] = []
        query = {"limit": str(_PAGE), **self._selector}
        while True:
            async with self._get(query) as response:
                page = read_page(parse_object(await response.read()))
                items += page.items
                if not page.token:
                    self._sink.replace(items, self._namespace)
                    return page.version
            query["continue"] = page.token

    async def watch(self, version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        query = watch_query(version, self._selector) | {"timeoutSeconds": str(_WATCH_S)}
        reader = EventReader()
        async with self._get(query) as response:
            async for chunk in response.content.iter_any():
                for event in reader.feed(chunk):
                    yield event

    def on_event(self, event_type: str, body: Mapping[str, Any]) -> None:
        with _list_watch_errors():
            if event_type == DELETED:
                self._sink.remove(body)
            elif event_type != BOOKMARK:
                self._sink.upsert(body)

    def on_interrupted(self) -> None:
        pass

    @asynccontextmanager
    async def _get(self, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        with _list_watch_errors():
            method, url, headers, *_ = await self._api.param_serialize(
                "GET",
                self.path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_INACTIVITY_S)
            answer = await self._api.rest_client.request(
                method, url, headers, _request_timeout=timeout
            )
            response: aiohttp.ClientResponse = answer.response
            async with response:
                if response.status != 200:
                    text = (await response.content.read(1000)).decode(errors="replace")
                    if self.on_absent is not None and response.status in _ABSENT:
                        if response.status == 404:  # the kind was removed, and all its objects
                            self._sink.replace([], self._namespace)
                        self.on_absent()
                        raise ListWatchError(f"status {response.status}: {text}", _ABSENT_RETRY_S)
                    error = ExpiredError if response.status in _GONE else ListWatchError
                    raise error(f"status {response.status}: {text}")
                yield response


@contextmanager
def _list_watch_errors() -> Iterator[None]:
    """Translate what a connection and a wrong document raise into the error of the reflector."""
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ListWatchError(f"{type(error).__name__}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # The answer is not what a Kubernetes API sends: a proxy's page, or a cut list.
        # A watch does not continue at an event that cannot be used: it lists again.
        raise ExpiredError(f"the answer is not usable: {error!r}") from error


@asynccontextmanager
async def connected(kubeconfig: str | None) -> AsyncIterator[client.ApiClient]:
    """Connect with a kubeconfig file, or with the pod's ServiceAccount (None).

    Raises:
        CommandError: the file cannot be read, or does not say where the API server is.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(
                config_file=kubeconfig, client_configuration=configuration
            )
    except (config.ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        name = "the ServiceAccount of the pod" if kubeconfig is None else f"kubeconfig {kubeconfig}"
        raise errors.CommandError(f"{name} cannot be used: {str(error)[:_MAX_CAUSE]}") from error
    async with client.ApiClient(configuration) as api:
        yield api


def _key(body: Mapping[str, Any]) -> str:
    metadata = body["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"
