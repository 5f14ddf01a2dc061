"""AvatarService: its type and its parser.

The CRD rejects the same specs before they are stored. This parser is the second check, and the only
one for files on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_contracts import labels as contract
from avatar_contracts import upstream_fields
from avatar_contracts.fields import Fault, Fields
from avatar_operator import names
from avatar_operator.core.resources import annotations as annotation_rules
from avatar_operator.core.resources import autoscaling
from avatar_operator.core.resources.autoscaling import DAY_S, MAX_REPLICAS
from avatar_operator.core.resources.fields import parse_identity, read_annotations
from avatar_operator.core.resources.gpu_profile import MAX_BATCH
from avatar_operator.core.resources.placement import Placement, parse_placement
from avatar_operator.core.resources.pod_security import PodSecurity
from avatar_operator.core.resources.sources import KINDS, Source, parse_source
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from avatar_contracts.upstream import Upstream
    from avatar_operator.core.resources.autoscaling import Autoscaling

Fragment = Mapping[str, object]
"""Part of a Kubernetes object that is passed through unchanged."""

DECODER: Final = "sd-vae"
"""Default decoder, as in the CRD; the runtime chooses the same on a GPU."""

PRECISION: Final = "fp16"
"""Default precision, as in the CRD; the runtime chooses the same on a GPU."""

DEMO_MODEL: Final = "/opt/avatar/models/demo"
DEMO_AVATARS: Final = "/opt/avatar/avatars"
RATES: Final = (10, 16, 20, 25)  # frames per second that divide every supported sample rate
TURN_DETECTIONS: Final = (contract.SERVER_VAD, contract.NO_TURN_DETECTION)
MAX_WEIGHT: Final = 100
MAX_NAME: Final = 40  # characters, so that the names of pods fit in 63
DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class Objective(Enum):
    """What a batch size is optimized for."""

    LATENCY = "latency"
    BALANCED = "balanced"
    THROUGHPUT = "throughput"


class ServiceKey(NamedTuple):
    """Namespace and name of a service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Model:
    """The MuseTalk variant of a service, and the source of its weights."""

    version: str
    decoder: str
    precision: str
    source: Source

    @property
    def variant(self) -> str:
        """The name of the variant in the curves of a GPUProfile."""
        return f"{self.version}/{self.decoder}/{self.precision}"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Time limits of sessions, and how long a deleted pod waits for its sessions."""

    max_duration_s: int = 7200
    idle_timeout_s: int = 300
    drain_timeout_s: int = 3600


@dataclass(frozen=True, slots=True)
class Template:
    """User settings that are added to the runtime pods."""

    image: str | None = None
    image_pull_policy: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Fragment] = field(default_factory=dict)
    """Keys `requests` and `limits`."""
    env: tuple[Fragment, ...] = ()
    volumes: tuple[Fragment, ...] = ()
    volume_mounts: tuple[Fragment, ...] = ()
    service_account: str | None = None
    priority_class: str | None = None
    runtime_class: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """An AvatarService: its desired state."""

    key: ServiceKey
    uid: str
    generation: int
    model: Model
    avatar_source: Source
    avatars: tuple[str, ...]
    """Empty: all avatars of the source."""
    fps: int
    objective: Objective
    batch_size: int | None
    """None: chosen by `objective`."""
    placement: Placement
    replicas: int | None
    """None: by autoscaling, or one pod."""
    autoscaling: Autoscaling | None
    sessions: SessionLimits
    template: Template
    paused: bool = False
    """Set by an annotation."""
    weight: int = 1
    """Its weight when several services share GPUs that are short."""
    created: str = ""
    """Creation time in RFC 3339; "" if the service was never stored."""
    security: PodSecurity = field(default_factory=PodSecurity)
    """Set by the chart, not by the service."""
    allow_unpulled: bool = False
    """Whether a pod may make room for an image that was not pulled yet (annotation)."""
    turn_detection: str = contract.SERVER_VAD
    """How turns are detected in sessions that do not say it; one of `TURN_DETECTIONS`."""
    annotation_faults: tuple[str, ...] = ()
    """What is wrong with the annotations; the faults change nothing else."""
    disclosure: str = ""
    """Visible label of videos; empty: none."""
    tenants: tuple[str, ...] = ()
    """Names of the AvatarTenants that may use it; empty: all that have access."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Its own labels, by which tenants select it."""
    upstream: Upstream | None = None
    """Source of the speech; None: the client sends it (mode drive)."""

    @property
    def desired_replicas(self) -> int:
        """The fixed number of pods, or the minimum of autoscaling."""
        if self.replicas is not None:
            return self.replicas
        return self.autoscaling.min_replicas if self.autoscaling is not None else 1


DNS_LABEL_LIMIT: Final = (
    "must consist of lowercase letters, digits and '-', and must start and end with a letter or "
    "digit"
)

NAME_LIMIT: Final = (
    "must consist of lowercase letters, digits and '-', must start with a letter and must end with "
    "a letter or digit"
)


def parse_service(body: Mapping[str, object]) -> Service:
    """Return the service that a body describes.

    Raises:
        InvalidResource: at least one field is wrong; the error lists all of them.
    """
    faults: list[Fault] = []
    identity = parse_identity(body, faults)
    annotations = read_annotations(body)

    spec = Fields(body.get("spec"), "spec", faults)
    sessions = spec.child("sessions")
    check_name(identity.name, faults)
    # The API server sets replicas to its default, 1, in an autoscaled service too.
    if spec.raw("replicas") != 1:
        _exclude(spec, "replicas", "autoscaling")
    replicas = spec.optional_integer("replicas", 0, MAX_REPLICAS)
    _exclude(spec, "batchSize", "objective")
    service = Service(
        key=ServiceKey(identity.namespace, identity.name),
        uid=identity.uid,
        generation=identity.generation,
        model=_model(spec.child("model")),
        avatar_source=parse_source(spec, "avatarSource", DEMO_AVATARS, KINDS),
        avatars=spec.texts("avatars", pattern=DNS_LABEL, limit=DNS_LABEL_LIMIT, unique=True),
        fps=_rate(spec),
        objective=spec.choice("objective", Objective.BALANCED),
        batch_size=spec.optional_integer("batchSize", 1, MAX_BATCH),
        placement=parse_placement(spec.child("placement")),
        replicas=None if spec.has("autoscaling") else replicas,
        autoscaling=autoscaling.parse(spec, annotations) if spec.has("autoscaling") else None,
        sessions=_sessions(sessions),
        turn_detection=sessions.one_of("turnDetection", contract.SERVER_VAD, TURN_DETECTIONS),
        template=parse_template(spec.child("template")),
        disclosure=parse_disclosure(spec),
        upstream=upstream_fields.parse(spec.child("upstream"), in_pod=False),
        labels=Fields(body.get("metadata"), "metadata", []).strings("labels"),
        tenants=spec.texts("tenants", pattern=DNS_LABEL, limit=DNS_LABEL_LIMIT, unique=True),
        weight=spec.integer("weight", 1, 1, MAX_WEIGHT),
        created=identity.created,
        paused=annotation_rules.flag(annotations, names.ANNOTATION_PAUSED),
        allow_unpulled=annotation_rules.flag(annotations, names.ANNOTATION_ALLOW_UNPULLED),
        annotation_faults=annotation_rules.faults(annotations),
    )
    if faults:
        raise InvalidResource(names.SERVICE_KIND, str(service.key), faults)
    return service


def parse_disclosure(spec: Fields) -> str:
    """Return the visible label of videos; faults are recorded in `spec`."""
    limit = f"at most {contract.MAX_DISCLOSURE} characters in one line"
    pattern = rf"\A[^\r\n\t]{{0,{contract.MAX_DISCLOSURE}}}\Z"
    return spec.text("disclosure", pattern=pattern, limit=limit)


def _exclude(spec: Fields, first: str, second: str) -> None:
    if spec.has(first) and spec.has(second):
        spec.add_rule(first, f"must not be set together with spec.{second}")


def check_name(name: str, faults: list[Fault], made: str = "pods") -> None:
    """Record what is wrong with the name of a resource; `made` is what is named after it."""
    metadata = Fields({}, "metadata", faults)
    if len(name) > MAX_NAME:
        limit = f"must be no more than {MAX_NAME} characters"
        metadata.add_fault("name", name, f"{limit}, so that the names of its {made} fit in 63")
    if not re.search(r"^[a-z]([-a-z0-9]*[a-z0-9])?$", name):
        metadata.add_fault("name", name or None, NAME_LIMIT)


def _model(fields: Fields) -> Model:
    return Model(
        version=fields.one_of("version", "v15", ("v1", "v15")),
        decoder=fields.one_of("decoder", DECODER, ("sd-vae", "taesd")),
        precision=fields.one_of("precision", PRECISION, ("fp16", "bf16", "fp32")),
        source=parse_source(fields, "source", DEMO_MODEL, KINDS),
    )


def _rate(spec: Fields) -> int:
    fps = spec.integer("fps", 25, 1, 1000)
    if fps not in RATES:
        spec.add_fault("fps", fps, "one of " + ", ".join(map(str, RATES)))
    return fps


def _sessions(fields: Fields) -> SessionLimits:
    return SessionLimits(
        max_duration_s=fields.integer("maxDurationSeconds", 7200, 1, DAY_S),
        idle_timeout_s=fields.integer("idleTimeoutSeconds", 300, 1, DAY_S),
        drain_timeout_s=fields.integer("drainTimeoutSeconds", 3600, 0, DAY_S),
    )


def parse_template(fields: Fields) -> Template:
    """Return the additions to pods; faults are recorded in `fields`."""
    resources = fields.child("resources")
    return Template(
        image=fields.text("image") or None,
        image_pull_policy=fields.text("imagePullPolicy") or None,
        labels=fields.strings("labels"),
        annotations=fields.strings("annotations"),
        resources={name: resources.fragment(name) for name in ("requests", "limits")},
        env=fields.fragments("env"),
        volumes=fields.fragments("volumes"),
        volume_mounts=fields.fragments("volumeMounts"),
        service_account=fields.object_name("serviceAccountName") or None,
        priority_class=fields.object_name("priorityClassName") or None,
        runtime_class=fields.object_name("runtimeClassName") or None,
    )
