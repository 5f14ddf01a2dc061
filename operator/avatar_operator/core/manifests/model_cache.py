"""Renders the init containers that download models and avatars, and the volume of their cache.

The files are verified by an init container of the operator's own image, which alone may write to
the cache: the image of a service may be that of its author, and other services share the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import documents, labels
from avatar_operator import names
from avatar_operator.core.resources.sources import DownloadSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.quantities import Resources
    from avatar_operator.core.resources.service import Service

FOLDER: Final = "/model-cache"
MIB: Final = 1024 * 1024
HIGHEST_MIB: Final = 10_000_000
VOLUME_KINDS: Final = ("emptyDir", "hostPath", "persistentVolumeClaim")
MESSAGE_FILE: Final = "/dev/termination-log"
# Hashing a file takes one core; what is read and written stays in the page cache of the node.
RESOURCES: Final[Resources] = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "2", "memory": "1Gi"},
}


@dataclass(frozen=True, slots=True)
class ModelCache:
    """Settings of the chart for everything that pods download."""

    volume: Mapping[str, object] = field(default_factory=lambda: {"emptyDir": {}})
    """A volume source of Kubernetes, one of `VOLUME_KINDS`."""
    max_mib: int = 20 * 1024
    """What the files of all models in the volume may take, in MiB."""
    hosts: tuple[str, ...] = ()
    """Hosts that URLs may name; `*.example.com` allows all public hosts below it."""
    egress: Sequence[Mapping[str, object]] = ()
    """Rules for the NetworkPolicy of services that download."""


def sources(service: Service) -> dict[str, DownloadSource]:
    """Return what the pods of a service download, by the name of its mount."""
    given = {"models": service.model.source, "avatars": service.avatar_source}
    return {name: each for name, each in given.items() if isinstance(each, DownloadSource)}


def mount(source: DownloadSource, path: str) -> Body:
    """Render the mount of the files of one source, without those of other services."""
    return {
        "name": names.CACHE_VOLUME,
        "mountPath": path,
        "subPath": f"{source.sha256}/files",
        "readOnly": True,
    }


def volumes(service: Service, cache: ModelCache) -> list[Body]:
    """Render the volume of the cache; none if nothing is downloaded."""
    if not sources(service):
        return []
    volume = dict(cache.volume)
    if "emptyDir" in volume:
        own = volume["emptyDir"]
        given = own if isinstance(own, Mapping) else {}
        # The init container refuses what is too large; beyond this the kubelet evicts the pod.
        volume["emptyDir"] = {"sizeLimit": f"{cache.max_mib + 64}Mi", **given}
    return [{"name": names.CACHE_VOLUME, **volume}]


def init_containers(
    service: Service, cache: ModelCache, image: str, pull_policy: str, log_format: labels.LogFormat
) -> list[Body]:
    """Render an init container for each source that is downloaded."""
    return [
        {
            "name": f"{names.CACHE_CONTAINER_PREFIX}{name}",
            "image": image,
            "imagePullPolicy": pull_policy,
            "command": ["avatar-runtime", "cache-model"],
            "args": _arguments(source, cache),
            "env": [
                {"name": labels.ENV_LOG_FORMAT, "value": log_format.value},
                *_credentials(source),
            ],
            "resources": RESOURCES,
            "volumeMounts": [
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": names.CACHE_VOLUME, "mountPath": FOLDER},
            ],
            "terminationMessagePath": MESSAGE_FILE,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": dict(service.security.container),
        }
        for name, source in sources(service).items()
    ]


def rules_with_egress(
    rules: Mapping[str, object], service: Service, cache: ModelCache
) -> Mapping[str, object]:
    """Return the rules of the NetworkPolicy of a service, with those that downloads need."""
    egress = rules["egress"]
    if not sources(service) or not cache.egress or not isinstance(egress, list):
        return rules
    return {**rules, "egress": [*egress, *(rule for rule in cache.egress if rule not in egress)]}


def parse_volume(text: str) -> Mapping[str, object]:
    """Return the volume source in a JSON object.

    Raises:
        ValueError: the text is anything else.
    """
    volume = documents.parse_object(text)
    if len(volume) != 1:
        raise ValueError(text)
    kind, body = next(iter(volume.items()))
    if kind not in VOLUME_KINDS or not isinstance(body, dict):
        raise ValueError(text)
    return volume


def _arguments(source: DownloadSource, cache: ModelCache) -> list[str]:
    hosts = (part for host in cache.hosts for part in ("--allow-host", host))
    return [
        *("--url", source.url.replace("$", "$$")),  # the kubelet expands $(NAME)
        *("--sha256", source.sha256),
        *("--max-bytes", str(cache.max_mib * MIB)),
        *("--cache", FOLDER),
        *hosts,
    ]


def _credentials(source: DownloadSource) -> list[Body]:
    if not source.credentials:
        return []
    key = {"name": source.credentials, "key": "authorization"}
    return [{"name": labels.ENV_DOWNLOAD_AUTHORIZATION, "valueFrom": {"secretKeyRef": key}}]
