"""Renders what a pod needs of `spec.upstream`: the endpoints, and the Secrets with their keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_contracts.upstream import KeySource, SecretKey, endpoints, render
from avatar_operator import names

if TYPE_CHECKING:
    from avatar_contracts.upstream import Upstream
    from avatar_operator.core.resources.fields import Body

_FOLDER: Final = "/var/run/avatar-upstream-keys"


def environment(upstream: Upstream | None) -> list[Body]:
    """Render the variables of the container; none in mode drive.

    A key is also a variable, because the kubelet reports a missing Secret of a variable in the
    status of the pod, and a missing one of a volume in an Event only.
    """
    if upstream is None:
        return []
    keys = _secret_keys(upstream)
    sources = {leg: KeySource(labels.ENV_UPSTREAM_KEYS[leg], f"{_FOLDER}/{leg}") for leg in keys}
    document = json.dumps(render(upstream, sources), separators=(",", ":"), sort_keys=True)
    variables: list[Body] = [
        {
            "name": labels.ENV_UPSTREAM_KEYS[leg],
            "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}},
        }
        for leg, key in keys.items()
    ]
    return [{"name": labels.ENV_UPSTREAM, "value": _escape(document)}, *variables]


def volumes(upstream: Upstream | None) -> list[Body]:
    """Render the volume with the keys; the kubelet updates its files when a Secret changes."""
    keys = _secret_keys(upstream)
    if not keys:
        return []
    sources = [
        {
            "secret": {
                "name": key.name,
                "items": [{"key": key.key, "path": leg}],
                "optional": True,  # the variable reports a missing key
            }
        }
        for leg, key in keys.items()
    ]
    return [{"name": names.UPSTREAM_VOLUME, "projected": {"sources": sources}}]


def mounts(upstream: Upstream | None) -> list[Body]:
    """Render the mount of the volume with the keys, none without keys."""
    if not _secret_keys(upstream):
        return []
    return [{"name": names.UPSTREAM_VOLUME, "mountPath": _FOLDER, "readOnly": True}]


def _secret_keys(upstream: Upstream | None) -> dict[str, SecretKey]:
    return {
        leg: endpoint.key
        for leg, endpoint in endpoints(upstream).items()
        if isinstance(endpoint.key, SecretKey)
    }


def _escape(value: str) -> str:
    """Return a value that the kubelet does not expand: `$(NAME)` would be a variable."""
    return value.replace("$(", "$$(")
