"""Reads and writes the Secrets with API keys, for the commands of an administrator.

A running gateway only lists and watches these Secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts.documents import parse_object
from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubernetes.aio import client

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_TIMEOUT_S: Final = 15.0
_MAX_MESSAGE: Final = 300
_CONFLICT: Final = 409
TRIES: Final = 5
"""How often a change is tried if others change the Secret at the same time."""


def manifest(namespace: str, name: str, key_id: str, entry: str) -> Mapping[str, Any]:
    """Return a Secret with one entry only, to be applied beside the others."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {key_id: entry},
    }


def manager_of(key_id: str) -> str:
    """Return the field manager of an entry.

    Server-side apply removes what its manager applied before and does not apply now, so each entry
    has a manager of its own.
    """
    return f"avatar-gateway-keys-{key_id}"


class KeySecrets:
    """The Secrets of the namespace for keys."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def add(self, name: str, key_id: str, entry: str) -> None:
        """Add an entry to a Secret, which is created if it does not exist.

        Raises:
            KubernetesError: the API server refuses.
        """
        body = manifest(self._namespace, name, key_id, entry)
        query = {"fieldManager": manager_of(key_id)}
        await self._send("PATCH", name, body, query, _APPLY)

    async def get(self, name: str) -> Mapping[str, Any]:
        """Return a Secret.

        Raises:
            KubernetesError: it does not exist, or the API server refuses.
        """
        return await self._send("GET", name)

    async def list(self) -> list[Mapping[str, Any]]:
        """Return all Secrets of the namespace.

        Raises:
            KubernetesError: the API server refuses.
        """
        items = (await self._send("GET", "")).get("items")
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    async def change(self, name: str, version: str, key_id: str, entry: str | None) -> bool:
        """Replace an entry of a version of a Secret, or remove it (None).

        Returns:
            Whether nobody else changed the Secret since.

        Raises:
            KubernetesError: the API server refuses.
        """
        content = {"data": {key_id: None}} if entry is None else {"stringData": {key_id: entry}}
        body = {"metadata": {"resourceVersion": version}, **content}
        try:
            await self._send("PATCH", name, body, {"fieldManager": "avatar-gateway"}, _MERGE)
        except errors.KubernetesError as error:
            if error.status == _CONFLICT:
                return False
            raise
        return True

    async def _send(
        self,
        method: str,
        name: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        suffix = f"/{name}" if name else ""
        path = f"/api/v1/namespaces/{self._namespace}/secrets{suffix}"
        verb, url, headers, *_ = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            answer = await self._api.rest_client.request(
                verb, url, headers, body=body, _request_timeout=timeout
            )
            response: aiohttp.ClientResponse = answer.response
            async with response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise errors.KubernetesError(0, f"{type(error).__name__}: {error}") from error
        try:
            document = parse_object(content)
        except ValueError:
            document = {}
        if response.status >= 300:
            message = str(document.get("message", response.reason))[:_MAX_MESSAGE]
            raise errors.KubernetesError(response.status, message)
        return document
