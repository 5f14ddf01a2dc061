"""Decides which measurement of a GPU class counts, and when one contradicts the profile."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_operator.core.resources.gpu_profile import Calibration, Curve, Device, GPUProfile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avatar_operator.core.resources.pod import RuntimePod

TOLERANCE: Final = 0.05
"""Measurements that differ by less are the same one: what was stored stays."""

CONTRADICTION: Final = 0.20
"""A measurement that differs by more from the profile's own curve is worth telling."""

SETTLED_S: Final = 86400
"""A measurement older than this is replaced by a newer one, however little they differ."""


class Report(NamedTuple):
    """What a pod says that it measured when it started."""

    pod: RuntimePod
    device: str
    curve: Curve


class Difference(NamedTuple):
    """The largest deviation of a measured figure from the one it is compared with."""

    share: float
    what: str


def choose(profile: GPUProfile, reports: Iterable[Report], now: str) -> tuple[Calibration, ...]:
    """Return the calibrations that a profile should hold, newest first.

    `now` is a time as Kubernetes writes it. The same reports give the same
    answer, in any order, and what the answer says is kept by the next one: at
    rest nothing changes.
    """
    allowed = {Device.CUDA}
    if profile.allow_simulated:
        allowed.add(Device.SIMULATED)
    kept = {item.curve.model: item for item in profile.calibrations if item.device in allowed}
    best: dict[str, Calibration] = {}
    for report in sorted(reports, key=_worth):
        device = next((known for known in allowed if known.value == report.device), None)
        if device is not None:
            pod = f"{report.pod.namespace}/{report.pod.name}"
            curve = report.curve
            best[curve.model] = Calibration(curve, device, pod, report.pod.node, now)
    for variant, found in best.items():
        if variant not in kept or _replaces(found, kept[variant]):
            kept[variant] = found
    by_model = sorted(kept.values(), key=lambda item: item.curve.model)
    return tuple(sorted(by_model, key=lambda item: item.measured_at, reverse=True))


def contradiction(profile: GPUProfile, variant: str) -> str:
    """Say what was measured and given in different figures, "" if they agree well enough."""
    measured, given = profile.calibration(variant), profile.given(variant)
    if measured is None or given is None:
        return ""
    found = difference(measured.curve, given)
    return found.what if found.share > CONTRADICTION else ""


def difference(measured: Curve, other: Curve) -> Difference:
    """Compare two curves at the batch sizes that one measured and the other covers."""
    found = Difference(0.0, "")
    for frames, ms in measured.frame_batch_ms:
        if not other.covers(frames):
            continue
        figures = (
            (ms, other.batch_ms(frames), "takes", "ms"),
            (measured.memory_mib(frames), other.memory_mib(frames), "needs", "MiB"),
        )
        for new, old, verb, unit in figures:
            share = new / old - 1
            if abs(share) > found.share:
                text = f"a batch of {frames} {verb} {new:.0f} {unit} instead of {old:.0f}"
                found = Difference(abs(share), f"{text} ({share:+.0%})")
    return found


def _worth(report: Report) -> tuple[bool, int, float, str]:
    """Order reports: the last is a real device that measured large batches lately."""
    return (
        report.device == Device.CUDA.value,
        report.curve.largest,
        report.pod.created_at,
        report.pod.uid,
    )


def _replaces(new: Calibration, old: Calibration) -> bool:
    if new.device is not old.device:
        return new.device is Device.CUDA
    if new.curve.largest != old.curve.largest:
        # A pod with smaller batches knows less, unless the card has become another one.
        larger = new.curve.largest > old.curve.largest
        return larger or difference(new.curve, old.curve).share > TOLERANCE
    share = difference(new.curve, old.curve).share
    return share > TOLERANCE or (share > 0 and _settled(old.measured_at, new.measured_at))


def _settled(then: str, now: str) -> bool:
    try:
        elapsed = datetime.fromisoformat(now) - datetime.fromisoformat(then)
    except ValueError:
        return True  # a time that cannot be read is no reason to keep it
    return elapsed.total_seconds() > SETTLED_S
