"""Decides which measurement of a GPU class is used, and when it differs from the profile."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_operator.core.resources.gpu_profile import Calibration, Curve, Device, GPUProfile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avatar_operator.core.resources.pod import RuntimePod

TOLERANCE: Final = 0.05
"""A smaller relative difference does not replace the stored measurement."""

CONTRADICTION: Final = 0.20
"""A larger relative difference from the profile's curve is reported in a condition."""

MAX_AGE_S: Final = 86400
"""A stored measurement older than this is replaced, even if the difference is small."""


MAX_KEPT: Final = 256
"""Stored measurements of one profile; the oldest are dropped."""


class Report(NamedTuple):
    """The measurement that a pod reports after its start."""

    pod: RuntimePod
    device: str
    curve: Curve


class Difference(NamedTuple):
    """The largest relative difference between two curves, and its description."""

    share: float
    what: str


def choose(profile: GPUProfile, reports: Iterable[Report], now: str) -> tuple[Calibration, ...]:
    """Return the calibrations that a profile should have, one for each model and namespace.

    They are sorted by time, newest first.
    `now` is a time in RFC 3339. The result does not depend on the order of the reports, and equal
    reports do not change it again.
    """
    allowed = {Device.CUDA}
    if profile.allow_simulated:
        allowed.add(Device.SIMULATED)
    kept = {item.key: item for item in profile.calibrations if item.device in allowed}
    best: dict[tuple[str, str], Calibration] = {}
    for report in sorted(reports, key=_priority):
        device = next((known for known in allowed if known.value == report.device), None)
        if device is not None:
            pod = f"{report.pod.namespace}/{report.pod.name}"
            found = Calibration(report.curve, device, pod, report.pod.node, now)
            best[found.key] = found
    for key, found in best.items():
        if key not in kept or _replaces(found, kept[key]):
            kept[key] = found
    by_key = sorted(kept.values(), key=lambda item: item.key)
    newest_first = sorted(by_key, key=lambda item: item.measured_at, reverse=True)
    return tuple(newest_first[:MAX_KEPT])


def contradiction(profile: GPUProfile, variant: str, namespace: str) -> str:
    """Describe the difference of a namespace's measurement from the spec, "" if it is small."""
    measured, given = profile.calibration(variant, namespace), profile.given(variant)
    if measured is None or given is None:
        return ""
    found = difference(measured.curve, given)
    return found.what if found.share > CONTRADICTION else ""


def difference(measured: Curve, other: Curve) -> Difference:
    """Compare a measured curve with another one, at each measured batch size that both cover."""
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


def _priority(report: Report) -> tuple[bool, int, float, str]:
    """Return the sort key of a report: the last one is used for its model variant."""
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
        # A curve with smaller batches says less, unless the GPU itself has changed.
        larger = new.curve.largest > old.curve.largest
        return larger or difference(new.curve, old.curve).share > TOLERANCE
    share = difference(new.curve, old.curve).share
    return share > TOLERANCE or (share > 0 and _is_old(old.measured_at, new.measured_at))


def _is_old(then: str, now: str) -> bool:
    try:
        elapsed = datetime.fromisoformat(now) - datetime.fromisoformat(then)
    except ValueError:
        return True  # a time that cannot be parsed does not keep the measurement
    return elapsed.total_seconds() > MAX_AGE_S
