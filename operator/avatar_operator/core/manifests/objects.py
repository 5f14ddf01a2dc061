"""Renders Secrets, PodDisruptionBudgets, Events and patches of pods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_contracts.owners import owner_of
from avatar_operator import names
from avatar_operator.core.keys import encode
from avatar_operator.core.manifests import ownership
from avatar_operator.core.resources.avatar import Avatar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.keys import KeyRing
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.service import Service


@dataclass(frozen=True, slots=True)
class TenantReference:
    """The AvatarTenant that an Event is about. It has no namespace."""

    name: str
    uid: str


NEVER_EVICTED: Final = 1_000_000
"""minAvailable of a PodDisruptionBudget: more pods than can exist, so none may be evicted."""


CLUSTER_EVENTS: Final = "default"
"""The namespace of Events about objects without a namespace; the API server accepts no other."""
LONGEST_MESSAGE: Final = 1024
"""Characters; the API server rejects Events with a longer message."""


def control_secret(service: Service, ring: KeyRing, name: str) -> Body:
    """Render the Secret with the tokens of the service's pods."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": owned_metadata(service, name, service_labels(service)),
        "type": "Opaque",
        "data": encode(ring.service_tokens(str(service.key))),
    }


def pdb(service: Service, name: str) -> Body:
    """Render the PodDisruptionBudget that prevents the eviction of pods with sessions.

    A whole number counts the pods with the label. A percentage or maxUnavailable would use
    `spec.replicas` of the scale subresource instead, so pods of a rollout could be evicted.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": owned_metadata(service, name, service_labels(service)),
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


def pdb_content(body: Body) -> str | None:
    """Return the UID of the service that a stored PodDisruptionBudget protects, None if wrong."""
    metadata, spec = Fields(body.get("metadata"), "", []), Fields(body.get("spec"), "", [])
    owner = owner_of(body)
    if owner is None:
        return None
    selected = {names.LABEL_SERVICE: owner.name, names.LABEL_LIVE: names.LIVE}
    is_correct = (
        metadata.text("name") in ownership.candidates(names.pdb(owner.name), owner.uid)
        and ownership.belongs_to(body, owner.uid)
        and spec.raw("minAvailable") == NEVER_EVICTED
        and spec.raw("selector") == {"matchLabels": selected}
    )
    return owner.uid if is_correct else None


def live_marks(*, live: bool) -> Body:
    """Render the change of a pod's metadata that adds or removes its protection."""
    return {
        "labels": {names.LABEL_LIVE: names.LIVE if live else None},
        "annotations": {
            names.ANNOTATION_SAFE_TO_EVICT: "false" if live else "true",
            names.ANNOTATION_DO_NOT_DISRUPT: "true" if live else None,
        },
    }


def reserve_role(*, reserve: bool) -> Body:
    """Render the change of a pod's metadata that moves it into or out of the reserve."""
    return {"labels": {names.LABEL_RESERVE: names.RESERVED if reserve else None}}


def identity_labels(service: Service, origin: str, gpu_class: str) -> Body:
    """Render the change of a pod's metadata that restores the labels of a pod of a service.

    `origin` is the name of the service that the pod was created for.
    """
    made_for = origin if origin != service.key.name else None
    known = {names.LABEL_GPU_CLASS: gpu_class} if gpu_class else {}
    return {"labels": {**service_labels(service), names.LABEL_MADE_FOR: made_for, **known}}


def adoption_patch(service: Service, origin: str) -> Body:
    """Render the change of a pod's metadata that makes it a pod of another service."""
    return {
        "labels": {
            names.LABEL_SERVICE: service.key.name,
            names.LABEL_INSTANCE: service.key.name,
            names.LABEL_MADE_FOR: origin,
            names.LABEL_RESERVE: None,
        },
        "ownerReferences": [owner_reference(service)],
    }


def held_by_pod(name: str, uid: str) -> Body:
    """Render an additional owner of an object: it exists at least as long as the pod."""
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def event_body(
    about: Service | Avatar | TenantReference,
    reason: names.Reason,
    message: str,
    *,
    warning: bool,
    at: str,
) -> Body:
    """Render an Event about a service, an avatar or a tenant; `at` is a time in RFC 3339."""
    involved = _involved(about)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "generateName": f"{involved['name']}-",
            "namespace": involved.get("namespace", CLUSTER_EVENTS),
        },
        "involvedObject": {"apiVersion": names.API_VERSION, **involved, "uid": about.uid},
        "type": "Warning" if warning else "Normal",
        "reason": reason.value,
        "message": message[:LONGEST_MESSAGE],
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }


def _involved(about: Service | Avatar | TenantReference) -> dict[str, str]:
    if isinstance(about, TenantReference):
        return {"kind": names.TENANT_KIND, "name": about.name}
    kind = names.AVATAR_KIND if isinstance(about, Avatar) else names.SERVICE_KIND
    return {"kind": kind, "name": about.key.name, "namespace": about.key.namespace}


def pod_selector(service: Service) -> str:
    """Return the label selector of the service's pods, for the scale subresource."""
    return f"{names.LABEL_SERVICE}={service.key.name}"


def service_labels(service: Service) -> dict[str, str]:
    return {
        names.LABEL_NAME: names.RUNTIME_NAME,
        names.LABEL_INSTANCE: service.key.name,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_SERVICE: service.key.name,
    }


def owned_metadata(owner: Service | Avatar, name: str, labels: Mapping[str, str]) -> Body:
    """Render the metadata of an object that is deleted with its owner, in the owner's namespace."""
    return {
        "name": name,
        "namespace": owner.key.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner_reference(owner)],
    }


def owner_reference(owner: Service | Avatar) -> Body:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AVATAR_KIND if isinstance(owner, Avatar) else names.SERVICE_KIND,
        "name": owner.key.name,
        "uid": owner.uid,
        "controller": True,  # otherwise kubectl drain requires --force
        "blockOwnerDeletion": True,
    }
