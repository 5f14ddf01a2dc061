"""The only caller of the Kubernetes API, besides kopf's watches.

What it needs, which the chart grants and nothing more:

    cluster-wide  nodes, pods, gpuprofiles             list watch
                  gpuprofiles/status                   patch
                  poddisruptionbudgets                 list watch
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

All writes but those of the Lease pass the fence: only a leader's leave, and they
end with its time.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from avatar_operator import names
from avatar_operator.errors import Conflict, Contested, NotFound, Refused, TemporaryError
from avatar_operator.kube.connection import (
    APPLY,
    MERGE,
    STRATEGIC,
    Connection,
    Credentials,
    load_configuration,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kubernetes.aio.client.configuration import Configuration

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import ServiceKey
    from avatar_operator.fence import Fence

LIST_TIMEOUT_S: Final = 60.0  # a page of 500 pods is some MB
PAGE_SIZE: Final = 500
MASTER_BYTES: Final = 48

PATHS: Final = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    names.PROFILES: f"/apis/{names.API_VERSION}/{names.PROFILES}",
    names.SERVICES: f"/apis/{names.API_VERSION}/{names.SERVICES}",
    "poddisruptionbudgets": "/apis/policy/v1/poddisruptionbudgets",
}
"""Where each kind that is observed is listed, in all namespaces."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing, as the API gives it."""

    items: list[Body]
    version: str  # the whole listing is of this version; a watch goes on from it


class Cluster:
    """What the operator asks of the API server, one method for each request."""

    def __init__(self, configuration: Configuration, fence: Fence, identity: str) -> None:
        self._connection = Connection(configuration, fence, identity)
        self._send = self._connection.send

    @classmethod
    async def open(cls, fence: Fence, identity: str) -> Self:
        """Connect as the pod's ServiceAccount, or else as KUBECONFIG says."""
        return cls(await load_configuration(), fence, identity)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def credentials(self) -> Credentials:
        """Return what reaches the API server now; tokens are renewed under way."""
        return await self._connection.credentials()

    async def list(self, path: str, selector: str = "") -> AsyncIterator[Page]:
        """Yield a listing page by page."""
        token = ""
        while True:
            query = {"limit": str(PAGE_SIZE)} | ({"continue": token} if token else {})
            query |= {"labelSelector": selector} if selector else {}
            page = await self._send("GET", path, query=query, timeout_s=LIST_TIMEOUT_S)
            items, metadata = page.get("items"), page.get("metadata")
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise TemporaryError(f"GET {path}", 200, "the answer is no listing")
            yield Page(items, str(metadata.get("resourceVersion", "")))
            token = metadata.get("continue", "")
            if not token:
                return

    async def watch(
        self, path: str, version: str, silence_s: float, selector: str = ""
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield the types and objects of one watch after a version, until it ends.

        Raises:
            NotFound: the version is too old; only a new listing tells what is.
        """
        query = {"resourceVersion": version, "allowWatchBookmarks": "true"}
        query |= {"labelSelector": selector} if selector else {}
        async for event in self._connection.watch(path, query, silence_s):
            yield event

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
        # A pod that another service took over may hold it, too.
        owned = set(_owners(body)).issubset(_owners(found)) if found else False
        if owned and found.get("data") == body["data"]:
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

    async def hold_secret(self, namespace: str, name: str, owner: Body) -> None:
        """Give a Secret one more owner, so that it stays for as long as this one does.

        Raises:
            NotFound: there is none.
            Refused: owners may be changed only by who may delete it, as in some clusters.
        """
        path = f"{_in(namespace)}/secrets/{name}"
        query = {"fieldManager": names.FIELD_MANAGER}
        body: Body = {"metadata": owner}
        await self._send("PATCH", path, body=body, query=query, content_type=STRATEGIC)

    async def mark_pod(
        self,
        namespace: str,
        name: str,
        uid: str,
        marks: Body,
        resource_version: str | None = None,
    ) -> Body:
        """Change the metadata of exactly this pod, and only in this version if one is given.

        The answer is the pod as stored.

        Raises:
            Conflict: a pod of that name is another one, or it is in another version by now.
            NotFound: it is gone.
        """
        version = {} if resource_version is None else {"resourceVersion": resource_version}
        body: Body = {"metadata": {**marks, "uid": uid, **version}}
        path = f"{_in(namespace)}/pods/{name}"
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._send("PATCH", path, body=body, query=query, content_type=MERGE)

    async def serves(self, key: ServiceKey, uid: str) -> bool:
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
            await self._send("PATCH", path, body=body, query=manager, content_type=APPLY)
        except Conflict as error:
            rivals = _APPLIED_BY.findall(error.message)
            if not _EDITED_BY.search(error.message) and not rivals:
                raise  # no conflict of fields
            if rivals:
                raise Contested(f"PATCH {path}", error.status, error.message) from error
            await self._send("PATCH", path, body=body, query=_MANAGER, content_type=APPLY)

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

    async def apply_status(self, key: ServiceKey, uid: str, status: Body) -> Body:
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
        return await self._send("PATCH", path, body=body, query=_MANAGER, content_type=APPLY)

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
        return await self._send("PATCH", path, body=body, query=_MANAGER, content_type=APPLY)

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
        await self._send("PATCH", path, body=body, query=_MANAGER, content_type=APPLY)

    async def create_event(self, body: Body) -> None:
        """Post an Event."""
        await self._send("POST", f"{_in(_namespace(body))}/events", body=body)

    async def read_lease(self, namespace: str, name: str, timeout_s: float) -> Body:
        """Return the Lease.

        Raises:
            NotFound: there is none.
        """
        return await self._connection.request("GET", _lease(namespace, name), timeout_s=timeout_s)

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
            return await self._connection.request("POST", path, body=body, timeout_s=timeout_s)
        # A merge patch, so that the labels of whoever made it stay; the version is still compared.
        return await self._connection.request(
            "PATCH", _lease(namespace, name), body=body, content_type=MERGE, timeout_s=timeout_s
        )

    async def watch_lease(
        self, namespace: str, name: str, silence_s: float
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield the types and objects of one watch of the Lease, until it ends or falls silent."""
        query = {"fieldSelector": f"metadata.name={name}"}
        async for event in self._connection.watch(_lease(namespace, ""), query, silence_s):
            yield event


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
