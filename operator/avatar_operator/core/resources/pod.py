"""Pod: the types of a runtime pod and of any pod that uses GPUs, and their parsers.

The API server has checked the body, so a missing or unexpected field reads as its harmless default:
a pod that requests no GPU.
"""

from __future__ import annotations

import datetime
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_contracts.documents import parse_object
from avatar_contracts.labels import ENV_ADMIN_TOKEN, ENV_GPU_CLASS, ENV_SERVICE
from avatar_operator import names
from avatar_operator.core.resources.fields import Fields, split_body
from avatar_operator.core.resources.node import condition_status, read_count, read_resources
from avatar_operator.core.resources.owner import controller
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
    """Requested resources for parts of GPUs."""

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
    made_for: str = ""
    """Name of the service that it was created for, if another one adopted it."""
    key_generation: str = ""
    """Generation of the master key that its tokens come from; empty in earlier releases."""
    control_secret: str = ""
    """Name of the Secret that it reads its token from."""
    relabelled: bool = False
    """Whether its labels are not those of a pod of its service."""

    @property
    def ended(self) -> bool:
        """Whether its containers will not run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def origin(self) -> ServiceKey:
        """The service that it was created for; its runtime keeps the token of that service."""
        return ServiceKey(self.namespace, self.made_for or self.service)


LONGEST_TROUBLE: Final = 200  # characters of `trouble`


def parse_use(body: Mapping[str, object]) -> PodUse | None:
    """Return the GPU use of a pod, or None if it uses no GPU."""
    metadata, spec, status = split_body(body)
    requested = _requested(spec)
    if not requested or status.text("phase") in ("Succeeded", "Failed"):
        return None
    is_ours = controller(metadata) is not None
    gpu_class = metadata.strings("labels").get(names.LABEL_GPU_CLASS, "") if is_ours else ""
    node = _shared(spec.text("nodeName"))
    return PodUse.of(node, _shared(gpu_class), dict(sorted(requested.items())))


def parse_runtime_pod(body: Mapping[str, object]) -> RuntimePod | None:
    """Return the runtime pod that a body describes, or None if it is another pod.

    A pod is a runtime pod if an AvatarService controls it: its labels can be those of anyone.
    """
    metadata, spec, status = split_body(body)
    owner = controller(metadata)
    if owner is None:
        return None
    labels = metadata.strings("labels")
    annotations = metadata.strings("annotations")
    manifest = _Manifest.parse(spec)
    made_for = labels.get(names.LABEL_MADE_FOR, "")
    if manifest.service:
        made_for = manifest.service if manifest.service != owner.name else ""
    gpu_class = manifest.gpu_class or labels.get(names.LABEL_GPU_CLASS, "")
    created_at = _seconds(metadata.text("creationTimestamp")) or 0.0
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
        running=_running(status),
        terminating=metadata.has("deletionTimestamp"),
        created_at=created_at,
        failed_at=_ended_at(status, created_at) if phase in ("Succeeded", "Failed") else None,
        trouble=_trouble(status),
        live=labels.get(names.LABEL_LIVE) == names.LIVE,
        shielded=annotations.get(names.ANNOTATION_SAFE_TO_EVICT) == "false",
        drain_asked=annotations.get(names.ANNOTATION_DRAIN) == "true",
        restarts=_restarts(status),
        reserve=labels.get(names.LABEL_RESERVE) == names.RESERVED,
        made_for=_shared(made_for),
        key_generation=_shared(labels.get(names.LABEL_KEY_GENERATION, "")),
        control_secret=_shared(manifest.control_secret),
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


def _runtime_container(status: Fields) -> Fields | None:
    for container in status.children("containerStatuses"):
        if container.text("name") == names.CONTAINER:
            return container
    return None


def _running(status: Fields) -> bool:
    container = _runtime_container(status)
    return container is not None and container.child("state").has("running")


def _restarts(status: Fields) -> int:
    container = _runtime_container(status)
    return 0 if container is None else container.integer("restartCount", 0, 0, 2**31)


def _trouble(status: Fields) -> str:
    for condition in status.children("conditions"):
        if condition.text("type") == "PodScheduled" and condition.text("status") == "False":
            why = condition.text("message") or condition.text("reason")
            return _sentence(f"not scheduled: {why}")
    container = _runtime_container(status)
    if container is not None:
        waiting = container.child("state").child("waiting")
        reason = waiting.text("reason")
        if reason == "CrashLoopBackOff":  # its message repeats the names of pod and container
            return _sentence(f"{reason}: {_last_message(container.child('lastState'))}")
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return _sentence(f"{reason}: {waiting.text('message')}")
        if container.child("state").has("terminated"):
            return _sentence(_last_message(container.child("state")))
        if not container.flag("ready", False) and container.child("lastState").has("terminated"):
            return _sentence(f"restarted after {_last_message(container.child('lastState'))}")
    return _sentence(status.text("message") or status.text("reason"))


def _last_message(state: Fields) -> str:
    """Return how a container ended and the last line of its log."""
    ended = state.child("terminated")
    lines = [line.strip() for line in ended.text("message").splitlines() if line.strip()]
    reason = ended.text("reason")
    how = reason if reason not in ("", "Error") else "exit code"
    how = f"{how} {ended.integer('exitCode', 0, -(2**31), 2**31)}"
    return f"{how}: {_message(lines[-1])}" if lines else how


def _message(line: str) -> str:
    """Return the message of a log line: that of a JSON record, or else the line itself."""
    try:
        message = parse_object(line).get("message")
    except ValueError:
        return line
    return message if isinstance(message, str) and message.strip() else line


def _sentence(text: str) -> str:
    """Return the text as one line of at most `LONGEST_TROUBLE` characters."""
    line = " ".join(text.split()).rstrip(": ")
    return line if len(line) <= LONGEST_TROUBLE else f"{line[: LONGEST_TROUBLE - 1]}…"


def _ended_at(status: Fields, created_at: float) -> float:
    """Return when the last container ended, or the creation time if none has started."""
    ends = [
        _seconds(container.child("state").child("terminated").text("finishedAt"))
        for container in status.children("containerStatuses")
    ]
    return max((end for end in ends if end is not None), default=created_at)


def _seconds(timestamp: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None
