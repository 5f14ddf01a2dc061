"""Writes the control Secrets of services without the right to read any Secret.

What a Secret must contain follows from the master key, so the operator never needs to know what a
stored Secret contains. A change is a JSON patch whose first operations test that the object belongs
to the service: the API server applies all operations or none, and it answers a failed test without
the object. Whether a Secret is correct is asked with a dry run of such tests, so that nothing is
written at rest. RBAC cannot restrict `get` to the operator's own Secrets, so the operator does not
have this right (docs/decisions/0026-keys-and-rights.md).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.fields import Fields
from avatar_operator import names
from avatar_operator.errors import Conflict, NameTaken, NotFound, Refused
from avatar_operator.kube.connection import JSON_PATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_contracts.owners import Owner
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.kube.owned_objects import Send

FOREIGN: Final = "is not an object of the operator"
"""Part of the message with which the admission policy of the chart refuses a write."""

_LABEL: Final = "/metadata/labels/" + names.LABEL_MANAGED_BY.replace("/", "~1")
_MANAGER: Final = {"fieldManager": names.FIELD_MANAGER}


@dataclass(frozen=True, slots=True)
class Written:
    """The control Secret of a service."""

    name: str
    taken: tuple[str, ...]
    """Other names of it, which objects of others have."""
    changed: bool
    """Whether anything was written."""


class UnreadSecrets:
    """Writes Secrets that it does not read."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def write(
        self, rendered: Body, candidates: Sequence[str], service: Owner, *, is_new: bool = False
    ) -> Written:
        """Write the Secret of a service under the first name that it can have.

        For a new service the Secret is created without a check whether it exists.

        The own Secret is used even if a name before it has become free, because pods mount it. A
        Secret of an earlier service of the same name is not reported: it is about to be deleted.

        Raises:
            NameTaken: Secrets of others have all these names.
            Conflict: another Secret got the name meanwhile.
        """
        namespace = Fields(rendered.get("metadata"), "", []).text("namespace")
        if is_new:
            with contextlib.suppress(Conflict):  # a Secret with this name exists
                await self._create(rendered, namespace, candidates[0])
                return Written(candidates[0], (), changed=True)
        free = ""
        taken: list[str] = []
        for name in candidates:
            try:
                changed = await self._replace(namespace, name, service.uid, rendered["data"])
            except NotFound:
                free = free or name
            except Refused as error:
                if not _is_foreign(error):
                    raise
                if not await self._is_left_behind(namespace, name, service):
                    taken.append(name)
            else:
                return Written(name, tuple(taken), changed)
        if not free:
            raise NameTaken("Secret", namespace, candidates)
        await self._create(rendered, namespace, free)
        return Written(free, tuple(taken), changed=True)

    async def _create(self, rendered: Body, namespace: str, name: str) -> None:
        named = {**rendered, "metadata": {**_mapping(rendered["metadata"]), "name": name}}
        await self._send("POST", _path(namespace), body=named, query=_MANAGER)

    async def add_owner(self, namespace: str, name: str, uid: str, owner: Body) -> None:
        """Add an owner to the Secret of the service with this UID: it exists as long as the owner.

        Raises:
            NotFound: there is no such Secret.
            Refused: the Secret belongs to others.
        """
        added: Body = {"op": "add", "path": "/metadata/ownerReferences/-", "value": owner}
        await self._patch(namespace, name, uid, added)

    async def _replace(self, namespace: str, name: str, uid: str, data: object) -> bool:
        """Replace the data of the own Secret if it differs; return whether it did."""
        try:
            await self._patch(namespace, name, uid, _test("/data", data), dry_run=True)
        except Refused as error:
            if not _is_foreign(error):
                raise
        else:
            return False
        await self._patch(namespace, name, uid, {"op": "add", "path": "/data", "value": data})
        return True

    async def _is_left_behind(self, namespace: str, name: str, service: Owner) -> bool:
        """Return whether a Secret belongs to an earlier service with this name."""
        owner = "/metadata/ownerReferences/0"
        tests = [
            _test(_LABEL, names.FIELD_MANAGER),
            _test(f"{owner}/kind", names.SERVICE_KIND),
            _test(f"{owner}/name", service.name),
        ]
        try:
            await self._send_patch(namespace, name, tests, dry_run=True)
        except (NotFound, Refused):
            return False
        return True

    async def _patch(
        self, namespace: str, name: str, uid: str, change: Body, *, dry_run: bool = False
    ) -> None:
        """Change a Secret if it has the label of the operator and the service owns it."""
        ours = [_test(_LABEL, names.FIELD_MANAGER), _test("/metadata/ownerReferences/0/uid", uid)]
        await self._send_patch(namespace, name, [*ours, change], dry_run=dry_run)

    async def _send_patch(
        self, namespace: str, name: str, body: list[Body], *, dry_run: bool
    ) -> None:
        path, query = _path(namespace, name), _MANAGER | ({"dryRun": "All"} if dry_run else {})
        await self._send("PATCH", path, body=body, query=query, content_type=JSON_PATCH)


def _test(path: str, value: object) -> Body:
    return {"op": "test", "path": path, "value": value}


def _is_foreign(error: Refused) -> bool:
    """Return whether a write was refused because the object belongs to others."""
    return error.status == HTTPStatus.UNPROCESSABLE_ENTITY or FOREIGN in error.message


def _path(namespace: str, name: str = "") -> str:
    collection = f"/api/v1/namespaces/{namespace}/secrets"
    return f"{collection}/{name}" if name else collection


def _mapping(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value
