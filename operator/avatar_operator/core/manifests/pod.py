"""Renders the manifest of a runtime pod."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_contracts.labels import LogFormat
from avatar_operator import names
from avatar_operator.core.gpus import batch_size
from avatar_operator.core.gpus.inventory import GPU_TOLERATION, ClassStock
from avatar_operator.core.manifests import container, model_cache, upstream
from avatar_operator.core.manifests.claim_template import pod_claim
from avatar_operator.core.manifests.model_cache import ModelCache
from avatar_operator.core.manifests.objects import owner_reference, service_labels
from avatar_operator.core.resources.placement import Toleration
from avatar_operator.core.resources.pod_defaults import PodDefaults
from avatar_operator.core.resources.pod_security import PodSecurity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import Service

GRACE_MARGIN_S: Final = 30
"""Added to the drain timeout: after preStop has ended, the runtime asks the sessions that are left
to move to other pods, and ends them after 15 s."""


_RENDERING: Final = 2
"""Increase it if `runtime_pod` changes so that running pods must be replaced."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """Settings of the chart for all runtime pods."""

    image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...] = ()
    metrics_open: bool = False
    """Applies to new pods only."""
    log_format: LogFormat = LogFormat.JSON
    """Applies to new pods only, since the spec hash does not include it."""
    defaults: PodDefaults = field(default_factory=PodDefaults)
    """Merged into each service before it is planned; nothing here reads it."""
    network_rules: Mapping[str, object] | None = None
    """The rules of the NetworkPolicy of each service; None if there is none."""
    cache: ModelCache = field(default_factory=ModelCache)
    """Applies to new pods only."""


def hash_spec(service: Service, image: str, generation: str = "") -> str:
    """Return a hash of everything in the spec that determines a pod.

    The number of pods and the placement are left out, because they do not change a pod. Measured
    curves are left out, because each measurement would otherwise cause a rollout. `generation` is
    that of the master key: pods with tokens of another key are replaced.
    """
    parts: tuple[object, ...] = (
        _RENDERING,
        generation,
        service.template.image or image,
        service.model,
        service.avatar_source,
        service.avatars,
        service.fps,
        service.batch_size or service.objective.value,
        service.sessions,
        service.template,
    )
    if service.security != PodSecurity():
        parts += (service.security,)
    if service.disclosure:
        parts += (("disclosure", service.disclosure),)
    if service.turn_detection != labels.SERVER_VAD:  # the pods of earlier releases stay
        parts += (("turnDetection", service.turn_detection),)
    if service.upstream is not None:
        parts += (("upstream", service.upstream),)
    text = json.dumps(parts, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def runtime_pod(
    service: Service,
    name: str,
    pool: Pool,
    settings: PodSettings,
    control_secret: str,
    *,
    reserve: bool = False,
    generation: str = "",
    template_of_claim: str = "",
) -> Body:
    """Render a runtime pod that is pinned to one GPU class and carries its batch size.

    `control_secret` is the name of the Secret with the tokens of the service. `template_of_claim`
    is the ResourceClaimTemplate of its GPU, if a DRA driver publishes the GPUs of the class.
    """
    assert isinstance(pool.outcome, batch_size.BatchPlan)
    plan = pool.outcome
    template = service.template
    spec: Body = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": service.sessions.drain_timeout_s + GRACE_MARGIN_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": dict(service.security.pod),
        "nodeSelector": dict(service.placement.node_selector),
        **class_affinity(pool.stock),
        "topologySpreadConstraints": _spread(service),
        "tolerations": _tolerations(service),
        "containers": [
            container.runtime(
                service,
                pool,
                settings.image,
                settings.image_pull_policy,
                metrics_open=settings.metrics_open,
                log_format=settings.log_format,
            )
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            container.token_volume(control_secret),
            *upstream.volumes(service.upstream),
            *container.volumes("models", service.model.source),
            *container.volumes("avatars", service.avatar_source),
            *model_cache.volumes(service, settings.cache),
            *template.volumes,
        ],
    }
    optional = {
        "initContainers": model_cache.init_containers(
            service,
            settings.cache,
            settings.image,
            settings.image_pull_policy,
            settings.log_format,
        ),
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
        "serviceAccountName": template.service_account,
        "priorityClassName": template.priority_class,
        "runtimeClassName": template.runtime_class,
        "resourceClaims": [pod_claim(template_of_claim)] if pool.stock.devices else [],
    }
    spec.update({key: value for key, value in optional.items() if value})
    metadata: Body = {
        "name": name,
        "namespace": service.key.namespace,
        "labels": {
            **dict(template.labels),
            **service_labels(service),
            names.LABEL_GPU_CLASS: pool.gpu_class,
            names.LABEL_SPEC_HASH: hash_spec(service, settings.image, generation),
            **({names.LABEL_KEY_GENERATION: generation} if generation else {}),
            **({names.LABEL_RESERVE: names.RESERVED} if reserve else {}),
        },
        "annotations": {
            **dict(template.annotations),
            names.ANNOTATION_BATCH_SIZE: str(plan.batch_size),
            names.ANNOTATION_SESSIONS_PER_POD: str(plan.sessions_per_pod),
            **_cost(pool),
            # Without it, node autoscalers keep the node of a pod with an emptyDir.
            names.ANNOTATION_SAFE_TO_EVICT: "true",
        },
        "ownerReferences": [owner_reference(service)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _cost(pool: Pool) -> dict[str, str]:
    """Return the annotation by which gateways prefer the cheaper of pods that are equally full."""
    cost = pool.cost_per_hour
    return {} if cost is None else {names.ANNOTATION_COST_PER_HOUR: f"{cost:f}"}


def set_annotation(body: Body, name: str, value: str) -> None:
    """Add an annotation to a body that `runtime_pod` rendered."""
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    metadata["annotations"][name] = value


def _plain(value: object) -> object:
    assert dataclasses.is_dataclass(value)
    parts = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    return {"": type(value).__name__, **parts}


def class_affinity(stock: ClassStock) -> Body:
    """Require the labels of the nodes of the class; any of these nodes is suitable.

    The claim of a pod selects its GPU itself, so no label is required then.
    """
    if stock.devices:
        return {}
    terms = [
        {
            "matchExpressions": [
                {"key": key, "operator": "In", "values": [value]}
                if value
                else {"key": key, "operator": "DoesNotExist"}
                for key, value in labels
            ]
        }
        for labels in stock.selectors
    ]
    required = {"nodeSelectorTerms": terms}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {"affinity": affinity}


def _spread(service: Service) -> list[Body]:
    """Spread pods over zones, and over nodes within a zone, as far as GPUs are free."""
    return [
        {
            "topologyKey": key,
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {names.LABEL_SERVICE: service.key.name}},
        }
        for key in (names.LABEL_ZONE, names.LABEL_HOST)
    ]


def _tolerations(service: Service) -> list[Body]:
    # The default of 300 s would delete pods with sessions if only their kubelet lost the API.
    timeout_s = service.sessions.drain_timeout_s
    lost = [
        Toleration(key, "Exists", "", "NoExecute", timeout_s)
        for key in (names.TAINT_NOT_READY, names.TAINT_UNREACHABLE)
    ]
    return [
        render_toleration(item) for item in (GPU_TOLERATION, *lost, *service.placement.tolerations)
    ]


def render_toleration(item: Toleration) -> Body:
    """Render a toleration in the format of a pod spec."""
    fields = {
        "key": item.key,
        "operator": item.operator,
        "value": item.value,
        "effect": item.effect,
        "tolerationSeconds": item.seconds,
    }
    return {key: value for key, value in fields.items() if value not in ("", None)}
