"""Renders the Job that prepares an avatar, and the NetworkPolicy of its pods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_operator import names
from avatar_operator.core.gpus.inventory import GPU_TOLERATION
from avatar_operator.core.manifests import container
from avatar_operator.core.manifests.objects import owned_metadata
from avatar_operator.core.manifests.pod import class_affinity, render_toleration
from avatar_operator.core.resources.avatar import (
    Avatar,
    AvatarSource,
    KeySource,
    UrlSource,
    VolumeImageSource,
)
from avatar_operator.core.resources.quantities import PARTS, Resources, complete
from avatar_operator.core.resources.sources import ClaimSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_operator.core.gpus.inventory import ClassStock
    from avatar_operator.core.manifests.pod import PodSettings
    from avatar_operator.core.resources.fields import Body

SOURCE: Final = "/source"
FETCHED: Final = "fetched"
"""Name of a downloaded file, before the extension of its URL."""
OUTPUT: Final = "/avatars"
MESSAGE_FILE: Final = "/dev/termination-log"
GRACE_S: Final = 15
"""The preparation stores what it has and ends when it gets SIGTERM."""

# Estimates: a process with torch and the CUDA libraries, the decoder and two worker threads, and
# frames in chunks of bounded size. A GPU of the class is requested besides.
USUAL: Final[Resources] = {
    "requests": {"cpu": "2", "memory": "4Gi"},
    "limits": {"memory": "12Gi"},
}
FETCH: Final[Resources] = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"cpu": "500m", "memory": "256Mi"},
}
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PreparationSettings:
    """Settings of the chart for all preparations."""

    per_class: int = 1
    """Preparations at once on each GPU class, and on CPUs."""
    hosts: tuple[str, ...] = ()
    """Hosts that URLs may name; `*.example.com` allows all hosts below it."""
    max_mib: int = 1024
    """Largest file that is downloaded, in MiB."""
    egress: Sequence[Mapping[str, object]] | None = None
    """Egress rules of pods that download a file; None if the operator creates no NetworkPolicy."""


def job(
    avatar: Avatar,
    name: str,
    attempt: int,
    stock: ClassStock | None,
    pods: PodSettings,
    settings: PreparationSettings,
) -> Body:
    """Render the Job of one attempt; `stock` is its GPU class, None for CPUs.

    `placement` and `template` of the avatar have the defaults of the chart already.
    """
    marks: dict[str, str] = {
        names.LABEL_NAME: names.PREPARATION_NAME,
        names.LABEL_INSTANCE: avatar.key.name,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_AVATAR: avatar.key.name,
        names.LABEL_SPEC_HASH: avatar.spec_hash,
        **({names.LABEL_GPU_CLASS: stock.gpu_class} if stock is not None else {}),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **owned_metadata(avatar, name, marks),
            "annotations": {names.ANNOTATION_ATTEMPT: str(attempt)},
        },
        "spec": {
            # One pod for each Job: the operator claims a GPU for each attempt.
            "backoffLimit": 0,
            "activeDeadlineSeconds": avatar.timeout_s,
            "template": {
                "metadata": {
                    "labels": dict(avatar.template.labels) | marks,
                    "annotations": dict(avatar.template.annotations),
                },
                "spec": _pod(avatar, stock, pods, settings),
            },
        },
    }


def network_policy(avatar: Avatar, name: str, egress: Sequence[Mapping[str, object]]) -> Body:
    """Render the NetworkPolicy of the pods of an avatar: no connections, except for downloads."""
    selected: dict[str, str] = {
        names.LABEL_NAME: names.PREPARATION_NAME,
        names.LABEL_AVATAR: avatar.key.name,
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(
            avatar, name, selected | {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
        ),
        "spec": {
            "podSelector": {"matchLabels": selected},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": list(egress) if isinstance(avatar.source, UrlSource) else [],
        },
    }


def _pod(
    avatar: Avatar, stock: ClassStock | None, pods: PodSettings, settings: PreparationSettings
) -> Body:
    template = avatar.template
    security = pods.defaults.security
    spec: Body = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": dict(security.pod),
        "nodeSelector": dict(avatar.placement.node_selector),
        "tolerations": [
            render_toleration(item)
            for item in (
                *((GPU_TOLERATION,) if stock is not None else ()),
                *avatar.placement.tolerations,
            )
        ],
        "containers": [_prepare(avatar, stock, pods)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
            _source_volume(avatar.source, settings),
            *container.volumes("models", avatar.model),
            *_writable(container.volumes("avatars", avatar.storage)),
        ],
    }
    if stock is not None:
        spec |= class_affinity(stock)
    if isinstance(avatar.source, UrlSource):
        spec["initContainers"] = [_fetch(avatar, avatar.source, pods, settings)]
    optional = {
        "imagePullSecrets": [{"name": secret} for secret in pods.image_pull_secrets],
        "serviceAccountName": template.service_account,
        "priorityClassName": template.priority_class,
        "runtimeClassName": template.runtime_class,
    }
    return spec | {key: value for key, value in optional.items() if value}


def _prepare(avatar: Avatar, stock: ClassStock | None, pods: PodSettings) -> Body:
    gpu: Resources = {}
    if stock is not None:
        gpu = {part: {stock.resource: "1"} for part in PARTS}
    model = container.folder_of("/models", avatar.model)
    arguments = [
        *("--message", MESSAGE_FILE),
        "--",
        *("--source", _literal(f"{SOURCE}/{_file(avatar.source)}")),
        *("--model", model),
        *("--out", f"{container.folder_of(OUTPUT, avatar.storage)}/{avatar.key.name}"),
        *("--version", avatar.version),
        f"--consent={_literal(avatar.consent)}",
        *((f"--disclosure={_literal(avatar.disclosure)}",) if avatar.disclosure else ()),
        *(part for option in avatar.options for part in option),
        *(part for option, path in avatar.detectors for part in (option, f"{model}/{path}")),
        *(("--device", "cpu") if stock is None else ()),
        "--force",
    ]
    variables: list[Mapping[str, object]] = [
        {"name": labels.ENV_LOG_FORMAT, "value": pods.log_format.value},
        # The last assignment of a name counts.
        *avatar.template.env,
    ]
    return {
        **_container(names.PREPARE_CONTAINER, avatar, pods),
        "command": ["avatar-runtime", "prepare-job"],
        "args": arguments,
        "env": variables,
        "resources": complete(gpu, avatar.template.resources, USUAL),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "source", "mountPath": SOURCE, "readOnly": True},
            *container.mounts("models", avatar.model),
            *_writable(container.mounts("avatars", avatar.storage)),
        ],
    }


def _fetch(
    avatar: Avatar, source: UrlSource, pods: PodSettings, settings: PreparationSettings
) -> Body:
    hosts = (part for host in settings.hosts for part in ("--allow-host", host))
    return {
        **_container(names.FETCH_CONTAINER, avatar, pods),
        "command": ["avatar-runtime", "fetch"],
        "args": [
            *("--url", _literal(source.url)),
            *("--sha256", source.sha256),
            *("--max-bytes", str(settings.max_mib * MIB)),
            *hosts,
            *("--out", f"{SOURCE}/{_file(source)}"),
            *("--message", MESSAGE_FILE),
        ],
        "resources": FETCH,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "source", "mountPath": SOURCE},
        ],
    }


def _container(name: str, avatar: Avatar, pods: PodSettings) -> Body:
    return {
        "name": name,
        "image": avatar.template.image or pods.image,
        "imagePullPolicy": avatar.template.image_pull_policy or pods.image_pull_policy,
        "terminationMessagePath": MESSAGE_FILE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": dict(pods.defaults.security.container),
    }


def _literal(text: str) -> str:
    """Return an argument in which the kubelet replaces no `$(NAME)` with a variable."""
    return text.replace("$", "$$")


def _file(source: AvatarSource) -> str:
    """Return the path of the source below its mount."""
    match source:
        case ClaimSource() | VolumeImageSource():
            return source.path
        case KeySource():
            return source.key
    name = source.url.partition("?")[0].rpartition("/")[2]
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    usable = extension.isascii() and extension.isalnum() and len(extension) <= 5
    return f"{FETCHED}.{extension}" if usable else FETCHED


def _source_volume(source: AvatarSource, settings: PreparationSettings) -> Body:
    match source:
        case ClaimSource():
            claim: Body = {"claimName": source.claim_name, "readOnly": True}
            return {"name": "source", "persistentVolumeClaim": claim}
        case VolumeImageSource():
            image: Body = {"reference": source.reference, "pullPolicy": source.pull_policy}
            return {"name": "source", "image": image}
        case UrlSource():
            return {"name": "source", "emptyDir": {"sizeLimit": f"{settings.max_mib + 16}Mi"}}
    # Optional, so that a missing object or key is an error of the container, which has a message:
    # the kubelet would wait for it without an end and without a trace in the status of the pod.
    items: Body = {"items": [{"key": source.key, "path": source.key}], "optional": True}
    if source.kind == "Secret":
        return {"name": "source", "secret": {"secretName": source.name, **items}}
    return {"name": "source", "configMap": {"name": source.name, **items}}


def _writable(parts: Sequence[Body]) -> list[Body]:
    """Return volumes or mounts without their read-only marks."""
    found: list[Body] = []
    for part in parts:
        kept = {key: value for key, value in part.items() if key != "readOnly"}
        claim = kept.get("persistentVolumeClaim")
        if isinstance(claim, dict):
            kept["persistentVolumeClaim"] = {"claimName": claim["claimName"]}
        found.append(kept)
    return found
