"""Renders the objects that the operator creates: runtime pods and their Secret.

Bodies are plain dictionaries, as the API takes them.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.core import batch, containers, model
from avatar_operator.core.fields import Fields
from avatar_operator.core.inventory import GPU_TOLERATION

if TYPE_CHECKING:
    from avatar_operator.core.pools import Pool

Body = dict[str, object]

GRACE_MARGIN_S: Final = 30
"""Added to the drain timeout, so that SIGTERM still finds time after preStop gave up."""

NEVER_EVICTED: Final = 1_000_000
"""Pods that a budget wants: more than there ever are, so that none of them may be evicted."""

LONGEST_MESSAGE: Final = 1024
"""Characters; the API server refuses Events with more."""

_RENDERING: Final = 1
"""Raise it when `pod` changes in a way that running pods must follow."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What the chart says about every runtime pod."""

    image: str
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...] = ()
    metrics_open: bool = False  # pods that are there keep what they were made with


def spec_hash(service: model.Service, image: str) -> str:
    """Return a short name of everything in the spec that makes a pod what it is.

    Numbers of pods and the placement are left out: they move pods, they do not
    change them. Measured curves are left out too, or each would roll the fleet.
    """
    parts = (
        _RENDERING,
        service.template.image or image,
        service.model,
        service.avatar_source,
        service.avatars,
        service.fps,
        service.batch_size or service.objective.value,
        service.sessions,
        service.template,
    )
    text = json.dumps(parts, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def control_token(master: str, key: model.ServiceKey) -> str:
    """Derive the admin token of a service's pods; the gateway derives the same."""
    return hmac.new(master.encode(), str(key).encode(), hashlib.sha256).hexdigest()


def gateway_token(master: str) -> str:
    """Derive the admin token of the gateways; they derive the same."""
    return hmac.new(master.encode(), b"gateway", hashlib.sha256).hexdigest()


def control_secret(service: model.Service, token: str) -> Body:
    """Render the Secret that hands the admin token to the service's pods."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.control_secret(service.key.name),
            "namespace": service.key.namespace,
            "labels": _labels(service),
            "ownerReferences": [_owner(service)],
        },
        "type": "Opaque",
        "data": {names.TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }


def budget(service: model.Service) -> Body:
    """Render what refuses the eviction of pods with sessions.

    A whole number counts the pods that carry the label, and asks no scale: with
    a percentage or maxUnavailable, `spec.replicas` would be believed, and pods of
    a rollout could be evicted.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": names.budget(service.key.name),
            "namespace": service.key.namespace,
            "labels": _labels(service),
            "ownerReferences": [_owner(service)],
        },
        "spec": {
            "minAvailable": NEVER_EVICTED,
            "selector": {
                "matchLabels": {
                    names.LABEL_SERVICE: service.key.name,
                    names.LABEL_LIVE: names.LIVE,
                }
            },
        },
    }


def budgeted(body: Body) -> str | None:
    """Return the UID of the service that a stored budget protects as it should, if it does."""
    metadata, spec = Fields(body.get("metadata"), "", []), Fields(body.get("spec"), "", [])
    for owner in metadata.children("ownerReferences"):
        selected = {names.LABEL_SERVICE: owner.text("name"), names.LABEL_LIVE: names.LIVE}
        if (
            metadata.text("name") == names.budget(owner.text("name"))
            and spec.raw("minAvailable") == NEVER_EVICTED
            and spec.raw("selector") == {"matchLabels": selected}
        ):
            return owner.text("uid")
    return None


def budget_key(body: Body) -> model.ServiceKey | None:
    """Return the service that a budget is named after, whatever else it says; None if none is."""
    metadata = Fields(body.get("metadata"), "", [])
    name = metadata.text("name")
    service = name.removesuffix(names.budget(""))
    return None if service == name else model.ServiceKey(metadata.text("namespace"), service)


def marks(*, live: bool) -> Body:
    """Render the change of a pod's metadata that protects it, or lets it go."""
    return {
        "labels": {names.LABEL_LIVE: names.LIVE if live else None},
        "annotations": {
            names.ANNOTATION_SAFE_TO_EVICT: "false" if live else "true",
            names.ANNOTATION_DO_NOT_DISRUPT: "true" if live else None,
        },
    }


def role(*, reserve: bool) -> Body:
    """Render the change of a pod's metadata that makes it one of the reserve, or of the others."""
    return {"labels": {names.LABEL_RESERVE: names.RESERVED if reserve else None}}


def adoption(service: model.Service, origin: str) -> Body:
    """Render the change of a pod's metadata that makes it one of another service."""
    return {
        "labels": {
            names.LABEL_SERVICE: service.key.name,
            names.LABEL_INSTANCE: service.key.name,
            names.LABEL_MADE_FOR: origin,
            names.LABEL_RESERVE: None,
        },
        "ownerReferences": [_owner(service)],
    }


def held_by_pod(name: str, uid: str) -> Body:
    """Render what lets an object stay for as long as a pod does, whatever becomes of its owner."""
    return {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]}


def pod(
    service: model.Service,
    name: str,
    pool: Pool,
    settings: PodSettings,
    *,
    reserve: bool = False,
) -> Body:
    """Render a runtime pod that is pinned to one GPU class and carries its batch size."""
    assert isinstance(pool.outcome, batch.BatchPlan)
    plan = pool.outcome
    template = service.template
    spec: Body = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": service.sessions.drain_timeout_s + GRACE_MARGIN_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": dict(service.placement.node_selector),
        "affinity": _affinity(pool),
        "topologySpreadConstraints": _spread(service),
        "tolerations": _tolerations(service),
        "containers": [
            containers.runtime(
                service,
                pool,
                settings.image,
                settings.image_pull_policy,
                metrics_open=settings.metrics_open,
            )
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            *containers.volumes("models", service.model.source),
            *containers.volumes("avatars", service.avatar_source),
            *template.volumes,
        ],
    }
    optional = {
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
        "serviceAccountName": template.service_account,
        "priorityClassName": template.priority_class,
        "runtimeClassName": template.runtime_class,
    }
    spec.update({key: value for key, value in optional.items() if value})
    metadata: Body = {
        "name": name,
        "namespace": service.key.namespace,
        "labels": {
            **dict(template.labels),
            **_labels(service),
            names.LABEL_GPU_CLASS: pool.gpu_class,
            names.LABEL_SPEC_HASH: spec_hash(service, settings.image),
            **({names.LABEL_RESERVE: names.RESERVED} if reserve else {}),
        },
        "annotations": {
            **dict(template.annotations),
            names.ANNOTATION_BATCH_SIZE: str(plan.batch_size),
            names.ANNOTATION_SESSIONS_PER_POD: str(plan.sessions_per_pod),
            # Else a pod with an emptyDir and an owner of no known kind keeps its node for ever.
            names.ANNOTATION_SAFE_TO_EVICT: "true",
        },
        "ownerReferences": [_owner(service)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def annotate(body: Body, name: str, value: str) -> None:
    """Add an annotation to a body that was rendered here."""
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    metadata["annotations"][name] = value


def event(
    service: model.Service, reason: names.Reason, message: str, *, warning: bool, at: str
) -> Body:
    """Render an Event about a service; `at` is a time as Kubernetes writes it."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "generateName": f"{service.key.name}-",
            "namespace": service.key.namespace,
        },
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": names.SERVICE_KIND,
            "name": service.key.name,
            "namespace": service.key.namespace,
            "uid": service.uid,
        },
        "type": "Warning" if warning else "Normal",
        "reason": reason.value,
        "message": message[:LONGEST_MESSAGE],
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def selector(service: model.Service) -> str:
    """Return the label selector of the service's pods, for the scale subresource."""
    return f"{names.LABEL_SERVICE}={service.key.name}"


def _plain(value: object) -> object:
    assert dataclasses.is_dataclass(value)
    parts = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    return {"": type(value).__name__, **parts}


def _labels(service: model.Service) -> dict[str, str]:
    return {
        names.LABEL_NAME: names.RUNTIME_NAME,
        names.LABEL_INSTANCE: service.key.name,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_SERVICE: service.key.name,
    }


def _owner(service: model.Service) -> Body:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.SERVICE_KIND,
        "name": service.key.name,
        "uid": service.uid,
        "controller": True,  # else kubectl drain asks for --force
        "blockOwnerDeletion": True,
    }


def _affinity(pool: Pool) -> Body:
    """Pin to the labels that nodes of the class carry: any of these nodes will do."""
    terms = [
        {
            "matchExpressions": [
                {"key": key, "operator": "In", "values": [value]}
                if value
                else {"key": key, "operator": "DoesNotExist"}
                for key, value in labels
            ]
        }
        for labels in pool.stock.selectors
    ]
    required = {"nodeSelectorTerms": terms}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _spread(service: model.Service) -> list[Body]:
    """Ask for pods in many zones, and in each on many nodes, as far as GPUs are there."""
    return [
        {
            "topologyKey": key,
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {names.LABEL_SERVICE: service.key.name}},
        }
        for key in (names.LABEL_ZONE, names.LABEL_HOST)
    ]


def _tolerations(service: model.Service) -> list[Body]:
    # The default of 300 s would delete pods with sessions when only their kubelet lost the API.
    patience = service.sessions.drain_timeout_s
    lost = [
        model.Toleration(key, "Exists", "", "NoExecute", patience)
        for key in (names.TAINT_NOT_READY, names.TAINT_UNREACHABLE)
    ]
    return [_toleration(item) for item in (GPU_TOLERATION, *lost, *service.placement.tolerations)]


def _toleration(item: model.Toleration) -> Body:
    fields = {
        "key": item.key,
        "operator": item.operator,
        "value": item.value,
        "effect": item.effect,
        "tolerationSeconds": item.seconds,
    }
    return {key: value for key, value in fields.items() if value not in ("", None)}
