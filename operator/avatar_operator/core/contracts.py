"""Turns our own documents into values: services, GPU profiles, states of runtime pods.

The schema of the CRDs refuses the same things before they are stored. This
parser is the second belt, and the only one for files given to the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import Final

from avatar_operator import names
from avatar_operator.core import model, policies
from avatar_operator.core.fields import Fields
from avatar_operator.core.policies import DAY_S, MAX_REPLICAS
from avatar_operator.errors import Fault, InvalidResource

DEMO_MODEL: Final = "/opt/avatar/models/demo"
DEMO_AVATARS: Final = "/opt/avatar/avatars"
RATES: Final = (10, 16, 20, 25)  # frames a second that divide every accepted sample rate
MAX_NAME: Final = 40  # characters, so that the names of pods fit in 63
MAX_BATCH: Final = 64
_DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_DNS_LABEL_LIMIT: Final = "small letters, digits and '-', with neither end a '-'"
_CLASS: Final = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"


@dataclass(frozen=True, slots=True)
class _Identity:
    name: str
    namespace: str
    uid: str
    generation: int


def parse_service(body: Mapping[str, object]) -> model.Service:
    """Return the service that a body describes.

    Raises:
        InvalidResource: with every field that breaks the contract.
    """
    faults: list[Fault] = []
    identity = _identity(body, faults)
    annotations = _annotations(body)
    if not re.search(r"^[a-z]([-a-z0-9]*[a-z0-9])?$", identity.name) or (
        len(identity.name) > MAX_NAME
    ):
        limit = f"a name of {MAX_NAME} characters at most that begins with a letter"
        Fields({}, "metadata", faults).note("name", identity.name or None, limit)
    spec = Fields(body.get("spec"), "spec", faults)
    upstream = spec.child("upstream")
    upstream.one_of("mode", "drive", ("drive",))
    _exclude(spec, "replicas", "autoscaling")
    _exclude(spec, "batchSize", "objective")
    service = model.Service(
        key=model.ServiceKey(identity.namespace, identity.name),
        uid=identity.uid,
        generation=identity.generation,
        model=_model(spec.child("model")),
        avatar_source=_source(spec, "avatarSource", DEMO_AVATARS),
        avatars=spec.texts("avatars", pattern=_DNS_LABEL, limit=_DNS_LABEL_LIMIT, unique=True),
        fps=_rate(spec),
        objective=spec.choice("objective", model.Objective.BALANCED),
        batch_size=spec.optional_integer("batchSize", 1, MAX_BATCH),
        placement=_placement(spec.child("placement")),
        replicas=spec.optional_integer("replicas", 0, MAX_REPLICAS),
        autoscaling=policies.parse(spec, annotations) if spec.has("autoscaling") else None,
        sessions=_sessions(spec.child("sessions")),
        template=_template(spec.child("template")),
        paused=annotations.get(names.ANNOTATION_PAUSED) == "true",
    )
    if faults:
        raise InvalidResource(names.SERVICE_KIND, str(service.key), faults)
    return service


def parse_profile(body: Mapping[str, object]) -> model.GPUProfile:
    """Return the GPU class that a body describes, with what pods measured of it.

    Raises:
        InvalidResource: with every field that breaks the contract.
    """
    faults: list[Fault] = []
    identity = _identity(body, faults)
    spec = Fields(body.get("spec"), "spec", faults)
    match = spec.child("match")
    memory = match.child("memoryMiB")
    for parent, name, limit in (
        (match, "products", "a list of product patterns"),
        (memory, "min", "the least memory in MiB"),
        (memory, "max", "the most memory in MiB"),
    ):
        parent.required(name, limit)
    low, high = memory.integer("min", 1, 1, 10**7), memory.integer("max", 10**7, 1, 10**7)
    if low > high:
        memory.note("min", low, f"at most memoryMiB.max, which is {high}")
    status = Fields(body.get("status"), "status", faults)
    given = tuple(_curve(curve) for curve in spec.children("curves"))
    if not given:
        spec.note("curves", spec.raw("curves"), "at least one curve")
    for variant in sorted({curve.model for curve in given}):
        if sum(curve.model == variant for curve in given) > 1:
            spec.note("curves", variant, "one curve for each model")
    annotations = Fields(body.get("metadata"), "metadata", []).strings("annotations")
    profile = model.GPUProfile(
        name=identity.name,
        products=match.texts("products"),
        memory_min_mib=low,
        memory_max_mib=high,
        cost_per_hour=_cost(spec),
        allow_shared=spec.flag("allowShared", False),
        curves=given,
        calibrations=tuple(_calibration(item) for item in status.children("calibrations")),
        allow_simulated=annotations.get(names.ANNOTATION_SIMULATED) == "true",
    )
    if faults:
        raise InvalidResource(names.PROFILE_KIND, identity.name, faults)
    return profile


def parse_state(document: Mapping[str, object], age_s: float) -> model.PodState:
    """Return the state that a runtime pod sent `age_s` ago.

    Raises:
        InvalidResource: with every key that is missing or wrong.
    """
    faults: list[Fault] = []
    state = Fields(document, "", faults)
    for name in ("sessions", "capacity", "free", "draining", "ready"):
        state.required(name, "sent by the runtime")
    parsed = model.PodState(
        sessions=state.integer("sessions", 0, 0, 10**6),
        capacity=state.integer("capacity", 0, 0, 10**6),
        free=state.integer("free", 0, 0, 10**6),
        draining=state.flag("draining", False),
        ready=state.flag("ready", False),
        age_s=age_s,
        first_frame_p95_ms=_first_frame(state.child("latency_ms")),
        device=state.text("device"),
        calibration=_measurement(state.raw("calibration")),
        vram_ratio=_number(state.child("vram").raw("ratio")) or 0.0,
        deadline_miss_ratio=_number(state.raw("deadline_miss_ratio")) or 0.0,
        frame_p95_ms=_number(state.child("latency_ms").raw("frame_p95")),
        batch_share=_batch_share(state),
    )
    if faults:
        raise InvalidResource("state of pod", state.text("pod", "?"), faults)
    return parsed


def _number(value: object) -> float | None:
    """Return a figure of a state, None if it is none: no pod is unreadable for want of one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
        return None
    return float(value)


def _batch_share(state: Fields) -> float:
    whole, limit = _number(state.raw("batch_size")), _number(state.raw("batch_limit"))
    return min(1.0, limit / whole) if whole and limit is not None else 1.0


def _measurement(document: object) -> model.Curve | None:
    """Return the curve that a pod measured, None if it is none: a state is worth more than it.

    Times that fall a little are noise, and a frame that takes no memory is one
    that takes less than was looked for; both are read so that no plan is bolder.
    """
    faults: list[Fault] = []
    if not isinstance(document, Mapping) or not isinstance(document.get("frameBatchMs"), list):
        return None
    rising: list[object] = []
    slowest = 0.0
    for point in map(_point, document["frameBatchMs"]):
        if point is not None:
            slowest = max(slowest, point[1])
            rising.append([point[0], slowest])
    per_frame = document.get("perFrameMiB") or 1
    read = {**document, "frameBatchMs": rising, "perFrameMiB": per_frame}
    curve = _curve(Fields(read, "calibration", faults))
    return None if faults else curve


def _calibration(fields: Fields) -> model.Calibration:
    return model.Calibration(
        curve=_curve(fields),
        device=fields.choice("device", model.Device.CUDA),
        pod=fields.text("pod"),
        node=fields.text("node"),
        measured_at=fields.text("measuredAt"),
    )


def _first_frame(latency: Fields) -> float | None:
    value = latency.raw("first_frame_p95")
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None  # it informs, and no pod is unreadable for want of it
    return float(value)


def _identity(body: Mapping[str, object], faults: list[Fault]) -> _Identity:
    metadata = Fields(body.get("metadata"), "metadata", faults)
    return _Identity(
        name=metadata.text("name"),
        namespace=metadata.text("namespace", "default"),
        uid=metadata.text("uid"),
        generation=metadata.integer("generation", 0, 0, 2**63),
    )


def _annotations(body: Mapping[str, object]) -> Mapping[str, str]:
    return Fields(body.get("metadata"), "metadata", []).strings("annotations")


def _exclude(spec: Fields, first: str, second: str) -> None:
    if spec.has(first) and spec.has(second):
        spec.note(first, spec.raw(first), f"left out, since {second} is set")


def _model(fields: Fields) -> model.Model:
    return model.Model(
        version=fields.one_of("version", "v15", ("v1", "v15")),
        decoder=fields.one_of("decoder", model.DECODER, ("sd-vae", "taesd")),
        precision=fields.one_of("precision", model.PRECISION, ("fp16", "bf16", "fp32")),
        source=_source(fields, "source", DEMO_MODEL),
    )


def _source(parent: Fields, name: str, default: str) -> model.Source:
    if not parent.has(name):
        return model.ImageSource(default)
    fields = parent.child(name)
    kinds = [kind for kind in ("persistentVolumeClaim", "hostPath", "image") if fields.has(kind)]
    if len(kinds) != 1:
        limit = "exactly one of persistentVolumeClaim, hostPath and image"
        parent.note(name, parent.raw(name), limit)
        return model.ImageSource(default)
    chosen = fields.child(kinds[0])
    if kinds[0] == "persistentVolumeClaim":
        chosen.required("claimName", "the name of a PersistentVolumeClaim")
        path = chosen.text("path", pattern=r"^((?!\.\.).)*$", limit="a path without '..'")
        return model.ClaimSource(chosen.text("claimName"), path.strip("/"))
    chosen.required("path", "an absolute path")
    path = chosen.text(
        "path", default, pattern=r"^/((?!\.\.).)*$", limit="an absolute path without '..'"
    )
    return model.HostPathSource(path) if kinds[0] == "hostPath" else model.ImageSource(path)


def _rate(spec: Fields) -> int:
    fps = spec.integer("fps", 25, 1, 1000)
    if fps not in RATES:
        spec.note("fps", fps, "one of " + ", ".join(map(str, RATES)))
    return fps


def _placement(fields: Fields) -> model.Placement:
    return model.Placement(
        gpu_classes=fields.texts(
            "gpuClasses", pattern=_CLASS, limit="the name of a GPUProfile", unique=True
        ),
        strategy=fields.choice("strategy", model.Strategy.PREFERRED),
        when_full=fields.choice("whenFull", model.WhenFull.FALL_THROUGH),
        node_selector=tuple(sorted(fields.strings("nodeSelector").items())),
        tolerations=tuple(_toleration(item) for item in fields.children("tolerations")),
    )


def _toleration(fields: Fields) -> model.Toleration:
    return model.Toleration(
        key=fields.text("key"),
        operator=fields.one_of("operator", "Equal", ("Equal", "Exists")),
        value=fields.text("value"),
        effect=fields.one_of("effect", "", ("NoSchedule", "PreferNoSchedule", "NoExecute")),
        seconds=fields.optional_integer("tolerationSeconds", 0, 2**31),
    )


def _sessions(fields: Fields) -> model.SessionLimits:
    return model.SessionLimits(
        max_duration_s=fields.integer("maxDurationSeconds", 7200, 1, DAY_S),
        idle_timeout_s=fields.integer("idleTimeoutSeconds", 300, 1, DAY_S),
        drain_timeout_s=fields.integer("drainTimeoutSeconds", 3600, 0, DAY_S),
    )


def _template(fields: Fields) -> model.Template:
    resources = fields.child("resources")
    return model.Template(
        image=fields.text("image") or None,
        image_pull_policy=fields.text("imagePullPolicy") or None,
        labels=fields.strings("labels"),
        annotations=fields.strings("annotations"),
        resources={name: resources.fragment(name) for name in ("requests", "limits")},
        env=fields.fragments("env"),
        volumes=fields.fragments("volumes"),
        volume_mounts=fields.fragments("volumeMounts"),
        service_account=fields.text("serviceAccountName") or None,
        priority_class=fields.text("priorityClassName") or None,
        runtime_class=fields.text("runtimeClassName") or None,
    )


def _cost(spec: Fields) -> Decimal | None:
    text = spec.text("costPerHour", pattern=policies.COST, limit=policies.COST_LIMIT)
    return Decimal(text) if text else None


def _curve(fields: Fields) -> model.Curve:
    points: list[tuple[int, float]] = []
    for index, item in enumerate(fields.items("frameBatchMs")):
        point = _point(item)
        if point is None or (points and (point[0] <= points[-1][0] or point[1] < points[-1][1])):
            limit = "[frames, milliseconds], rising by frames and not falling by time"
            fields.note(f"frameBatchMs[{index}]", item, limit)
        else:
            points.append(point)
    if not points:
        fields.note("frameBatchMs", None, "a list of [frames, milliseconds]")
        points.append((1, 1.0))
    for name in ("model", "baseMiB", "perFrameMiB"):
        fields.required(name, "set")
    return model.Curve(
        model=fields.text("model"),
        base_mib=fields.integer("baseMiB", 1, 1, 10**7),
        per_frame_mib=fields.integer("perFrameMiB", 1, 1, 10**6),
        frame_batch_ms=tuple(points),
    )


def _point(item: object) -> tuple[int, float] | None:
    if not isinstance(item, list) or len(item) != 2:
        return None
    frames, milliseconds = item
    for number in (frames, milliseconds):
        if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
            return None
    if int(frames) != frames or frames > 1024 or milliseconds > 10**6:
        return None
    return int(frames), float(milliseconds)
