"""Pod: the types of a runtime pod and of any pod that uses GPUs, and their parsers.

The API server has checked the body, so a missing or unexpected field reads as its harmless default:
a pod that requests no GPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from avatar_contracts.fields import Fields
from avatar_contracts.labels import ENV_ADMIN_TOKEN, ENV_GPU_CLASS, ENV_SERVICE
from avatar_contracts.owners import owner_of
from avatar_operator import names
from avatar_operator.core.resources import pod_status, pod_times
from avatar_operator.core.resources.fields import split_body
from avatar_operator.core.resources.image_check import is_image_check
from avatar_operator.core.resources.node import condition_status, read_count, read_resources
from avatar_operator.core.resources.pod_times import UNKNOWN_TIMES, PodTimes
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Mapping


class PodUse(NamedTuple):
    """GPU use of any pod in the cluster that requests GPUs and has not ended."""

    node: str
    """Empty until the pod is bound."""
    gpus: int
    """Requested nvidia.com/gpu."""
    gpu_class: str
    """Empty if the pod does not belong to a service."""
    others: tuple[tuple[str, int], ...] = ()
    """Requested resources for parts of GPUs, claims, and GPUs that claims have."""

    @classmethod
    def of(cls, node: str, gpu_class: str, counts: Mapping[str, int]) -> PodUse:
        """Return the use of `counts` by resource name; resources with a count of 0 are left out."""
        others = ((name, count) for name, count in counts.items() if name != names.GPU_RESOURCE)
        nonzero = tuple((name, count) for name, count in others if count)
        return cls(node, counts.get(names.GPU_RESOURCE, 0), gpu_class, nonzero)

    @property
    def counts(self) -> dict[str, int]:
        """The requested resources by name, `nvidia.com/gpu` among them."""
        return {names.GPU_RESOURCE: self.gpus, **dict(self.others)}

    @property
    def is_claim(self) -> bool:
        """Whether it is the use of a pod by a claim, which counts until the claim has a GPU."""
        return (names.CLAIM, 1) in self.others


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """A pod that runs the runtime for a service."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    service: str
    owner_uid: str
    """UID of the service that owns the pod; an earlier service of this name may own it."""
    gpu_class: str
    spec_hash: str
    batch_size: int
    sessions_per_pod: int
    node: str
    """Empty until the pod is bound."""
    ip: str
    """Empty until the pod has one."""
    phase: str
    ready: bool
    running: bool
    """Whether the runtime container is running."""
    terminating: bool
    created_at: float
    """Seconds since 1970."""
    failed_at: float | None
    """Seconds since 1970; None if the pod has not ended."""
    trouble: str
    """Why the pod does not start; empty if no reason is known."""
    live: bool = False
    """Whether it has the label that protects pods with sessions."""
    shielded: bool = False
    """Whether it has the annotations that protect it from node autoscalers."""
    drain_asked: bool = False
    """Whether an annotation requests to drain it."""
    restarts: int = 0
    """Restarts of the runtime container."""
    reserve: bool = False
    """Whether it belongs to the reserve, which takes sessions last."""
    image: str = ""
    """Image of the runtime container."""
    made_for: str = ""
    """Name of the service that it was created for, if another one adopted it."""
    key_generation: str = ""
    """Generation of the master key that its tokens come from; empty in earlier releases."""
    rejected_at: float | None = None
    """Since when the scheduler finds no node for it; None if it makes room or has not tried."""
    bound_at: float | None = None
    """When it was bound to its node; None if the time is unknown."""
    waiting: str = ""
    """Why the runtime container waits, for example ImagePullBackOff."""
    mounted: bool = True
    """Whether its volumes are mounted, as far as the kubelet reports it."""
    control_secret: str = ""
    """Name of the Secret that it reads its token from."""
    relabelled: bool = False
    """Whether its labels are not those of a pod of its service."""
    times: PodTimes = UNKNOWN_TIMES
    """When the stages of its start ended, as its status has them."""

    @property
    def ended(self) -> bool:
        """Whether its containers will not run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def origin(self) -> ServiceKey:
        """The service that it was created for; its runtime keeps the token of that service."""
        return ServiceKey(self.namespace, self.made_for or self.service)


def parse_use(body: Mapping[str, object]) -> PodUse | None:
    """Return the GPU use of a pod, or None if it uses no GPU.

    A pod that the scheduler has rejected uses none. A pod for which it evicts others counts on the
    node that it will get.
    """
    metadata, spec, status = split_body(body)
    requested = _requested(spec)
    is_ours = owner_of(body) is not None
    gpu_class = metadata.strings("labels").get(names.LABEL_GPU_CLASS, "") if is_ours else ""
    claims = is_ours and not requested and spec.has("resourceClaims")
    if not (requested or claims) or status.text("phase") in ("Succeeded", "Failed"):
        return None
    if not spec.text("nodeName") and pod_status.rejected_at(status) is not None:
        return None
    if claims:  # it has no node here: the node of its GPU follows from the claim
        return PodUse.of("", _shared(gpu_class), {names.CLAIM: 1})
    node = _shared(spec.text("nodeName") or status.text("nominatedNodeName"))
    return PodUse.of(node, _shared(gpu_class), dict(sorted(requested.items())))


def parse_runtime_pod(body: Mapping[str, object]) -> RuntimePod | None:
    """Return the runtime pod that a body describes, or None if it is another pod.

    A pod is a runtime pod if an AvatarService controls it: its labels can be those of anyone.
    """
    metadata, spec, status = split_body(body)
    owner = owner_of(body)
    if owner is None or is_image_check(spec):
        return None
    labels = metadata.strings("labels")
    annotations = metadata.strings("annotations")
    manifest = _Manifest.parse(spec)
    made_for = labels.get(names.LABEL_MADE_FOR, "")
    if manifest.service:
        made_for = manifest.service if manifest.service != owner.name else ""
    gpu_class = manifest.gpu_class or labels.get(names.LABEL_GPU_CLASS, "")
    created_at = pod_status.parse_seconds(metadata.text("creationTimestamp")) or 0.0
    phase = status.text("phase", "Pending")
    return RuntimePod(
        name=metadata.text("name"),
        namespace=_shared(metadata.text("namespace", "default")),
        uid=metadata.text("uid"),
        resource_version=metadata.text("resourceVersion"),
        service=_shared(owner.name),
        owner_uid=_shared(owner.uid),
        gpu_class=_shared(gpu_class),
        spec_hash=_shared(labels.get(names.LABEL_SPEC_HASH, "")),
        batch_size=read_count(annotations.get(names.ANNOTATION_BATCH_SIZE)),
        sessions_per_pod=read_count(annotations.get(names.ANNOTATION_SESSIONS_PER_POD)),
        node=_shared(spec.text("nodeName")),
        ip=status.text("podIP"),
        phase=_shared(phase),
        ready=condition_status(status, "Ready") == "True",
        running=pod_status.is_running(status),
        terminating=metadata.has("deletionTimestamp"),
        created_at=created_at,
        failed_at=pod_status.ended_at(status, created_at)
        if phase in ("Succeeded", "Failed")
        else None,
        trouble=pod_status.trouble(status),
        live=labels.get(names.LABEL_LIVE) == names.LIVE,
        shielded=annotations.get(names.ANNOTATION_SAFE_TO_EVICT) == "false",
        drain_asked=annotations.get(names.ANNOTATION_DRAIN) == "true",
        restarts=pod_status.restarts(status),
        reserve=labels.get(names.LABEL_RESERVE) == names.RESERVED,
        image=_shared(_image(spec)),
        made_for=_shared(made_for),
        key_generation=_shared(labels.get(names.LABEL_KEY_GENERATION, "")),
        rejected_at=None if spec.text("nodeName") else pod_status.rejected_at(status),
        bound_at=pod_status.bound_at(status),
        waiting=_shared(pod_status.waiting_reason(status)),
        mounted=condition_status(status, "PodReadyToStartContainers") != "False",
        control_secret=_shared(manifest.control_secret),
        times=pod_times.parse(status),
        relabelled=_is_relabelled(labels, owner.name, made_for, gpu_class),
    )


class _Manifest(NamedTuple):
    """What the spec of a pod says about it; unlike labels, nobody can change it."""

    service: str = ""
    """Name of the service that the pod was created for."""

    gpu_class: str = ""
    control_secret: str = ""

    @classmethod
    def parse(cls, spec: Fields) -> _Manifest:
        containers = spec.children("containers")
        own = next((each for each in containers if each.text("name") == names.CONTAINER), None)
        if own is None:
            return cls()
        known: dict[str, Fields] = {}
        for variable in own.children("env"):  # the template can only append variables
            known.setdefault(variable.text("name"), variable)
        nothing = Fields(None, "", [])
        service = known.get(ENV_SERVICE, nothing).text("value").partition("/")[2]
        token = known.get(ENV_ADMIN_TOKEN, nothing).child("valueFrom").child("secretKeyRef")
        secret = token.text("name")  # in pods of earlier releases
        for volume in spec.children("volumes"):
            if volume.text("name") == names.TOKEN_VOLUME:
                secret = volume.child("secret").text("secretName")
        return cls(service, known.get(ENV_GPU_CLASS, nothing).text("value"), secret)


def _is_relabelled(labels: Mapping[str, str], service: str, made_for: str, gpu_class: str) -> bool:
    """Return whether labels that make the pod a pod of its service were changed by hand."""
    wanted = {
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_SERVICE: service,
        names.LABEL_NAME: names.RUNTIME_NAME,
        names.LABEL_INSTANCE: service,
        **({names.LABEL_GPU_CLASS: gpu_class} if gpu_class else {}),
    }
    # A pod that its first service adopted back is labelled with that service.
    origin = labels.get(names.LABEL_MADE_FOR) or service
    differs = any(labels.get(label) != value for label, value in wanted.items())
    return differs or origin != (made_for or service)


def _image(spec: Fields) -> str:
    for container in spec.children("containers"):
        if container.text("name") == names.CONTAINER:
            return container.text("image")
    return ""


def _shared(text: str) -> str:
    """Return the interned string, because tens of thousands of pods have the same one."""
    return sys.intern(text)


def _requested(spec: Fields) -> dict[str, int]:
    """Return the requested GPUs as the scheduler counts them.

    This is the maximum of the containers with all sidecars, and of each init container with the
    sidecars that start before it.
    """
    together: Counter[str] = Counter()
    largest: Counter[str] = Counter()
    for container in spec.children("initContainers"):
        if container.text("restartPolicy") == "Always":
            together += _container_gpus(container)
        else:
            largest |= together + _container_gpus(container)
    for container in spec.children("containers"):
        together += _container_gpus(container)
    return dict(together | largest)


def _container_gpus(container: Fields) -> Counter[str]:
    resources = container.child("resources")
    requests, limits = (read_resources(resources.fragment(part)) for part in ("requests", "limits"))
    return Counter(requests) | Counter(limits)
