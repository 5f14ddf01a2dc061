"""Resolves the environment and the command line of a container to those of a process.

The rules are those of the kubelet: https://kubernetes.io/docs/tasks/inject-data-application/ and
k8s.io/kubernetes/third_party/forked/golang/expansion for `$(NAME)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from .errors import ConfigError
from .nodes_file import GPU_RESOURCE, quantity

Manifest = Mapping[str, Any]  # as the API server returned it
REFERENCE: Final = re.compile(r"\$(?:\$|\(([^)]*)\))")
FIELD_WITH_KEY: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
ANY_ADDRESS: Final = re.compile(r"(?<![\d.])0\.0\.0\.0(?!\.?\d|/\d)")


@dataclass(frozen=True, slots=True)
class Source:
    """A Secret or ConfigMap in the pod's namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod runs: the values of the downward API that are not in the manifest."""

    pod_ip: str
    host_ip: str
    allocatable: Mapping[str, str]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by its value; unknown names stay unchanged, `$$` becomes `$`."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return REFERENCE.sub(one, text)


def bind_to(text: str, address: str) -> str:
    """Replace the wildcard address by `address`, so that each pod has its own ports.

    A prefix such as 0.0.0.0/0 and longer numbers stay unchanged.
    """
    return ANY_ADDRESS.sub(address, text)


def field_value(path: str, pod: Manifest, place: Place) -> str:
    """Return the value of a `fieldRef`.

    Raises:
        ConfigError: the downward API does not have the field.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if match := FIELD_WITH_KEY.fullmatch(path):
        return str((meta.get(match[1]) or {}).get(match[2], ""))
    values = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": place.pod_ip,
        "status.podIPs": place.pod_ip,
        "status.hostIP": place.host_ip,
        "status.hostIPs": place.host_ip,
    }
    if path not in values:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return str(values[path])


def resource_value(ref: Manifest, container: Manifest, place: Place) -> str:
    """Return the value of a `resourceFieldRef`, rounded up to whole divisors.

    The default of a limit is the capacity of the node, as in the kubelet.
    """
    kind, _, resource = str(ref["resource"]).partition(".")
    stated = ((container.get("resources") or {}).get(kind) or {}).get(resource)
    if stated is None:
        stated = place.allocatable.get(resource, "0") if kind == "limits" else "0"
    divisor = quantity(str(ref.get("divisor") or "1")) or Decimal(1)
    return str((quantity(str(stated)) / divisor).to_integral_value(ROUND_CEILING))


def sources(container: Manifest) -> frozenset[Source]:
    """Return the Secrets and ConfigMaps that the environment of a container references."""
    return frozenset(_sources(container))


def _sources(container: Manifest) -> Iterator[Source]:
    for item in container.get("envFrom") or ():
        if ref := item.get("secretRef"):
            yield Source("Secret", ref["name"])
        if ref := item.get("configMapRef"):
            yield Source("ConfigMap", ref["name"])
    for item in container.get("env") or ():
        origin = item.get("valueFrom") or {}
        if ref := origin.get("secretKeyRef"):
            yield Source("Secret", ref["name"])
        if ref := origin.get("configMapKeyRef"):
            yield Source("ConfigMap", ref["name"])


def environment(
    container: Manifest,
    pod: Manifest,
    place: Place,
    data: Mapping[Source, Mapping[str, str] | None],
    base: Mapping[str, str],
) -> dict[str, str]:
    """Return a container's environment on top of `base` (image and device plugin).

    `data` has each of `sources(container)`, None for one that does not exist.

    Raises:
        ConfigError: a required value is missing; the message is that of the kubelet.
    """
    result = dict(base)
    own: dict[str, str] = {}
    for item in container.get("envFrom") or ():
        own.update(_whole_source(item, pod, data))
    for item in container.get("env") or ():
        name, origin = item["name"], item.get("valueFrom")
        if not origin:
            own[name] = expand(str(item.get("value") or ""), own)
        elif ref := origin.get("fieldRef"):
            own[name] = field_value(ref["fieldPath"], pod, place)
        elif ref := origin.get("resourceFieldRef"):
            own[name] = resource_value(ref, container, place)
        else:
            kind = "Secret" if "secretKeyRef" in origin else "ConfigMap"
            ref = origin.get("secretKeyRef") or origin["configMapKeyRef"]
            value = _key(Source(kind, ref["name"]), ref, pod, data)
            if value is not None:
                own[name] = value
    return result | own


def _whole_source(
    item: Manifest, pod: Manifest, data: Mapping[Source, Mapping[str, str] | None]
) -> dict[str, str]:
    kind = "Secret" if "secretRef" in item else "ConfigMap"
    ref = item.get("secretRef") or item["configMapRef"]
    values = _existing(Source(kind, ref["name"]), ref, data) or {}
    return {str(item.get("prefix") or "") + key: value for key, value in values.items()}


def _key(
    source: Source,
    ref: Manifest,
    pod: Manifest,
    data: Mapping[Source, Mapping[str, str] | None],
) -> str | None:
    values = _existing(source, ref, data)
    if values is None:
        return None
    if ref["key"] not in values and not ref.get("optional"):
        owner = f"{pod['metadata']['namespace']}/{source.name}"
        raise ConfigError(f"couldn't find key {ref['key']} in {source.kind} {owner}")
    return values.get(ref["key"])


def _existing(
    source: Source, ref: Manifest, data: Mapping[Source, Mapping[str, str] | None]
) -> Mapping[str, str] | None:
    values = data[source]
    if values is None and not ref.get("optional"):
        raise ConfigError(f'{source.kind.lower()} "{source.name}" not found')
    return values


def words(
    container: Manifest, entry_point: tuple[str, ...], env: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the command line: the command or the image's entry point, then the args.

    Raises:
        ConfigError: both are missing.
    """
    command = tuple(container.get("command") or entry_point)
    if not command:
        raise ConfigError("no command specified")
    return tuple(expand(str(word), env) for word in (*command, *(container.get("args") or ())))


def wants_gpu(container: Manifest) -> bool:
    """Return whether a container requests a GPU, as a resource or by a claim."""
    resources = container.get("resources") or {}
    if resources.get("claims"):
        return True
    stated = (resources.get("limits") or resources.get("requests") or {}).get(GPU_RESOURCE, "0")
    return quantity(str(stated)) > 0
