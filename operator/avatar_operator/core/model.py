"""What the operator knows of the cluster, as values: services, profiles, nodes, pods, states.

`core/contracts.py` and `core/objects.py` make them from resource bodies; every decision works on
these alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from decimal import Decimal

    from avatar_operator.core.policies import Autoscaling

Fragment = Mapping[str, object]
"""A piece of a Kubernetes object that is passed through as it came, and never changed."""


class Objective(Enum):
    """What a batch size is chosen for."""

    LATENCY = "latency"
    BALANCED = "balanced"
    THROUGHPUT = "throughput"


class Strategy(Enum):
    """Which GPU class is filled first."""

    PREFERRED = "preferred"
    CHEAPEST = "cheapest"
    FASTEST = "fastest"


class WhenFull(Enum):
    """What becomes of a pod for which no GPU is free."""

    FALL_THROUGH = "fallThrough"  # another class may do, else it is not created
    WAIT = "wait"  # it is not created until the best class has one
    CREATE_PENDING = (
        "createPending"  # another class may do, else it is created and waits for a node
    )


class ServiceKey(NamedTuple):
    """What names a service in the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """A folder in a PersistentVolumeClaim."""

    claim_name: str
    path: str  # from the volume's root, "" is the root


@dataclass(frozen=True, slots=True)
class HostPathSource:
    """A folder on the node."""

    path: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A folder in the runtime image."""

    path: str


Source = ClaimSource | HostPathSource | ImageSource


DECODER: Final = "sd-vae"
PRECISION: Final = "fp16"
"""Of a service that names neither, as in the CRD; a runtime on a GPU chooses the same."""


@dataclass(frozen=True, slots=True)
class Model:
    """The MuseTalk variant that a service runs, and where its weights are."""

    version: str
    decoder: str
    precision: str
    source: Source

    @property
    def variant(self) -> str:
        """The name that curves go by."""
        return f"{self.version}/{self.decoder}/{self.precision}"


@dataclass(frozen=True, slots=True)
class Toleration:
    """A taint, or a family of taints, that pods tolerate."""

    key: str = ""  # "" with Exists: every key
    operator: str = "Equal"
    value: str = ""
    effect: str = ""  # "": every effect
    seconds: int | None = None  # None: for ever


@dataclass(frozen=True, slots=True)
class Placement:
    """Which nodes may run the pods."""

    gpu_classes: tuple[str, ...] = ()  # empty: any
    strategy: Strategy = Strategy.PREFERRED
    when_full: WhenFull = WhenFull.FALL_THROUGH
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """When a session ends, and how long a pod that is to go waits for its sessions."""

    max_duration_s: int = 7200
    idle_timeout_s: int = 300
    drain_timeout_s: int = 3600


@dataclass(frozen=True, slots=True)
class Template:
    """What users add to the runtime pods."""

    image: str | None = None
    image_pull_policy: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Fragment] = field(default_factory=dict)  # by requests and limits
    env: tuple[Fragment, ...] = ()
    volumes: tuple[Fragment, ...] = ()
    volume_mounts: tuple[Fragment, ...] = ()
    service_account: str | None = None
    priority_class: str | None = None
    runtime_class: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """An AvatarService: what its owner wants."""

    key: ServiceKey
    uid: str
    generation: int
    model: Model
    avatar_source: Source
    avatars: tuple[str, ...]  # empty: all that the source holds
    fps: int
    objective: Objective
    batch_size: int | None  # None: chosen by objective
    placement: Placement
    replicas: int | None  # None: by autoscaling, or one
    autoscaling: Autoscaling | None
    sessions: SessionLimits
    template: Template
    paused: bool = False  # by annotation

    @property
    def desired_replicas(self) -> int:
        """Return the pods wanted: the fixed number, or the least that autoscaling keeps."""
        if self.replicas is not None:
            return self.replicas
        return self.autoscaling.min_replicas if self.autoscaling is not None else 1


class Floor(NamedTuple):
    """The least memory that batches of more than `above` frames are believed to take."""

    above: int
    base_mib: int
    per_frame_mib: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Memory and time of a batch of one model variant on one GPU class."""

    model: str
    base_mib: int
    per_frame_mib: int
    frame_batch_ms: tuple[tuple[int, float], ...]  # (frames, ms), rising by frames, not empty
    floor: Floor | None = None  # beyond what was measured

    @property
    def smallest(self) -> int:
        """The batch size at which the measurements begin."""
        return self.frame_batch_ms[0][0]

    @property
    def largest(self) -> int:
        """The batch size at which the measurements end."""
        return self.frame_batch_ms[-1][0]

    def memory_mib(self, frames: int) -> int:
        """Return the memory that the device reports during a batch of `frames`."""
        line = self.base_mib + frames * self.per_frame_mib
        if self.floor is None or frames <= self.floor.above:
            return line
        return max(line, self.floor.base_mib + frames * self.floor.per_frame_mib)

    def batch_ms(self, frames: int) -> float:
        """Return the time of a batch; between two points it is interpolated.

        `frames` lies within the ends of the curve.
        """
        for (low, low_ms), (high, high_ms) in zip(
            self.frame_batch_ms, self.frame_batch_ms[1:], strict=False
        ):
            if low <= frames < high:
                return low_ms + (high_ms - low_ms) * (frames - low) / (high - low)
        return self.frame_batch_ms[-1][1]

    def covers(self, frames: int) -> bool:
        """Return whether a batch size lies within the ends of the curve."""
        return self.smallest <= frames <= self.largest

    def continued(self, given: Curve | None) -> Curve:
        """Return this measurement with the rest of a given curve behind its end.

        A pod measures no batch larger than its own, so each plan would be bound
        by the one before. The given times are scaled by how much the measured
        end differs from them; memory is the larger of what both say.
        """
        if given is None or not given.covers(self.largest) or given.largest == self.largest:
            return self
        ratio = self.frame_batch_ms[-1][1] / given.batch_ms(self.largest)
        rest = tuple((b, ms * ratio) for b, ms in given.frame_batch_ms if b > self.largest)
        floor = Floor(self.largest, given.base_mib, given.per_frame_mib)
        return replace(self, frame_batch_ms=self.frame_batch_ms + rest, floor=floor)


class Device(Enum):
    """What a measurement was made on, as far as it may count."""

    CUDA = "cuda"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve that a pod measured when it started, and where it comes from."""

    curve: Curve
    device: Device
    pod: str  # NAMESPACE/NAME
    node: str
    measured_at: str  # as Kubernetes writes times


@dataclass(frozen=True, slots=True)
class GPUProfile:
    """A class of GPUs: how its nodes are found and what they can do."""

    name: str
    products: tuple[str, ...]  # globs of the product label
    memory_min_mib: int
    memory_max_mib: int
    cost_per_hour: Decimal | None
    allow_shared: bool
    curves: tuple[Curve, ...]  # as given
    calibrations: tuple[Calibration, ...] = ()  # as measured
    allow_simulated: bool = False  # whether simulated devices may calibrate it

    def given(self, variant: str) -> Curve | None:
        """Return the curve that the spec has of a model variant."""
        return next((curve for curve in self.curves if curve.model == variant), None)

    def calibration(self, variant: str) -> Calibration | None:
        """Return what a pod measured of a model variant."""
        return next((item for item in self.calibrations if item.curve.model == variant), None)

    def curve(self, variant: str) -> Curve | None:
        """Return the curve to plan with: what was measured wins over what is given."""
        measured, given = self.calibration(variant), self.given(variant)
        return given if measured is None else measured.curve.continued(given)


@dataclass(frozen=True, slots=True)
class Taint:
    """A mark on a node that keeps pods away."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node as far as GPUs are concerned."""

    name: str
    labels: Mapping[str, str]
    gpus: int  # allocatable, of nvidia.com/gpu
    ready: bool
    unschedulable: bool
    taints: tuple[Taint, ...]
    others: tuple[tuple[str, int], ...] = ()  # allocatable of resources for parts of GPUs
    capacity: tuple[tuple[str, int], ...] = ()  # of all these resources, dead devices included


class PodUse(NamedTuple):
    """What is kept of every pod in the cluster that asks for GPUs and has not ended."""

    node: str  # "" while it is not bound
    gpus: int  # of nvidia.com/gpu
    gpu_class: str  # "" if it is not ours
    others: tuple[tuple[str, int], ...] = ()  # of resources for parts of GPUs


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """A pod that runs the runtime for a service."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    service: str
    owner_uid: str  # of the service that made it, which may be an earlier one of that name
    gpu_class: str
    spec_hash: str
    batch_size: int
    sessions_per_pod: int
    node: str  # "" while it is not bound
    ip: str  # "" while it has none
    phase: str
    ready: bool
    running: bool  # the runtime's container runs now
    terminating: bool
    created_at: float  # seconds since 1970
    failed_at: float | None  # None while it has not ended
    trouble: str  # why it does not start, "" if nothing is known
    live: bool = False  # it carries the label that guards pods with sessions
    shielded: bool = False  # autoscalers of nodes are told to leave it alone
    drain_asked: bool = False  # by annotation
    restarts: int = 0  # of the runtime's container
    reserve: bool = False  # it takes sessions last
    made_for: str = ""  # name of the service that it was taken over from, "" if it was not

    @property
    def ended(self) -> bool:
        """Whether none of its containers will ever run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def origin(self) -> ServiceKey:
        """The service that it was started for, by which its runtime goes as long as it lives."""
        return ServiceKey(self.namespace, self.made_for or self.service)


@dataclass(frozen=True, slots=True)
class PodState:
    """What a runtime pod said last about itself, and how long ago."""

    sessions: int
    capacity: int
    free: int
    draining: bool
    ready: bool
    age_s: float
    device: str = ""  # "" if it did not say
    calibration: Curve | None = None
    vram_ratio: float = 0.0
    deadline_miss_ratio: float = 0.0
    frame_p95_ms: float | None = None  # None: nobody spoke lately
    batch_share: float = 1.0  # of its batch, what it has not given up under pressure
    empty_s: float = 0.0  # so long it is known to have had no session
    first_frame_p95_ms: float | None = None  # None: nobody spoke lately
