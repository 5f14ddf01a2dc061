"""Writes the objects of services besides pods and Secrets, and never an object of somebody else.

Each write has a condition that the API server checks: a creation fails if the name exists, and a
change fails unless the object still has the UID and the version in which it was seen to belong to
the service. There is no deletion: the garbage collector deletes what a deleted service owns.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from avatar_operator import names
from avatar_operator.core.manifests import ownership
from avatar_operator.errors import Conflict, FieldConflict, NameTaken, NotFound, TemporaryError
from avatar_operator.kube.connection import APPLY, JSON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_contracts.owners import Owner
    from avatar_operator.core.resources.fields import Body


class ObjectKind(Enum):
    """The kinds of these objects, by their prefix of the API; `unread_secrets` writes Secrets."""

    PDB = "PodDisruptionBudget", "/apis/policy/v1", "poddisruptionbudgets"
    NETWORK_POLICY = "NetworkPolicy", "/apis/networking.k8s.io/v1", "networkpolicies"
    CLAIM_TEMPLATE = "ResourceClaimTemplate", "/apis/resource.k8s.io/v1", "resourceclaimtemplates"

    def __init__(self, kind: str, prefix: str, resource: str) -> None:
        self.kind = kind
        self.prefix = prefix
        self.resource = resource

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of an object, or of the collection in a namespace."""
        group = f"{self.prefix}/namespaces/{namespace}/{self.resource}"
        return f"{group}/{name}" if name else group


class Send(Protocol):
    """Sends one request; see `Connection.send`."""

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        body: Body | list[Body] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> Body: ...


class OwnedObjects:
    """Reads and writes the objects of services."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def find(
        self, kind: ObjectKind, namespace: str, candidates: Sequence[str], service: Owner
    ) -> ownership.Choice:
        """Return the object of a service, or the name for a new one.

        Raises:
            NameTaken: objects of others have all these names.
        """
        found: list[tuple[str, Body | None]] = []
        for name in candidates:
            stored = await self._read(kind, namespace, name)
            found.append((name, stored))
            if stored is not None and ownership.belongs_to(stored, service.uid, service.kind):
                break
        choice = ownership.choose(found, service)
        if choice is None:
            raise NameTaken(kind.kind, namespace, candidates)
        return choice

    async def write(self, kind: ObjectKind, rendered: Body, stored: Body | None) -> Body | None:
        """Create the object, or change the stored one if it differs.

        Returns the object as stored, None if nothing was written.

        Raises:
            Conflict: another object has the name meanwhile, or the stored object has changed.
            FieldConflict: another manager applies one of the fields and would do so again.
        """
        metadata = rendered["metadata"]
        assert isinstance(metadata, dict)
        namespace, name = str(metadata["namespace"]), str(metadata["name"])
        if stored is None:
            path = kind.path(namespace)
            return await self._send("POST", path, body=rendered, query=_UNFORCED)
        if not ownership.differs(stored, rendered):
            return None
        seen: Body = {**rendered, "metadata": {**metadata, **ownership.identity(stored)}}
        return await self._apply(kind.path(namespace, name), seen)

    async def _read(self, kind: ObjectKind, namespace: str, name: str) -> Body | None:
        if kind is ObjectKind.PDB:  # a list, a right that the watch needs anyway
            return await read_by_list(self._send, kind.path(namespace), name)
        try:
            return await self._send("GET", kind.path(namespace, name))
        except NotFound:
            return None

    async def _apply(self, path: str, body: Body) -> Body:
        """Apply an object of the operator: overwrite manual edits, respect other appliers."""
        try:
            return await self._send("PATCH", path, body=body, query=_UNFORCED, content_type=APPLY)
        except Conflict as error:
            appliers = _APPLIED_BY.findall(error.message)
            if not _EDITED_BY.search(error.message) and not appliers:
                raise  # not a conflict of field managers
            if appliers:
                raise FieldConflict(f"PATCH {path}", error.status, error.message) from error
            forced = {**_UNFORCED, "force": "true"}
            return await self._send("PATCH", path, body=body, query=forced, content_type=APPLY)


async def read_by_list(send: Send, path: str, name: str) -> Body | None:
    """Return one object of a collection with the right to list it, None if it does not exist."""
    page = await send("GET", path, query={"fieldSelector": f"metadata.name={name}"})
    items = page.get("items")
    if not isinstance(items, list):
        raise TemporaryError(f"GET {path}", 200, "the response is not a list")
    return items[0] if items else None


# The API server names the manager that applied a field; for an edit it adds how and when.
_APPLIED_BY: Final = re.compile(r'conflicts? with "([^"]+)":')
_EDITED_BY: Final = re.compile(r'conflicts? with "([^"]+)" using ')
_UNFORCED: Final = {"fieldManager": names.FIELD_MANAGER}
