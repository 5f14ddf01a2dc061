"""Renders the runtime container: arguments, environment, probes and mounts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.resources.service import (
    DECODER,
    PRECISION,
    ClaimSource,
    HostPathSource,
    ImageSource,
    Service,
    Source,
)

if TYPE_CHECKING:
    from avatar_operator.core.gpus.pools import Pool

Body = dict[str, object]

START_TIMEOUT_S: Final = 1200
"""Time that a pod may load its model before it is restarted: tens of GB from cold storage."""


def runtime(
    service: Service,
    pool: Pool,
    image: str,
    pull_policy: str,
    *,
    metrics_open: bool,
) -> Body:
    """Render the container; `image` and `pull_policy` apply unless the service sets its own."""
    assert isinstance(pool.outcome, batch_size.BatchPlan)
    plan = pool.outcome
    template = service.template
    resources = {
        part: {**template.resources.get(part, {}), pool.stock.resource: "1"}
        for part in ("requests", "limits")
    }
    ready = {"path": "/readyz", "port": "sessions"}
    return {
        "name": names.CONTAINER,
        "image": template.image or image,
        "imagePullPolicy": template.image_pull_policy or pull_policy,
        "command": ["avatar-runtime", "serve"],
        "args": [
            *("--model", _folder("/models", service.model.source)),
            *("--avatars", _folder("/avatars", service.avatar_source)),
            *("--batch-size", str(plan.batch_size)),
            *("--listen", f"0.0.0.0:{names.SESSIONS_PORT}"),
            *("--admin", f"0.0.0.0:{names.ADMIN_PORT}"),
        ],
        "env": [*_environment(service, pool, plan, metrics_open=metrics_open), *template.env],
        "ports": [
            {"name": "sessions", "containerPort": names.SESSIONS_PORT},
            {"name": "admin", "containerPort": names.ADMIN_PORT},
        ],
        "resources": resources,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            *_mounts("models", service.model.source),
            *_mounts("avatars", service.avatar_source),
            *template.volume_mounts,
        ],
        "startupProbe": {
            "httpGet": ready,
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": START_TIMEOUT_S,
        },
        "readinessProbe": {"httpGet": ready, "periodSeconds": 2, "timeoutSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "sessions"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # conditions quote the last line
        "lifecycle": {"preStop": {"exec": {"command": ["avatar-runtime", "drain", "--wait"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment(
    service: Service, pool: Pool, plan: batch_size.BatchPlan, *, metrics_open: bool
) -> list[Body]:
    limits = service.sessions
    values = {
        "AVATAR_SERVICE": str(service.key),
        "AVATAR_GPU_CLASS": pool.gpu_class,
        "AVATAR_GPU_PROFILE": _profile(pool),
        "AVATAR_MODEL_VERSION": service.model.version,
        "AVATAR_CAPACITY": str(plan.sessions_per_pod),
        "AVATAR_AVATARS": ",".join(service.avatars),
        "AVATAR_FPS": str(service.fps),
        "AVATAR_MAX_DURATION_S": str(limits.max_duration_s),
        "AVATAR_IDLE_TIMEOUT_S": str(limits.idle_timeout_s),
        "AVATAR_DRAIN_TIMEOUT_S": str(limits.drain_timeout_s),
    }
    # Defaults are left out, so that a device other than a GPU can use its own.
    if service.model.decoder != DECODER:
        values["AVATAR_DECODER"] = service.model.decoder
    if service.model.precision != PRECISION:
        values["AVATAR_PRECISION"] = service.model.precision
    if metrics_open:
        values["AVATAR_METRICS_OPEN"] = "true"
    secret = {"name": names.control_secret(service.key.name), "key": names.TOKEN_KEY}
    sources: dict[str, Body] = {
        "AVATAR_POD": {"fieldRef": {"fieldPath": "metadata.name"}},
        "AVATAR_POD_IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "AVATAR_ADMIN_TOKEN": {"secretKeyRef": secret},
    }
    plain: list[Body] = [{"name": name, "value": value} for name, value in values.items()]
    return plain + [{"name": name, "valueFrom": source} for name, source in sources.items()]


def _profile(pool: Pool) -> str:
    """Return the operator's profile of the GPU as JSON, for simulated devices and logs."""
    assert pool.curve is not None
    curve = {
        "model": pool.curve.model,
        "baseMiB": pool.curve.base_mib,
        "perFrameMiB": pool.curve.per_frame_mib,
        "frameBatchMs": pool.curve.frame_batch_ms,
    }
    document = {"gpuClass": pool.gpu_class, "memoryMiB": pool.stock.memory_mib, "curve": curve}
    return json.dumps(document, separators=(",", ":"))


def _folder(mount: str, source: Source) -> str:
    match source:
        case ClaimSource(path=path):
            return f"{mount}/{path}".rstrip("/")
        case HostPathSource():
            return mount
    return source.path


def volumes(name: str, source: Source) -> list[Body]:
    """Render the volume of a source, none if the image contains it."""
    match source:
        case ClaimSource(claim_name=claim):
            volume = {"claimName": claim, "readOnly": True}
            return [{"name": name, "persistentVolumeClaim": volume}]
        case HostPathSource(path=path):
            return [{"name": name, "hostPath": {"path": path, "type": "Directory"}}]
    return []


def _mounts(name: str, source: Source) -> list[Body]:
    if isinstance(source, ImageSource):
        return []
    return [{"name": name, "mountPath": f"/{name}", "readOnly": True}]
