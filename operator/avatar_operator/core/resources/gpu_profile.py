"""GPUProfile: its type and its parser."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_contracts.fields import Fault, Fields
from avatar_operator import names
from avatar_operator.core.resources import autoscaling
from avatar_operator.core.resources.fields import parse_identity
from avatar_operator.core.resources.quantities import parse_resources
from avatar_operator.errors import InvalidResource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.resources.quantities import Resources

MAX_BATCH: Final = 64
"""Largest batch size that a service may set."""


MAX_NEW_NODE_LABELS: Final = 16


class Floor(NamedTuple):
    """The minimum memory of batches of more than `above` frames."""

    above: int
    base_mib: int
    per_frame_mib: int


@dataclass(frozen=True, slots=True)
class Curve:
    """Memory and time of a batch of one model variant on one GPU class."""

    model: str
    base_mib: int
    per_frame_mib: int
    frame_batch_ms: tuple[tuple[int, float], ...]
    """(frames, milliseconds), in ascending order of frames, never empty."""
    floor: Floor | None = None
    """Minimum memory beyond the measured batch sizes."""

    @property
    def smallest(self) -> int:
        """The smallest measured batch size."""
        return self.frame_batch_ms[0][0]

    @property
    def largest(self) -> int:
        """The largest measured batch size."""
        return self.frame_batch_ms[-1][0]

    def memory_mib(self, frames: int) -> int:
        """Return the memory in MiB that the device reports during a batch of `frames`."""
        line = self.base_mib + frames * self.per_frame_mib
        if self.floor is None or frames <= self.floor.above:
            return line
        return max(line, self.floor.base_mib + frames * self.floor.per_frame_mib)

    def batch_ms(self, frames: int) -> float:
        """Return the time of a batch in milliseconds, interpolated linearly between two points.

        `frames` must be within the curve.
        """
        for (low, low_ms), (high, high_ms) in zip(
            self.frame_batch_ms, self.frame_batch_ms[1:], strict=False
        ):
            if low <= frames < high:
                return low_ms + (high_ms - low_ms) * (frames - low) / (high - low)
        return self.frame_batch_ms[-1][1]

    def covers(self, frames: int) -> bool:
        """Return whether a batch size is within the curve."""
        return self.smallest <= frames <= self.largest

    def extended_by(self, given: Curve | None) -> Curve:
        """Return this measured curve, extended by the larger batch sizes of the profile's curve.

        A pod measures no batch larger than its own, so each plan would otherwise be limited by the
        previous one. The times of the profile are scaled by the ratio at the last measured batch
        size. The memory is the larger one of both curves.
        """
        if given is None or not given.covers(self.largest) or given.largest == self.largest:
            return self
        ratio = self.frame_batch_ms[-1][1] / given.batch_ms(self.largest)
        rest = tuple((b, ms * ratio) for b, ms in given.frame_batch_ms if b > self.largest)
        floor = Floor(self.largest, given.base_mib, given.per_frame_mib)
        return replace(self, frame_batch_ms=self.frame_batch_ms + rest, floor=floor)


class Device(Enum):
    """The kind of device of a measurement."""

    CUDA = "cuda"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve that a pod measured when it started, and its origin."""

    curve: Curve
    device: Device
    pod: str
    """NAMESPACE/NAME."""
    node: str
    measured_at: str
    """RFC 3339."""

    @property
    def namespace(self) -> str:
        """The namespace of the pod."""
        return self.pod.partition("/")[0]

    @property
    def key(self) -> tuple[str, str]:
        """Model variant and namespace; a profile has one measurement of each."""
        return self.curve.model, self.namespace


@dataclass(frozen=True, slots=True)
class GPUProfile:
    """A GPU class: which nodes belong to it, and its curves."""

    name: str
    products: tuple[str, ...]
    """Glob patterns of the product label."""
    memory_min_mib: int
    memory_max_mib: int
    cost_per_hour: Decimal | None
    allow_shared: bool
    curves: tuple[Curve, ...]
    """Curves in the spec."""
    calibrations: tuple[Calibration, ...] = ()
    """Curves that pods measured."""
    allow_simulated: bool = False
    """Whether measurements of simulated devices count."""
    resources: Resources = field(default_factory=dict)
    """CPU and memory of the pods, unless the service or the chart sets them."""
    new_node_labels: tuple[tuple[str, str], ...] = ()
    """Labels by which a node autoscaler knows the nodes of the class; empty if none are set."""

    def given(self, variant: str) -> Curve | None:
        """Return the curve of a model variant in the spec."""
        return next((curve for curve in self.curves if curve.model == variant), None)

    def calibration(self, variant: str, namespace: str) -> Calibration | None:
        """Return the measurement of a model variant by pods of a namespace."""
        key = (variant, namespace)
        return next((item for item in self.calibrations if item.key == key), None)

    def curve(self, variant: str, namespace: str) -> Curve | None:
        """Return the curve to plan pods of a namespace with.

        A curve that pods of the namespace measured takes precedence over the spec. Those of other
        namespaces do not count, because a user chooses the image, and so what the pods report.
        """
        measured, given = self.calibration(variant, namespace), self.given(variant)
        return given if measured is None else measured.curve.extended_by(given)


def parse_profile(body: Mapping[str, object]) -> GPUProfile:
    """Return the GPU class that a body describes, with its measurements.

    Raises:
        InvalidResource: at least one field is wrong; the error lists all of them.
    """
    faults: list[Fault] = []
    identity = parse_identity(body, faults)
    spec = Fields(body.get("spec"), "spec", faults)
    match = spec.child("match")
    memory = match.child("memoryMiB")
    for parent, name, limit in (
        (match, "products", "a list of product patterns"),
        (memory, "min", "the minimum memory in MiB"),
        (memory, "max", "the maximum memory in MiB"),
    ):
        parent.required(name, limit)
    low, high = memory.integer("min", 1, 1, 10**7), memory.integer("max", 10**7, 1, 10**7)
    if low > high:
        memory.add_fault("min", low, f"less than or equal to max, which is {high}")
    status = Fields(body.get("status"), "status", faults)
    given = tuple(parse_curve(curve) for curve in spec.children("curves"))
    if not given:
        spec.add_fault("curves", spec.raw("curves"), "must contain at least one curve")
    for variant in sorted({curve.model for curve in given}):
        if sum(curve.model == variant for curve in given) > 1:
            spec.add_rule("curves", f"must not contain several curves of one model: {variant}")
    annotations = Fields(body.get("metadata"), "metadata", []).strings("annotations")
    profile = GPUProfile(
        name=identity.name,
        products=match.texts("products"),
        memory_min_mib=low,
        memory_max_mib=high,
        cost_per_hour=_cost(spec),
        allow_shared=spec.flag("allowShared", False),
        curves=given,
        calibrations=tuple(parse_calibration(item) for item in status.children("calibrations")),
        allow_simulated=annotations.get(names.ANNOTATION_SIMULATED) == "true",
        resources=parse_resources(spec.child("resources")),
        new_node_labels=_new_node_labels(spec.child("newNodes")),
    )
    if faults:
        raise InvalidResource(names.PROFILE_KIND, identity.name, faults)
    return profile


def parse_calibration(fields: Fields) -> Calibration:
    """Return one item of `status.calibrations`."""
    return Calibration(
        curve=parse_curve(fields),
        device=fields.choice("device", Device.CUDA),
        pod=fields.text("pod"),
        node=fields.text("node"),
        measured_at=fields.text("measuredAt"),
    )


def _new_node_labels(fields: Fields) -> tuple[tuple[str, str], ...]:
    labels = fields.strings("labels")
    if len(labels) > MAX_NEW_NODE_LABELS:
        fields.add_fault("labels", len(labels), f"at most {MAX_NEW_NODE_LABELS} labels")
    return tuple(sorted((key, value) for key, value in labels.items() if value))


def _cost(spec: Fields) -> Decimal | None:
    text = spec.text("costPerHour", pattern=autoscaling.COST, limit=autoscaling.COST_LIMIT)
    return Decimal(text) if text else None


def parse_curve(fields: Fields) -> Curve:
    """Return a curve; faults are recorded in `fields`."""
    points: list[tuple[int, float]] = []
    for index, item in enumerate(fields.items("frameBatchMs")):
        point = parse_point(item)
        where = f"frameBatchMs[{index}]"
        if point is None:
            fields.add_fault(where, item, "[frames, milliseconds]")
        elif points and point[0] <= points[-1][0]:
            rule = "batch sizes must be in ascending order without duplicates"
            fields.add_rule(where, f"{rule}: {item}")
        elif points and point[1] < points[-1][1]:
            fields.add_rule(where, f"times must not decrease: {item}")
        else:
            points.append(point)
    if not points:
        fields.add_fault("frameBatchMs", None, "a list of [frames, milliseconds]")
        points.append((1, 1.0))
    for name in ("model", "baseMiB", "perFrameMiB"):
        fields.required(name, "set")
    return Curve(
        model=fields.text("model"),
        base_mib=fields.integer("baseMiB", 1, 1, 10**7),
        per_frame_mib=fields.integer("perFrameMiB", 1, 1, 10**6),
        frame_batch_ms=tuple(points),
    )


def parse_point(item: object) -> tuple[int, float] | None:
    """Return a pair of frames and milliseconds, None if the item is not one."""
    if not isinstance(item, list) or len(item) != 2:
        return None
    frames, milliseconds = item
    for number in (frames, milliseconds):
        if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
            return None
    if int(frames) != frames or frames > 1024 or milliseconds > 10**6:
        return None
    return int(frames), float(milliseconds)
