"""The only caller of the Kubernetes API, besides kopf's watches.

What it needs, which the chart grants and nothing more:

    cluster-wide  nodes, pods, gpuprofiles             list watch
                  gpuprofiles/status                   patch
                  poddisruptionbudgets                 list
                  customresourcedefinitions            list watch   (kopf's discovery)
                                                       create patch (only `upgrade-crds`)
                  namespaces                           list watch   (kopf, only with
                                                                     AVATAR_WATCH_NAMESPACES)
    own namespace Secret AVATAR_CONTROL_SECRET         get create
                  Lease AVATAR_LEASE                   get list watch create patch
    of services   avatarservices                       list watch get
                  avatarservices/status                patch
                  avatarservices/finalizers            update       (blockOwnerDeletion)
                  pods                                 create patch delete
                  poddisruptionbudgets                 create patch
                  secrets                              get create patch
                  events                               create

Bodies are dictionaries, as the API gives them: models of the client cost memory
and time. Every call has a timeout, and its errors become our own. All writes but
those of the Lease pass the fence: only a leader's leave, and they end with its time.
"""

import asyncio
import base64
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config as client_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from avatar_operator import names
from avatar_operator.core import model
from avatar_operator.core.manifests import Body
from avatar_operator.errors import (
    ClusterError,
    Conflict,
    Contested,
    NotFound,
    Refused,
    TemporaryError,
)
from avatar_operator.fencing import Fence

REQUEST_TIMEOUT_S: Final = 5.0
LIST_TIMEOUT_S: Final = 60.0  # a page of 500 pods is some MB
PAGE_SIZE: Final = 500
IN_FLIGHT: Final = 16  # requests at once; more only queue in the API server
MASTER_BYTES: Final = 48
SHOWN_LENGTH: Final = 500  # characters of the server's message that are kept

_APPLY: Final = "application/apply-patch+yaml"
_JSON: Final = "application/json"
_UNBOUND: Final = aiohttp.ClientTimeout(total=None)  # the whole request has one deadline
_MERGE: Final = "application/merge-patch+json"

PATHS: Final[Mapping[str, str]] = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    names.PROFILES: f"/apis/{names.API_VERSION}/{names.PROFILES}",
    names.SERVICES: f"/apis/{names.API_VERSION}/{names.SERVICES}",
    "poddisruptionbudgets": "/apis/policy/v1/poddisruptionbudgets",
}
"""Where each kind that is observed is listed, in all namespaces."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach the API server; kopf logs in with the same."""

    server: str
    ca_path: str | None
    authorization: str | None
    certificate_path: str | None
    key_path: str | None
    verifies: bool


class Cluster:
    """One connection pool to the API server."""

    def __init__(self, configuration: Configuration, fence: Fence, identity: str) -> None:
        self._configuration = configuration
        self._fence = fence
        self._client = ApiClient(configuration)
        # Audit logs tell replicas apart; what is before the slash names the field manager.
        self._user_agent = f"{names.FIELD_MANAGER}/{identity}"
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    @classmethod
    async def open(cls, fence: Fence, identity: str) -> Self:
        """Connect as the pod's ServiceAccount, or else as KUBECONFIG says."""
        configuration = Configuration()
        try:
            client_config.load_incluster_config(client_configuration=configuration)
        except client_config.ConfigException:
            await client_config.load_kube_config(client_configuration=configuration)
        return cls(configuration, fence, identity)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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

    async def list(self, path: str, selector: str = "") -> AsyncIterator[Body]:
        """Yield every object of a listing, page by page."""
        token = ""
        while True:
            query = {"limit": str(PAGE_SIZE)} | ({"continue": token} if token else {})
            query |= {"labelSelector": selector} if selector else {}
            page = await self._send("GET", path, query=query, timeout_s=LIST_TIMEOUT_S)
            items = page.get("items")
            assert isinstance(items, list)
            for item in items:
                yield item
            metadata = page.get("metadata")
            assert isinstance(metadata, dict)
            token = metadata.get("continue", "")
            if not token:
                return

    async def create_pod(self, body: Body) -> Body:
        """Create a pod; the answer is the pod as stored.

        Raises:
            Conflict: a pod of that name exists.
        """
        return await self._send("POST", f"{_in(_namespace(body))}/pods", body=body)

    async def delete_pod(
        self, namespace: str, name: str, uid: str, resource_version: str | None
    ) -> Body:
        """Delete exactly this pod, gracefully, and only in this version if one is given.

        Raises:
            Conflict: the pod is another one by now.
            NotFound: it is gone.
        """
        preconditions = {"uid": uid}
        if resource_version is not None:
            preconditions["resourceVersion"] = resource_version
        options: Body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
        }
        return await self._send("DELETE", f"{_in(namespace)}/pods/{name}", body=options)

    async def apply_secret(self, body: Body) -> bool:
        """Make a Secret hold what it should, and return whether that took a write."""
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        path = f"{_in(_namespace(body))}/secrets/{metadata['name']}"
        try:
            found = await self._send("GET", path)
        except NotFound:
            found = {}
        if found and found.get("data") == body["data"] and _owners(found) == _owners(body):
            return False
        await self._apply(path, body)
        return True

    async def apply_budget(self, body: Body) -> None:
        """Make a PodDisruptionBudget what it should be.

        Raises:
            Contested: someone else declares it otherwise.
        """
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        group = f"/apis/policy/v1/namespaces/{metadata['namespace']}/poddisruptionbudgets"
        await self._apply(f"{group}/{metadata['name']}", body)

    async def mark_pod(self, namespace: str, name: str, uid: str, marks: Body) -> Body:
        """Change labels and annotations of exactly this pod; the answer is the pod as stored.

        Raises:
            Conflict: a pod of that name is another one.
            NotFound: it is gone.
        """
        body: Body = {"metadata": {**marks, "uid": uid}}
        path = f"{_in(namespace)}/pods/{name}"
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._send("PATCH", path, body=body, query=query, content_type=_MERGE)

    async def serves(self, key: model.ServiceKey, uid: str) -> bool:
        """Return whether exactly this service is there, and not being deleted."""
        group = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}/{names.SERVICES}"
        try:
            metadata = (await self._send("GET", f"{group}/{key.name}"))["metadata"]
        except NotFound:
            return False
        assert isinstance(metadata, dict)
        return metadata.get("uid") == uid and "deletionTimestamp" not in metadata

    async def _apply(self, path: str, body: Body) -> None:
        """Apply an object of ours: edits by hand are put back, other declarations respected.

        Raises:
            Contested: another manager applies one of the fields, and would for ever.
        """
        manager = {"fieldManager": names.FIELD_MANAGER}
        try:
            await self._send("PATCH", path, body=body, query=manager, content_type=_APPLY)
        except Conflict as error:
            rivals = _APPLIED_BY.findall(error.message)
            if not _EDITED_BY.search(error.message) and not rivals:
                raise  # no conflict of fields
            if rivals:
                raise Contested(f"PATCH {path}", error.status, error.message) from error
            await self._send("PATCH", path, body=body, query=_MANAGER, content_type=_APPLY)

    async def master_key(self, namespace: str, name: str) -> str:
        """Return the key that all tokens derive from; make it if there is none yet."""
        path = f"{_in(namespace)}/secrets"
        try:
            return _read_master(await self._send("GET", f"{path}/{name}"))
        except NotFound:
            pass
        body: Body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
            },
            "type": "Opaque",
            "stringData": {names.MASTER_KEY: secrets.token_urlsafe(MASTER_BYTES)},
        }
        try:
            return _read_master(await self._send("POST", path, body=body))
        except Conflict:  # another replica was quicker
            return _read_master(await self._send("GET", f"{path}/{name}"))

    async def apply_status(self, key: model.ServiceKey, uid: str, status: Body) -> Body:
        """Write the status of a service; the answer is the service as stored.

        Raises:
            Conflict: the service is another one by now.
            NotFound: it is gone.
        """
        body: Body = {
            "apiVersion": names.API_VERSION,
            "kind": names.SERVICE_KIND,
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            "status": status,
        }
        group = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}/{names.SERVICES}"
        path = f"{group}/{key.name}/status"
        return await self._send("PATCH", path, body=body, query=_MANAGER, content_type=_APPLY)

    async def apply_profile_status(self, name: str, uid: str, status: Body) -> Body:
        """Write the status of a GPU profile; the answer is the profile as stored.

        Raises:
            Conflict: the profile is another one by now.
            NotFound: it is gone.
        """
        body: Body = {
            "apiVersion": names.API_VERSION,
            "kind": names.PROFILE_KIND,
            "metadata": {"name": name, "uid": uid},
            "status": status,
        }
        path = f"{PATHS[names.PROFILES]}/{name}/status"
        return await self._send("PATCH", path, body=body, query=_MANAGER, content_type=_APPLY)

    async def definition(self, name: str) -> Body | None:
        """Return a CustomResourceDefinition, None if it is not installed."""
        query = {"fieldSelector": f"metadata.name={name}"}  # a listing, which kopf may do anyway
        found = (await self._send("GET", _DEFINITIONS, query=query)).get("items")
        assert isinstance(found, list)
        return found[0] if found else None

    async def apply_definition(self, body: Body) -> None:
        """Make a CustomResourceDefinition what it should be, whoever applied it before."""
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        path = f"{_DEFINITIONS}/{metadata['name']}"
        await self._send("PATCH", path, body=body, query=_MANAGER, content_type=_APPLY)

    async def create_event(self, body: Body) -> None:
        """Post an Event."""
        await self._send("POST", f"{_in(_namespace(body))}/events", body=body)

    async def read_lease(self, namespace: str, name: str, timeout_s: float) -> Body:
        """Return the Lease.

        Raises:
            NotFound: there is none.
        """
        return await self._request("GET", _lease(namespace, name), timeout_s=timeout_s)

    async def write_lease(self, body: Body, timeout_s: float) -> Body:
        """Change the Lease in the version that the body names; without one, make it.

        Raises:
            Conflict: it is in another version by now, or there is one.
            NotFound: there is none.
        """
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        namespace, name = str(metadata["namespace"]), str(metadata["name"])
        if "resourceVersion" not in metadata:
            path = _lease(namespace, "")
            return await self._request("POST", path, body=body, timeout_s=timeout_s)
        # A merge patch, so that the labels of whoever made it stay; the version is still compared.
        return await self._request(
            "PATCH", _lease(namespace, name), body=body, content_type=_MERGE, timeout_s=timeout_s
        )

    async def watch_lease(
        self, namespace: str, name: str, silence_s: float
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield the types and objects of one watch of the Lease, until it ends or falls silent."""
        query = {"watch": "1", "fieldSelector": f"metadata.name={name}"}
        path = f"{_lease(namespace, '')}?{urlencode(query)}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
        try:
            answer = await self._client.call_api(
                "GET",
                self._configuration.host + path,
                await self._headers(_JSON),
                _request_timeout=timeout,
            )
            if answer.status >= 300:
                raise _error(f"GET {path}", answer.status, _document(await answer.read()), None)
            async with answer.response:
                async for line in answer.response.content:
                    event = _document(line)
                    yield str(event.get("type")), _document_in(event, "object")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TemporaryError(f"GET {path}", 0, f"{type(error).__name__}: {error}") from error

    async def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": _JSON, "Content-Type": content_type, "User-Agent": self._user_agent}
        authorization = await self._configuration.get_api_key_with_prefix("BearerToken")
        return headers | ({"Authorization": authorization} if authorization else {})

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = _JSON,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Body:
        """Send a request when there is room for it; a write only if this process leads then.

        Raises:
            NotLeading: the write was not sent.
        """
        asked = (method, path)
        async with self._slots:
            if method == "GET":
                return await self._request(*asked, query=query, timeout_s=timeout_s)
            with self._fence.passage() as left_s:
                within_s = min(timeout_s, left_s)
                # The server, too, gives up then: what it is late with must not come after all.
                query = {**(query or {}), "timeout": f"{max(1, int(within_s * 1000))}ms"}
                return await self._request(
                    *asked, body=body, query=query, content_type=content_type, timeout_s=within_s
                )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = _JSON,
        timeout_s: float,
    ) -> Body:
        request = f"{method} {path}"
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
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
        return document


# The API server names who applied a field, and of who edited it also how and when.
_APPLIED_BY: Final = re.compile(r'conflicts? with "([^"]+)":')
_EDITED_BY: Final = re.compile(r'conflicts? with "([^"]+)" using ')

_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_MANAGER: Final = {"fieldManager": names.FIELD_MANAGER, "force": "true"}


def _in(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}"


def _lease(namespace: str, name: str) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    return f"{path}/{name}" if name else path


def _namespace(body: Body) -> str:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["namespace"])


def _owners(body: Body) -> list[str]:
    metadata = body.get("metadata")
    assert isinstance(metadata, dict)
    return [owner["uid"] for owner in metadata.get("ownerReferences", [])]


def _read_master(secret: Body) -> str:
    data = secret.get("data")
    found = data.get(names.MASTER_KEY) if isinstance(data, dict) else None
    if not found:
        raise Refused("the control Secret", 422, f"has no key {names.MASTER_KEY}")
    return base64.b64decode(found).decode()


def _document(data: bytes) -> Body:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}


def _document_in(document: Body, key: str) -> Body:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _error(request: str, status: int, document: Body, retry_after: str | None) -> ClusterError:
    message = str(document.get("message") or "no message")[:SHOWN_LENGTH]
    match status:
        case 404 | 410:
            return NotFound(request, status, message)
        case 409:
            return Conflict(request, status, message)
        case 400 | 403 | 405 | 413 | 415 | 422:
            return Refused(request, status, message)
    delay_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    return TemporaryError(request, status, message, delay_s)
