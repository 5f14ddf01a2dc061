"""Builds the status of a GPUProfile: measurements of pods, and inconsistent labels of nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator.core.gpus import calibration, node_classes
from avatar_operator.core.status import service_status
from avatar_operator.core.status.findings import Finding
from avatar_operator.core.text import rfc3339
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.gpu_profile import Calibration, GPUProfile

_NAMED: Final = 3  # nodes that a message names


def build(
    profile: GPUProfile,
    reports: Iterable[calibration.Report],
    nodes: Iterable[node_classes.NodeClass],
    generation: int,
    previous: Mapping[str, object],
    now: float,
) -> Body | None:
    """Return the new status of a profile, or None if it does not change.

    `nodes` are all nodes. A report counts if its pod has a whole GPU of this class: on a shared GPU
    other pods influence the measurement.
    """
    classified = tuple(nodes)
    whole = {
        part.node.name for part in classified if part.gpu_class == profile.name and not part.shared
    }
    counted = [
        report
        for report in reports
        if report.pod.gpu_class == profile.name and report.pod.node in whole
    ]
    chosen = calibration.choose(profile, counted, rfc3339(now))
    findings = _findings(profile, chosen, classified, previous)
    wanted: Body = {}
    if chosen:
        wanted["calibrations"] = [_item(calibration) for calibration in chosen]
    if findings:
        wanted["conditions"] = service_status.timed_conditions(generation, findings, previous, now)
    return None if _keyed(wanted) == _keyed(previous) else wanted


def _findings(
    profile: GPUProfile,
    chosen: Sequence[Calibration],
    nodes: Sequence[node_classes.NodeClass],
    previous: Mapping[str, object],
) -> list[Finding]:
    """Return the conditions; one without a finding is kept only if it existed before."""
    before = {item.text("type") for item in Fields(previous, "", []).children("conditions")}
    findings: list[Finding] = []
    if chosen or Condition.BATCH_CALIBRATED.value in before:
        findings.append(_calibrated(profile, chosen))
    inconsistent = [
        f"node {part.node.name}: {part.warning or part.reason}"
        for part in nodes
        if profile.name in part.candidates or (part.gpu_class == profile.name and part.warning)
    ]
    if inconsistent:
        more = f"; and {len(inconsistent) - _NAMED} more" if len(inconsistent) > _NAMED else ""
        message = "; ".join(inconsistent[:_NAMED]) + more
        findings.append(
            Finding(Condition.NODES_RECOGNISED, False, Reason.LABELS_AMBIGUOUS, message)
        )
    elif Condition.NODES_RECOGNISED.value in before:
        message = "no node has labels that match several profiles or contradict each other"
        findings.append(Finding(Condition.NODES_RECOGNISED, True, Reason.LABELS_CLEAR, message))
    return findings


def _calibrated(profile: GPUProfile, chosen: Sequence[Calibration]) -> Finding:
    condition = Condition.BATCH_CALIBRATED
    if not chosen:
        message = "there is no valid measurement; the curves in spec are used"
        return Finding(condition, False, Reason.NOT_CALIBRATED, message)
    calibrated = replace(profile, calibrations=tuple(chosen))
    found = {item.key: calibration.contradiction(calibrated, *item.key) for item in chosen}
    differing = [
        f"{variant} in {space}: {what}" for (variant, space), what in found.items() if what
    ]
    if differing:
        more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        message = "measurements differ from spec.curves, and are used in their namespace: "
        message += "; ".join(differing[:_NAMED]) + more
        return Finding(condition, False, Reason.CALIBRATION_DIFFERS, message)
    message = "measured: " + ", ".join(sorted({variant for variant, _ in found}))
    return Finding(condition, True, Reason.CALIBRATED, message)


def _item(calibration: Calibration) -> Body:
    curve = calibration.curve
    return {
        "model": curve.model,
        "baseMiB": curve.base_mib,
        "perFrameMiB": curve.per_frame_mib,
        "frameBatchMs": [list(point) for point in curve.frame_batch_ms],
        "device": calibration.device.value,
        "measuredAt": calibration.measured_at,
        "pod": calibration.pod,
        "node": calibration.node,
    }


def _keyed(document: Mapping[str, object]) -> dict[str, object]:
    """Return the lists as maps, because the API server may change their order."""
    fields = Fields(document, "", [])
    lists = {"calibrations": ("model", "pod"), "conditions": ("type",)}
    return {
        name: {tuple(str(item.get(key)) for key in keys): item for item in fields.fragments(name)}
        for name, keys in lists.items()
    }
