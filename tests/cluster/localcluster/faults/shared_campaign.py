"""Generates the changes of a seed to a shared cluster, and checks what is observed meanwhile.

Pure: no I/O and no clock. A seed determines every spec, every time and every choice of a session,
so that a seed with a problem can be run again. `localcluster.faults.shared_cluster` runs the seeds.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Body = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name of a service."""

TENANTS: Final = ("tenant-a", "tenant-b", "tenant-c")
SERVICES: Final = 20
ABSENT_CLASSES: Final = ("l4", "h200-141gb")
"""Classes with a GPUProfile and without a node."""
CPU_OF_NO_NODE: Final = "100"
MISSING_IMAGE: Final = "missing.example/avatar-runtime:none"
"""An image that cannot be pulled: the hollow nodes report ImagePullBackOff for it."""
FAILING_WAITS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff"})

ACTIVE_S: Final = 3.0
"""Seconds in which a seed applies, changes and deletes services."""
IDLE_S: Final = 10.0
"""Seconds for which a GPU may be idle beside a service that could use it."""
PENDING_S: Final = 30.0
"""Seconds for which a pod may be Pending before the status of its service must name it."""
FAILING_S: Final = 30.0
"""Seconds for which a failing pod may hold a GPU that another service could use."""

LONGEST_STATUS: Final = 300
"""Characters of a status in the words of a problem."""

GPU: Final = "nvidia.com/gpu"
SERVICE_LABEL: Final = "avatar.musetalk.io/service"
WEIGHT_RANGE: Final = (1, 5)


@dataclass(frozen=True, slots=True)
class GPUClass:
    """A class of GPU nodes in the cluster."""

    name: str
    product: str
    memory_mib: int
    nodes: int
    gpus_per_node: int


CLASSES: Final = (
    GPUClass("rtx-4090", "NVIDIA-GeForce-RTX-4090", 24564, nodes=2, gpus_per_node=2),
    GPUClass("a100-80gb", "NVIDIA-A100-SXM4-80GB", 81920, nodes=2, gpus_per_node=2),
    GPUClass("h100-80gb", "NVIDIA-H100-80GB-HBM3", 81559, nodes=2, gpus_per_node=2),
)
GPUS: Final = sum(each.nodes * each.gpus_per_node for each in CLASSES)


@dataclass(frozen=True, slots=True)
class Apply:
    """Creates or changes a service."""

    key: Key
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a service."""

    key: Key


@dataclass(frozen=True, slots=True)
class Begin:
    """Starts a session on one of the pods that accept sessions."""

    choice: float
    """Which pod: 0 is the first by name, values below 1 are the last."""


@dataclass(frozen=True, slots=True)
class End:
    """Ends one of the live sessions."""

    choice: float


Act = Apply | Delete | Begin | End


@dataclass(frozen=True, slots=True)
class Step:
    """An act and its time."""

    at_s: float
    act: Act


@dataclass(frozen=True, slots=True)
class Foreign:
    """An object of a stranger that has a name or labels of a service's own objects."""

    kind: str
    """`secret`, `poddisruptionbudget` or `pod`."""
    key: Key
    """The service whose name or labels it has."""

    @property
    def name(self) -> str:
        return self.key[1] + {"secret": "-control", "poddisruptionbudget": "-live"}.get(
            self.kind, "-stranger"
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a seed determines."""

    seed: int
    steps: tuple[Step, ...]
    """By time."""
    foreign: tuple[Foreign, ...]
    """They exist before the first step."""


def generate(seed: int, *, weights: bool = False, services: int = SERVICES) -> Scenario:
    """Return the scenario of a seed; specs have `weight` if `weights` is true."""
    chance = random.Random(f"shared {seed}")
    keys = [(chance.choice(TENANTS), f"s{seed}-{number:02}") for number in range(services)]
    steps = []
    for number, key in enumerate(keys):
        # Half of the services arrive in one instant, as one `kubectl apply` of a folder.
        at_s = 0.0 if number < services // 2 else chance.uniform(0, ACTIVE_S / 2)
        steps.append(Step(at_s, Apply(key, _spec(chance, weights=weights))))
    # One that follows the Delete of its service creates the service again.
    for key in chance.choices(keys, k=services // 2):
        spec = _spec(chance, weights=weights)
        steps.append(Step(chance.uniform(ACTIVE_S / 2, ACTIVE_S), Apply(key, spec)))
    for key in chance.sample(keys, services // 5):
        steps.append(Step(chance.uniform(ACTIVE_S / 2, ACTIVE_S), Delete(key)))
    steps += [
        Step(chance.uniform(ACTIVE_S / 8, ACTIVE_S), Begin(chance.random()))
        for _ in range(2 * services)
    ]
    steps += [
        Step(chance.uniform(ACTIVE_S / 4, ACTIVE_S), End(chance.random())) for _ in range(services)
    ]
    taken = chance.sample(keys, 3)
    kinds = ("secret", "poddisruptionbudget", "pod")
    foreign = tuple(Foreign(kind, key) for kind, key in zip(kinds, taken, strict=True))
    return Scenario(seed, tuple(sorted(steps, key=lambda step: step.at_s)), foreign)


def _spec(chance: random.Random, *, weights: bool) -> Body:
    spec: Body = {**_pods(chance), "placement": _placement(chance)}
    if weights and chance.random() < 0.5:
        spec["weight"] = chance.randint(*WEIGHT_RANGE)
    if chance.random() < 0.1:
        spec["objective"] = chance.choice(["latency", "throughput"])
    if chance.random() < 0.25:
        _make_impossible(chance, spec)
    return spec


def _pods(chance: random.Random) -> Body:
    if chance.random() < 0.6:
        return {"replicas": chance.choice([0, 1, 1, 1, 1, 2, 2, 3, 10])}
    low = chance.choice([0, 1, 1, 2])
    return {
        "autoscaling": {
            "minReplicas": low,
            "maxReplicas": chance.choice([max(low, 1), low + 2, 2 * GPUS]),
            "freeSessions": {"min": chance.choice([0, 1]), "percent": chance.choice([0, 20])},
            "scaleDownAfterSeconds": 2,
        }
    }


def _placement(chance: random.Random) -> Body:
    names = [each.name for each in CLASSES]
    placement: Body = {}
    if chance.random() < 0.85:
        placement["gpuClasses"] = chance.sample(names, chance.randint(1, 3))
    when_full = chance.choice(["fallThrough"] * 6 + ["wait", "createPending"])
    if when_full != "fallThrough":
        placement["whenFull"] = when_full
    if when_full != "wait":
        # The first class of these strategies depends on costs and curves, which `usable` ignores.
        placement["strategy"] = chance.choice(["preferred"] * 3 + ["cheapest", "fastest"])
        if "gpuClasses" in placement and chance.random() < 0.2:
            placement["gpuClasses"].append(chance.choice(ABSENT_CLASSES))
    elif "gpuClasses" not in placement:
        placement["gpuClasses"] = chance.sample(names, 1)
    return placement


def _make_impossible(chance: random.Random, spec: Body) -> None:
    match chance.choice(["cpu", "claim", "image", "class"]):
        case "cpu":
            resources = {"requests": {"cpu": CPU_OF_NO_NODE}, "limits": {"cpu": CPU_OF_NO_NODE}}
            spec["template"] = {"resources": resources}
        case "claim":
            claim = {"persistentVolumeClaim": {"claimName": "missing"}}
            spec["model"] = {"source": claim}
        case "image":
            spec["template"] = {"image": MISSING_IMAGE}
        case _:
            spec["placement"]["gpuClasses"] = [chance.choice(ABSENT_CLASSES)]


def usable(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes with nodes on which pods of a spec can run; none if it is impossible."""
    template = spec.get("template", {})
    if template.get("image") == MISSING_IMAGE:
        return ()
    if template.get("resources", {}).get("requests", {}).get("cpu") == CPU_OF_NO_NODE:
        return ()
    if "persistentVolumeClaim" in spec.get("model", {}).get("source", {}):
        return ()
    placement = spec.get("placement", {})
    names = [each.name for each in CLASSES]
    allowed = placement.get("gpuClasses") or names
    if placement.get("whenFull") == "wait":
        allowed = allowed[:1]
    return tuple(name for name in allowed if name in names)


def wanted(service: Body) -> int:
    """Return how many pods a service wants at least, by its spec or by its own status."""
    spec = service["spec"]
    policy = spec.get("autoscaling")
    if policy is None:
        return int(spec.get("replicas", 1))
    desired = int(service.get("status", {}).get("desiredReplicas", 0))
    return max(int(policy.get("minReplicas", 1)), min(int(policy["maxReplicas"]), desired))


@dataclass(frozen=True, slots=True)
class Observed:
    """The cluster at one moment."""

    services: Sequence[Body]
    pods: Sequence[Body]
    nodes: Mapping[str, GPUClass]
    """The class of each GPU node."""
    draining: frozenset[str] = frozenset()
    """UIDs of the pods that drain."""
    excused: frozenset[Key] = frozenset()
    """Services one of whose names is taken by a stranger: they may wait if their status says so."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """An observation that is a problem if it lasts longer than a limit."""

    check: str
    subject: str
    words: str
    limit_s: float


CHECKS: Final = ("converges", "idle_gpu", "pending_unsaid", "failing_holds_gpu", "cut", "foreign")
"""The names of the checks in the record."""


def suspicions(seen: Observed) -> tuple[Suspicion, ...]:
    """Return the observations that are problems if they last."""
    free, failing = _free(seen)
    found = []
    for service in seen.services:
        key = _key(service)
        if key in seen.excused or _is_leaving(service):
            continue
        lacking = wanted(service) - len(_held(service, seen))
        if lacking <= 0:
            continue
        name = "/".join(key)
        for gpu_class in usable(service["spec"]):
            could = f"{name} wants {lacking} more pods and could use {gpu_class}"
            if free[gpu_class]:
                words = f"{free[gpu_class]} {gpu_class} idle; {could}; {_status_text(service)}"
                found.append(Suspicion("idle_gpu", f"{name} {gpu_class}", words, IDLE_S))
            for pod in failing[gpu_class]:
                words = f"{pod} fails and holds a GPU; {could}"
                found.append(Suspicion("failing_holds_gpu", f"{pod} {name}", words, FAILING_S))
    return (*found, *_unreported(seen))


def starved(seen: Observed) -> int:
    """Count the services without a pod where another one could give an empty pod back.

    A figure, not a check: what a service's minimum is depends on the policy of the operator.
    """
    rich: set[str] = set()
    for service in seen.services:
        pods = _held(service, seen)
        if len(pods) > max(1, int(service["spec"].get("autoscaling", {}).get("minReplicas", 1))):
            rich |= {seen.nodes[pod["spec"]["nodeName"]].name for pod in pods}
    poor = [
        service
        for service in seen.services
        if wanted(service) and not _held(service, seen) and not _is_leaving(service)
    ]
    return sum(not rich.isdisjoint(usable(service["spec"])) for service in poor)


def _free(seen: Observed) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return the idle GPUs and the failing pods of each class."""
    free = {each.name: 0 for each in CLASSES}
    failing: dict[str, list[str]] = {each.name: [] for each in CLASSES}
    for gpu_class in seen.nodes.values():
        free[gpu_class.name] += gpu_class.gpus_per_node
    for pod in seen.pods:
        node = pod["spec"].get("nodeName")
        if node in seen.nodes and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            name = seen.nodes[node].name
            free[name] -= _gpus(pod)
            if _gpus(pod) and _fails(pod) and not _is_leaving(pod):
                failing[name].append("/".join(_key(pod)))
    return free, failing


def _held(service: Body, seen: Observed) -> list[Body]:
    """Return the pods of a service that have a GPU and stay."""
    return [
        pod
        for pod in seen.pods
        if _owner(pod) == service["metadata"]["uid"]
        and pod["spec"].get("nodeName") in seen.nodes
        and not _is_leaving(pod)
        and pod["metadata"]["uid"] not in seen.draining
    ]


def _unreported(seen: Observed) -> Iterable[Suspicion]:
    services = {service["metadata"]["uid"]: service for service in seen.services}
    for pod in seen.pods:
        service = services.get(_owner(pod))
        if service is None or _is_leaving(pod) or pod["spec"].get("nodeName"):
            continue
        cause = _cause(pod)
        alike = {
            other["metadata"]["name"]
            for other in seen.pods
            if _owner(other) == _owner(pod)
            and not other["spec"].get("nodeName")
            and _cause(other) == cause
        }
        reported = json.dumps(service.get("status", {}).get("conditions", []))
        if not any(name in reported for name in alike):
            name = "/".join(_key(pod))
            words = f"{name} is Pending ({cause}); {_status_text(service)}"
            yield Suspicion("pending_unsaid", f"{name} {pod['metadata']['uid']}", words, PENDING_S)


class Watch:
    """Remembers since when each suspicion holds; a suspicion that lasts becomes a problem."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[float, Suspicion]] = {}
        self.problems: dict[tuple[str, str], str] = {}
        """By check and subject."""

    @property
    def open(self) -> list[Suspicion]:
        """The suspicions that hold and are not problems yet."""
        return [
            suspicion for key, (_, suspicion) in self._since.items() if key not in self.problems
        ]

    def take(self, found: Iterable[Suspicion], now_s: float) -> None:
        """Take the suspicions that hold at a moment; those before that are missing have ended."""
        held = {(each.check, each.subject): each for each in found}
        self._since = {
            key: (self._since[key][0] if key in self._since else now_s, suspicion)
            for key, suspicion in held.items()
        }
        for key, (since_s, suspicion) in self._since.items():
            if now_s - since_s > suspicion.limit_s and key not in self.problems:
                self.problems[key] = f"{suspicion.words}; for {now_s - since_s:.0f} s"


def imprint(body: Body) -> str:
    """Return what must not change of a stranger's object, as text.

    Only the disruption controller may write the status of a PodDisruptionBudget; everything else
    keeps its resourceVersion.
    """
    if body.get("kind") != "PodDisruptionBudget":
        return f"{body['metadata']['uid']} {body['metadata']['resourceVersion']}"
    kept = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
    kept["managedFields"] = [
        entry for entry in kept.get("managedFields", []) if entry.get("subresource") != "status"
    ]
    return json.dumps({"metadata": kept, "spec": body["spec"]}, sort_keys=True)


def pick(choice: float, count: int) -> int:
    """Return the index that a choice between 0 and 1 means among a number of things."""
    return min(count - 1, int(choice * count))


def _status_text(service: Body) -> str:
    """Return the status of a service as text for a problem."""
    conditions = service.get("status", {}).get("conditions", [])
    texts = [
        f"{each['type']}={each['status']} {each['reason']}: {each['message']}"
        for each in conditions
        if each["type"] in ("Ready", "GPUAvailable", "ScalingLimited")
    ]
    return "its status: " + ("; ".join(texts)[:LONGEST_STATUS] or "none")


def _cause(pod: Body) -> str:
    conditions = pod.get("status", {}).get("conditions", [])
    messages = [each.get("message", "") for each in conditions if each["type"] == "PodScheduled"]
    return messages[0] if messages else "not seen by the scheduler"


def _fails(pod: Body) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    waits = [status.get("state", {}).get("waiting", {}).get("reason") for status in statuses]
    return not FAILING_WAITS.isdisjoint(waits)


def _gpus(pod: Body) -> int:
    return sum(
        int(container.get("resources", {}).get("limits", {}).get(GPU, 0))
        for container in pod["spec"].get("containers", [])
    )


def _owner(pod: Body) -> str:
    owners = pod["metadata"].get("ownerReferences", [])
    found = [owner["uid"] for owner in owners if owner["kind"] == "AvatarService"]
    return str(found[0]) if found else ""


def _is_leaving(body: Body) -> bool:
    return "deletionTimestamp" in body["metadata"]


def _key(body: Body) -> Key:
    return body["metadata"]["namespace"], body["metadata"]["name"]
