"""The only caller of the Kubernetes API, apart from kopf's watches.

It needs these rights; the chart grants exactly these:

    cluster-wide  nodes, pods, gpuprofiles             list watch
                  avatartenants                        list watch
                  namespaces                           list watch   (if an AvatarTenant selects
                                                                     them by their labels; kopf,
                                                                     with AVATAR_WATCH_NAMESPACES)
                  jobs                                 list watch
                  resourceslices, resourceclaims,
                  deviceclasses                        list watch   (if resource.k8s.io/v1 is
                                                                     served)
                  priorityclasses                      list         (while GPUs are short)
                  gpuprofiles/status                   patch
                  avatartenants/status                 patch
                  poddisruptionbudgets                 list watch
                  customresourcedefinitions            list watch   (kopf's discovery)
                                                       create patch (only `upgrade-crds`)
                                                       delete       (only `remove-crds`)
                  leases of other operators            get          (only if one manages a
                                                                     service)
    own namespace Secret AVATAR_CONTROL_SECRET         get create
                  Secret AVATAR_GATEWAY_SECRET         create patch
                  Lease AVATAR_LEASE                   get list watch create patch
    of services   avatars                              list watch patch (its finalizer)
    and avatars   avatars/status                       patch
                  avatars/finalizers                   update       (blockOwnerDeletion)
                  jobs                                 create delete
                  avatarservices                       list watch get
                  avatarservices avatars               delete       (only `uninstall --cleanup`)
                  avatarservices/status                patch
                  avatarservices/finalizers            update       (blockOwnerDeletion)
                  pods                                 create patch delete
                  poddisruptionbudgets                 create patch
                  secrets                              create patch
                  networkpolicies                      get create patch (only with
                                                                     AVATAR_NETWORK_POLICY)
                  resourceclaimtemplates               get create patch (only on nodes with a
                                                                         DRA driver)
                  events                               create

All writes except those of the Lease pass the fence: only a leader sends them, and they
end before its term ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from avatar_contracts.fields import Fields
from avatar_contracts.list_watch import read_page, watch_query
from avatar_operator import names
from avatar_operator.errors import Conflict, NotFound, Refused, TemporaryError
from avatar_operator.kube.connection import (
    APPLY,
    JSON_PATCH,
    MERGE,
    Connection,
    Credentials,
    load_configuration,
)
from avatar_operator.kube.owned_objects import OwnedObjects, read_by_list
from avatar_operator.kube.unread_secrets import UnreadSecrets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kubernetes.aio.client.configuration import Configuration

    from avatar_contracts.list_watch import Page
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import ServiceKey
    from avatar_operator.fence import Fence

LIST_TIMEOUT_S: Final = 60.0  # a page of 500 pods is some MB
PAGE_SIZE: Final = 500

PATHS: Final = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    names.PROFILES: f"/apis/{names.API_VERSION}/{names.PROFILES}",
    names.SERVICES: f"/apis/{names.API_VERSION}/{names.SERVICES}",
    names.AVATARS: f"/apis/{names.API_VERSION}/{names.AVATARS}",
    names.TENANTS: f"/apis/{names.API_VERSION}/{names.TENANTS}",
    "namespaces": "/api/v1/namespaces",
    "jobs": "/apis/batch/v1/jobs",
    "poddisruptionbudgets": "/apis/policy/v1/poddisruptionbudgets",
    "resourceslices": "/apis/resource.k8s.io/v1/resourceslices",
    "resourceclaims": "/apis/resource.k8s.io/v1/resourceclaims",
    "deviceclasses": "/apis/resource.k8s.io/v1/deviceclasses",
}
"""The list path of each watched kind, for all namespaces."""

PRIORITY_CLASSES: Final = "/apis/scheduling.k8s.io/v1/priorityclasses"


class KubernetesClient:
    """The requests of the operator to the API server, one method for each."""

    def __init__(self, configuration: Configuration, fence: Fence, identity: str) -> None:
        self._connection = Connection(configuration, fence, identity)
        self._send = self._connection.send
        self.owned = OwnedObjects(self._connection.send)
        """The PodDisruptionBudgets of services."""
        self.secrets = UnreadSecrets(self._connection.send)
        """The control Secrets of services."""

    @classmethod
    async def open(cls, fence: Fence, identity: str) -> Self:
        """Connect as the pod's ServiceAccount, or else with the kubeconfig."""
        return cls(await load_configuration(), fence, identity)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def credentials(self) -> Credentials:
        """Return the current credentials; tokens are renewed when they expire."""
        return await self._connection.credentials()

    async def list(self, path: str, selector: str = "") -> AsyncIterator[Page]:
        """Yield a list page by page.

        Raises:
            ClusterError: the list was not read to its end.
        """
        token = ""
        while True:
            query = {"limit": str(PAGE_SIZE)} | ({"continue": token} if token else {})
            query |= {"labelSelector": selector} if selector else {}
            document = await self._send("GET", path, query=query, timeout_s=LIST_TIMEOUT_S)
            try:
                page = read_page(document)
            except ValueError as error:
                raise TemporaryError(f"GET {path}", 200, str(error)) from error
            yield page
            token = page.token
            if not token:
                return

    async def serves(self, path: str) -> str:
        """Return "" if a collection is served and may be listed, else why not.

        Raises:
            TemporaryError: the API server did not answer.
        """
        try:
            await self._send("GET", path, query={"limit": "1"})
        except (NotFound, Refused) as error:
            return str(error)
        return ""

    async def watch(
        self, path: str, version: str, silence_s: float, selector: str = ""
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield the event types and objects of one watch after a version, until it ends.

        Raises:
            NotFound: the version is too old; a new list is needed.
        """
        query = watch_query(version, {"labelSelector": selector} if selector else {})
        async for event in self._connection.watch(path, query, silence_s):
            yield event

    async def priority_classes(self) -> dict[str, int]:
        """Return the values of all PriorityClasses by name; "" is the default class.

        Raises:
            ClusterError: the list was not read to its end.
        """
        found: dict[str, int] = {}
        async for page in self.list(PRIORITY_CLASSES):
            for item in page.items:
                fields = Fields(item, "", [])
                value = fields.integer("value", 0, -(2**31), 2**31)
                found[fields.child("metadata").text("name")] = value
                if fields.flag("globalDefault", False):
                    found[""] = value
        return found

    async def create_pod(self, body: Body) -> Body:
        """Create a pod and return it as stored.

        Raises:
            Conflict: a pod with this name exists.
        """
        return await self._send("POST", f"{_in(_namespace(body))}/pods", body=body)

    async def find_pod(self, namespace: str, name: str) -> Body | None:
        """Return the pod with this name as stored, None if it does not exist."""
        return await read_by_list(self._send, f"{_in(namespace)}/pods", name)

    async def delete_pod(self, namespace: str, name: str, uid: str, resource_version: str) -> Body:
        """Delete exactly this pod, gracefully, and only in this version.

        Raises:
            Conflict: the pod has another UID or another version.
            NotFound: the pod does not exist.
        """
        options = _only({"uid": uid, "resourceVersion": resource_version})
        return await self._send("DELETE", f"{_in(namespace)}/pods/{name}", body=options)

    async def patch_pod_metadata(
        self,
        namespace: str,
        name: str,
        uid: str,
        metadata: Body,
        resource_version: str | None = None,
    ) -> Body:
        """Change the metadata of exactly this pod, and only in this version if one is given.

        Returns the pod as stored.

        Raises:
            Conflict: the pod has another UID or another version.
            NotFound: the pod does not exist.
        """
        version = {} if resource_version is None else {"resourceVersion": resource_version}
        body: Body = {"metadata": {**metadata, "uid": uid, **version}}
        path = f"{_in(namespace)}/pods/{name}"
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._send("PATCH", path, body=body, query=query, content_type=MERGE)

    async def service_exists(self, key: ServiceKey, uid: str) -> bool:
        """Return whether exactly this service exists and is not being deleted."""
        group = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}/{names.SERVICES}"
        try:
            metadata = (await self._send("GET", f"{group}/{key.name}"))["metadata"]
        except NotFound:
            return False
        assert isinstance(metadata, dict)
        return metadata.get("uid") == uid and "deletionTimestamp" not in metadata

    async def read_secret(self, namespace: str, name: str) -> Body | None:
        """Return a Secret of the operator itself, None if it does not exist."""
        try:
            return await self._send("GET", f"{_in(namespace)}/secrets/{name}")
        except NotFound:
            return None

    async def create_secret(self, body: Body) -> Body:
        """Create a Secret and return it as stored.

        Raises:
            Conflict: a Secret with this name exists.
        """
        return await self._send("POST", f"{_in(_namespace(body))}/secrets", body=body)

    async def write_own_secret(self, body: Body) -> None:
        """Create a Secret of the operator itself, or replace its data if the operator made it.

        Raises:
            Refused: a Secret with this name exists that the operator did not make.
        """
        try:
            await self.create_secret(body)
        except Conflict:
            metadata = body["metadata"]
            assert isinstance(metadata, dict)
            path = f"{_in(_namespace(body))}/secrets/{metadata['name']}"
            await self._send("PATCH", path, body=_if_ours(body), content_type=JSON_PATCH)

    async def create_job(self, body: Body) -> Body:
        """Create a Job and return it as stored.

        Raises:
            Conflict: a Job with this name exists.
        """
        return await self._send("POST", _jobs(_namespace(body)), body=body)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this Job; it exists until its pods are gone.

        Raises:
            Conflict: the Job has another UID.
            NotFound: the Job does not exist.
        """
        options = _only({"uid": uid}, propagation="Foreground")
        await self._send("DELETE", f"{_jobs(namespace)}/{name}", body=options)

    async def set_finalizers(
        self, key: ServiceKey, uid: str, version: int, finalizers: Sequence[str]
    ) -> Body:
        """Replace the finalizers of an avatar in this version, and return the avatar as stored.

        Raises:
            Conflict: the avatar has another UID or another version.
            NotFound: the avatar does not exist.
        """
        metadata: Body = {
            "uid": uid,
            "resourceVersion": str(version),
            "finalizers": list(finalizers),
        }
        path = _avatar(key)
        query = {"fieldManager": names.FIELD_MANAGER}
        body: Body = {"metadata": metadata}
        return await self._send("PATCH", path, body=body, query=query, content_type=MERGE)

    async def apply_avatar_status(
        self, key: ServiceKey, uid: str, version: int, status: Body
    ) -> Body:
        """Write the status of an avatar and return the avatar as stored.

        Raises:
            Conflict: the avatar has another UID or another version.
            NotFound: the avatar does not exist.
        """
        identity = _identity(key, uid, version)
        return await self._apply_status(names.AVATAR_KIND, _avatar(key), identity, status)

    async def apply_status(self, key: ServiceKey, uid: str, version: int, status: Body) -> Body:
        """Write the status of a service and return the service as stored.

        Raises:
            Conflict: the service has another UID or another version.
            NotFound: the service does not exist.
        """
        group = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}/{names.SERVICES}"
        identity = _identity(key, uid, version)
        return await self._apply_status(names.SERVICE_KIND, f"{group}/{key.name}", identity, status)

    async def apply_profile_status(self, name: str, uid: str, version: int, status: Body) -> Body:
        """Write the status of a GPU profile and return the profile as stored.

        Raises:
            Conflict: the profile has another UID or another version.
            NotFound: the profile does not exist.
        """
        path = f"{PATHS[names.PROFILES]}/{name}"
        identity: Body = {"name": name, "uid": uid, "resourceVersion": str(version)}
        return await self._apply_status(names.PROFILE_KIND, path, identity, status)

    async def apply_tenant_status(self, name: str, uid: str, version: int, status: Body) -> Body:
        """Write the status of an AvatarTenant and return the tenant as stored.

        Raises:
            Conflict: the tenant has another UID or another version.
            NotFound: the tenant does not exist.
        """
        path = f"{PATHS[names.TENANTS]}/{name}"
        identity: Body = {"name": name, "uid": uid, "resourceVersion": str(version)}
        return await self._apply_status(names.TENANT_KIND, path, identity, status)

    async def _apply_status(self, kind: str, path: str, identity: Body, status: Body) -> Body:
        body: Body = {
            "apiVersion": names.API_VERSION,
            "kind": kind,
            "metadata": identity,
            "status": status,
        }
        path = f"{path}/status"
        return await self._send("PATCH", path, body=body, query=_MANAGER, content_type=APPLY)

    async def get_crd(self, name: str) -> Body | None:
        """Return a CustomResourceDefinition, None if it is not installed."""
        return await read_by_list(self._send, _CRDS, name)  # a right that kopf needs anyway

    async def apply_crd(self, body: Body) -> None:
        """Apply a CustomResourceDefinition and take all its fields over from other managers."""
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        path = f"{_CRDS}/{metadata['name']}"
        await self._send("PATCH", path, body=body, query=_MANAGER, content_type=APPLY)

    async def delete_crd(self, name: str) -> None:
        """Delete a CustomResourceDefinition, and with it all objects of its kind.

        Raises:
            NotFound: it does not exist.
        """
        await self._send("DELETE", f"{_CRDS}/{name}")

    async def delete_object(self, path: str, uid: str) -> None:
        """Delete exactly this object; what it owns is deleted after it.

        Raises:
            Conflict: the object has another UID.
            NotFound: the object does not exist.
        """
        options = _only({"uid": uid}, propagation="Background")
        await self._send("DELETE", path, body=options)

    async def create_event(self, body: Body) -> None:
        """Create an Event."""
        await self._send("POST", f"{_in(_namespace(body))}/events", body=body)

    async def read_lease(self, namespace: str, name: str, timeout_s: float) -> Body:
        """Return the Lease.

        Raises:
            NotFound: the Lease does not exist.
        """
        return await self._connection.request("GET", _lease(namespace, name), timeout_s=timeout_s)

    async def write_lease(self, body: Body, timeout_s: float) -> Body:
        """Change the Lease in the version that the body names; without a version, create it.

        Raises:
            Conflict: the Lease has another version, or exists already.
            NotFound: the Lease does not exist.
        """
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        namespace, name = str(metadata["namespace"]), str(metadata["name"])
        if "resourceVersion" not in metadata:
            path = _lease(namespace, "")
            return await self._connection.request("POST", path, body=body, timeout_s=timeout_s)
        # A merge patch keeps the labels that others set; the version is still compared.
        return await self._connection.request(
            "PATCH", _lease(namespace, name), body=body, content_type=MERGE, timeout_s=timeout_s
        )

    async def watch_lease(
        self, namespace: str, name: str, silence_s: float
    ) -> AsyncIterator[tuple[str, Body]]:
        """Yield the event types and objects of one watch of the Lease, until it ends.

        A watch that receives nothing for `silence_s` ends with an error.
        """
        query = {"watch": "1", "fieldSelector": f"metadata.name={name}"}
        async for event in self._connection.watch(_lease(namespace, ""), query, silence_s):
            yield event


_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_MANAGER: Final = {"fieldManager": names.FIELD_MANAGER, "force": "true"}


def _only(preconditions: Body, propagation: str | None = None) -> Body:
    """Return the options that delete an object only if it meets preconditions."""
    options: Body = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": preconditions,
    }
    return options if propagation is None else {**options, "propagationPolicy": propagation}


def _in(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}"


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def _identity(key: ServiceKey, uid: str, version: int) -> Body:
    """Return the metadata with which a write applies only to this version of this object."""
    return {
        "name": key.name,
        "namespace": key.namespace,
        "uid": uid,
        "resourceVersion": str(version),
    }


def _avatar(key: ServiceKey) -> str:
    group = f"/apis/{names.API_VERSION}/namespaces/{key.namespace}/{names.AVATARS}"
    return f"{group}/{key.name}"


def _lease(namespace: str, name: str) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    return f"{path}/{name}" if name else path


def _namespace(body: Body) -> str:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["namespace"])


def _if_ours(body: Body) -> list[Body]:
    """Return the JSON patch that replaces the data of an object if it has the operator's label."""
    label = names.LABEL_MANAGED_BY.replace("/", "~1")
    path = f"/metadata/labels/{label}"
    return [
        {"op": "test", "path": path, "value": names.FIELD_MANAGER},
        {"op": "add", "path": "/data", "value": body["data"]},
    ]
