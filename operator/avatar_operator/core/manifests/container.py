"""Renders the runtime container: arguments, environment, probes and mounts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_operator import names
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.manifests import model_cache, upstream
from avatar_operator.core.resources.quantities import PARTS, Resources, complete
from avatar_operator.core.resources.service import DECODER, PRECISION, Fragment, Service
from avatar_operator.core.resources.sources import (
    ClaimSource,
    DownloadSource,
    HostPathSource,
    ImageSource,
    ImageVolumeSource,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.gpus.pools import Pool

Body = dict[str, object]

START_TIMEOUT_S: Final = 1200
"""Time that a pod may load its model before it is restarted: tens of GB from cold storage."""

# Requests: a process with torch and the CUDA libraries, one core for the event loop and the engine
# thread, and for each session 25 JPEG images a second and some buffers. Limits: a model in fp32 on
# the host, and for each session several copies of the largest message (21 MiB) in each direction.
CPU_MILLI: Final = 1000
SESSION_CPU_MILLI: Final = 100
MEMORY_REQUEST_MIB: Final = 4096
SESSION_REQUEST_MIB: Final = 64
MEMORY_LIMIT_MIB: Final = 16384
SESSION_LIMIT_MIB: Final = 256


def runtime(
    service: Service,
    pool: Pool,
    image: str,
    pull_policy: str,
    *,
    metrics_open: bool,
    log_format: labels.LogFormat,
) -> Body:
    """Render the container; `image` and `pull_policy` apply unless the service sets its own."""
    assert isinstance(pool.outcome, batch_size.BatchPlan)
    plan = pool.outcome
    template = service.template
    claimed = bool(pool.stock.devices)
    resources: Body = {}
    resources |= complete(
        {} if claimed else {part: {pool.stock.resource: "1"} for part in PARTS},
        template.resources,
        pool.resources,
        usual_resources(plan.sessions_per_pod),
    )
    if claimed:
        resources["claims"] = [{"name": names.CLAIM}]
    ready = {"path": "/readyz", "port": labels.SESSIONS_PORT_NAME}
    return {
        "name": names.CONTAINER,
        "image": template.image or image,
        "imagePullPolicy": template.image_pull_policy or pull_policy,
        "command": ["avatar-runtime", "serve"],
        "args": [
            *("--model", folder_of("/models", service.model.source)),
            *("--avatars", folder_of("/avatars", service.avatar_source)),
            *("--batch-size", str(plan.batch_size)),
            *("--listen", f"0.0.0.0:{labels.SESSIONS_PORT}"),
            *("--admin", f"0.0.0.0:{labels.ADMIN_PORT}"),
        ],
        "env": _with_template(
            _environment(service, pool, plan, metrics_open=metrics_open, log_format=log_format),
            template.env,
        ),
        "ports": [
            {"name": labels.SESSIONS_PORT_NAME, "containerPort": labels.SESSIONS_PORT},
            {"name": labels.ADMIN_PORT_NAME, "containerPort": labels.ADMIN_PORT},
        ],
        "resources": resources,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": names.TOKEN_VOLUME, "mountPath": names.TOKEN_FOLDER, "readOnly": True},
            *upstream.mounts(service.upstream),
            *mounts("models", service.model.source),
            *mounts("avatars", service.avatar_source),
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
            "httpGet": {"path": "/healthz", "port": labels.SESSIONS_PORT_NAME},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # conditions quote the last line
        "lifecycle": {"preStop": {"exec": {"command": ["avatar-runtime", "drain", "--wait"]}}},
        "securityContext": dict(service.security.container),
    }


def usual_resources(sessions: int) -> Resources:
    """Return the CPU and memory of a pod for which nobody sets them; they are estimates.

    There is no CPU limit, because throttling makes frames late. The memory limit is far above the
    request: it protects the node, and a pod that it ended would lose its sessions.
    """
    request_mib = MEMORY_REQUEST_MIB + sessions * SESSION_REQUEST_MIB
    limit_mib = MEMORY_LIMIT_MIB + sessions * SESSION_LIMIT_MIB
    return {
        "requests": {
            "cpu": f"{CPU_MILLI + sessions * SESSION_CPU_MILLI}m",
            "memory": f"{request_mib}Mi",
        },
        "limits": {"memory": f"{limit_mib}Mi"},
    }


def _with_template(own: Sequence[Body], given: Sequence[Fragment]) -> list[object]:
    """Append the variables of the template; its log format replaces that of the operator."""
    names_given = {variable.get("name") for variable in given}
    kept = [
        variable
        for variable in own
        if variable["name"] != labels.ENV_LOG_FORMAT or variable["name"] not in names_given
    ]
    return [*kept, *given]


def _environment(
    service: Service,
    pool: Pool,
    plan: batch_size.BatchPlan,
    *,
    metrics_open: bool,
    log_format: labels.LogFormat,
) -> list[Body]:
    limits = service.sessions
    values = {
        labels.ENV_SERVICE: str(service.key),
        labels.ENV_GPU_CLASS: pool.gpu_class,
        labels.ENV_GPU_PROFILE: _profile(pool),
        labels.ENV_MODEL_VERSION: service.model.version,
        labels.ENV_CAPACITY: str(plan.sessions_per_pod),
        labels.ENV_AVATARS: ",".join(service.avatars),
        labels.ENV_FPS: str(service.fps),
        labels.ENV_MAX_DURATION_S: str(limits.max_duration_s),
        labels.ENV_IDLE_TIMEOUT_S: str(limits.idle_timeout_s),
        labels.ENV_DRAIN_TIMEOUT_S: str(limits.drain_timeout_s),
        labels.ENV_LOG_FORMAT: log_format.value,
        labels.ENV_TOKEN_FOLDER: names.TOKEN_FOLDER,
    }
    # Defaults are left out, so that a device other than a GPU can use its own.
    if service.model.decoder != DECODER:
        values[labels.ENV_DECODER] = service.model.decoder
    if service.model.precision != PRECISION:
        values[labels.ENV_PRECISION] = service.model.precision
    if service.disclosure:
        values[labels.ENV_DISCLOSURE] = service.disclosure
    if service.turn_detection != labels.SERVER_VAD:
        values[labels.ENV_TURN_DETECTION] = service.turn_detection
    if metrics_open:
        values[labels.ENV_METRICS_OPEN] = "true"
    sources: dict[str, Body] = {
        labels.ENV_POD: {"fieldRef": {"fieldPath": "metadata.name"}},
        labels.ENV_POD_IP: {"fieldRef": {"fieldPath": "status.podIP"}},
    }
    plain: list[Body] = [{"name": name, "value": value} for name, value in values.items()]
    plain += [{"name": name, "valueFrom": source} for name, source in sources.items()]
    return plain + upstream.environment(service.upstream)


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


def folder_of(mount: str, source: Source) -> str:
    """Return the path of a source in a container that mounts its volume at `mount`."""
    match source:
        case ClaimSource(path=path) | ImageVolumeSource(path=path):
            return f"{mount}/{path}".rstrip("/")
        case HostPathSource() | DownloadSource():
            return mount
        case ImageSource(path=path):
            return path


def token_volume(control_secret: str) -> Body:
    """Render the volume with the tokens of the service's pods.

    The kubelet updates a mounted Secret but not environment variables: with a volume, running pods
    accept the tokens of a new master key.
    """
    return {
        "name": names.TOKEN_VOLUME,
        "secret": {"secretName": control_secret},
    }


def volumes(name: str, source: Source) -> list[Body]:
    """Render the volume of a source, none if the image contains it."""
    match source:
        case ClaimSource(claim_name=claim):
            volume = {"claimName": claim, "readOnly": True}
            return [{"name": name, "persistentVolumeClaim": volume}]
        case HostPathSource(path=path):
            return [{"name": name, "hostPath": {"path": path, "type": "Directory"}}]
        case ImageVolumeSource():
            image = {"reference": source.reference, "pullPolicy": source.pull_policy}
            return [{"name": name, "image": image}]
    return []  # the volume of downloads is that of the cache


def mounts(name: str, source: Source) -> list[Body]:
    """Render the mount of a source, none if the image contains it."""
    match source:
        case ImageSource():
            return []
        case DownloadSource():
            return [model_cache.mount(source, f"/{name}")]
    return [{"name": name, "mountPath": f"/{name}", "readOnly": True}]
