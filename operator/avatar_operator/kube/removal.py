"""Reports, and on request removes, what an uninstall would leave: the chart's hooks run it.

Services are deleted while the operator still runs. Kubernetes then deletes their pods, each of
which waits for its sessions; Avatars follow, because the operator removes their finalizers.
Nothing here ends a session: after the deadline the command fails, and the pods still serve.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core import removal
from avatar_operator.errors import ClusterError, NotFound, NotRemoved
from avatar_operator.fence import Fence
from avatar_operator.kube import crds
from avatar_operator.kube.client import KubernetesClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from avatar_operator.core.removal import Remaining
    from avatar_operator.core.resources.fields import Body

POLL_S: Final = 2.0
SELECTOR: Final = (
    f"{names.LABEL_NAME}={names.RUNTIME_NAME},{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
)
_RESOURCES: Final = {names.SERVICE_KIND: names.SERVICES, names.AVATAR_KIND: names.AVATARS}
_GROUP: Final = f"/apis/{names.API_VERSION}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose objects are meant."""

    installation: str
    """NAMESPACE/LEASE of the operator."""

    namespaces: tuple[str, ...] = ()
    """Empty means all."""


@dataclass(frozen=True, slots=True)
class View:
    """What one look at the cluster found."""

    own: tuple[Remaining, ...]
    pods: int


async def run(scope: Scope, cleanup_s: float | None) -> AsyncIterator[str]:
    """Connect as the pod's ServiceAccount or with the kubeconfig; `report`, or `clean_up`."""
    async with await _connect() as api:
        steps = report(api, scope) if cleanup_s is None else clean_up(api, scope, cleanup_s)
        async for sentence in steps:
            yield sentence


async def run_crds() -> AsyncIterator[str]:
    """Connect, and `remove_crds`."""
    async with await _connect() as api:
        async for sentence in remove_crds(api):
            yield sentence


async def _connect() -> KubernetesClient:
    fence = Fence()
    fence.open_until(inf, epoch=0)  # it writes no object that the leader writes
    return await KubernetesClient.open(fence, "uninstall")


async def report(api: KubernetesClient, scope: Scope) -> AsyncIterator[str]:
    """Yield what stays in the cluster. An error is a sentence: a notice stops no uninstall."""
    try:
        view = await _look(api, scope)
    except ClusterError as error:
        yield f"cannot list what stays in the cluster: {error}"
        return
    for sentence in removal.notice(view.own, view.pods):
        yield sentence


async def clean_up(api: KubernetesClient, scope: Scope, within_s: float) -> AsyncIterator[str]:
    """Delete the services, wait for their pods, then delete the Avatars; yield the progress.

    Raises:
        NotRemoved: objects or pods are left after `within_s`; what was deleted stays deleted.
        ClusterError: the API server refused a request.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    for kind in (names.SERVICE_KIND, names.AVATAR_KIND):
        async for sentence in _delete(api, scope, kind):
            yield sentence
        while True:
            view = await _look(api, scope)
            left = tuple(each for each in view.own if each.kind == kind)
            if not left and not view.pods:
                break
            if loop.time() >= deadline:
                raise NotRemoved(tuple(str(each) for each in left), view.pods, within_s)
            await asyncio.sleep(POLL_S)
    yield "all AvatarServices and Avatars and their pods are gone"


async def remove_crds(api: KubernetesClient) -> AsyncIterator[str]:
    """Delete the CRDs of this release, and with them every object of their kinds."""
    for body in crds.bundled():
        name = crds.name_of(body)
        try:
            await api.delete_crd(name)
        except NotFound:
            continue
        yield f"{name} deleted"


async def _delete(api: KubernetesClient, scope: Scope, kind: str) -> AsyncIterator[str]:
    view = await _look(api, scope)
    for each in view.own:
        if each.kind != kind or each.is_deleted:
            continue
        path = f"{_GROUP}/namespaces/{each.namespace}/{_RESOURCES[kind]}/{each.name}"
        try:
            await api.delete_object(path, each.uid)
        except NotFound:
            continue
        note = ", its pods wait for their sessions" if kind == names.SERVICE_KIND else ""
        yield f"{each}: deleted{note}"


async def _look(api: KubernetesClient, scope: Scope) -> View:
    found = [
        removal.read(kind, body)
        for kind, resource in _RESOURCES.items()
        for body in await _list(api, _GROUP, resource, scope)
    ]
    pods = await _list(api, "/api/v1", "pods", scope, SELECTOR)
    own = removal.select(found, scope.installation)
    return View(own, removal.count_pods(pods, found, scope.installation))


async def _list(
    api: KubernetesClient, group: str, resource: str, scope: Scope, selector: str = ""
) -> list[Body]:
    """Return the objects of a kind in the namespaces; none if the kind does not exist."""
    paths = [f"{group}/namespaces/{namespace}/{resource}" for namespace in scope.namespaces]
    found: list[Body] = []
    for path in paths or [f"{group}/{resource}"]:
        try:
            async for page in api.list(path, selector):
                found += page.items
        except NotFound:
            continue
    return found
