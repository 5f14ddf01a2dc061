"""What is remembered of an avatar in its status, because it cannot be observed again.

The operator does not read volumes, and Jobs are deleted some time after they have ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_contracts.fields import Fields
from avatar_operator.core import text
from avatar_operator.core.resources.pod_status import parse_seconds
from avatar_operator.core.resources.preparation import Report
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.resources.fields import Body

_MAX: int = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Prepared:
    """The avatar on the volume."""

    spec_hash: str
    """Hash of the spec that it was made from; empty if a later Job may have replaced it."""
    content_hash: str
    frames: int
    size: str
    path: str
    at: str
    """RFC 3339."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The latest failure of one spec."""

    spec_hash: str
    attempts: int
    at: float
    """Seconds since 1970."""
    reason: Reason
    message: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """What the status says of earlier Jobs."""

    prepared: Prepared | None = None
    failure: Failure | None = None
    report: Report | None = None
    gpu_class: str = ""
    job: str = ""


def read(status: Mapping[str, object]) -> Memory:
    """Return the memory that a status contains; what is missing reads as nothing."""
    fields = Fields(status, "status", [])
    return Memory(
        prepared=_prepared(fields),
        failure=_failure(fields.child("failure")),
        report=_report(fields.child("report")) if fields.has("report") else None,
        gpu_class=fields.text("gpuClass"),
        job=fields.text("job"),
    )


def write(memory: Memory) -> Body:
    """Return the fields of the status that `read` reads."""
    found: Body = {}
    if (prepared := memory.prepared) is not None:
        found |= {
            "specHash": prepared.spec_hash,
            "contentHash": prepared.content_hash,
            "frames": prepared.frames,
            "size": prepared.size,
            "path": prepared.path,
            "preview": f"{prepared.path}/preview.jpg",
            "preparedAt": prepared.at,
        }
    if (failure := memory.failure) is not None:
        found["failure"] = {
            "specHash": failure.spec_hash,
            "attempts": failure.attempts,
            "time": text.rfc3339(failure.at),
            "reason": failure.reason.value,
            "message": failure.message,
            "permanent": failure.permanent,
        }
    if (report := memory.report) is not None:
        found["report"] = {
            "verdict": report.verdict,
            "sentence": report.sentence,
            "frames": report.frames,
            "invalidFrames": report.invalid_frames,
            **({"faults": list(report.faults)} if report.faults else {}),
            **({"warnings": list(report.warnings)} if report.warnings else {}),
        }
    named = {"gpuClass": memory.gpu_class, "job": memory.job}
    return found | {name: value for name, value in named.items() if value}


def _prepared(fields: Fields) -> Prepared | None:
    if not fields.has("contentHash"):
        return None
    return Prepared(
        spec_hash=fields.text("specHash"),
        content_hash=fields.text("contentHash"),
        frames=fields.integer("frames", 0, 0, _MAX),
        size=fields.text("size"),
        path=fields.text("path"),
        at=fields.text("preparedAt"),
    )


def _failure(fields: Fields) -> Failure | None:
    if not fields.has("specHash"):
        return None
    return Failure(
        spec_hash=fields.text("specHash"),
        attempts=fields.integer("attempts", 0, 0, _MAX),
        at=parse_seconds(fields.text("time")) or 0.0,
        reason=fields.choice("reason", Reason.JOB_FAILED),
        message=fields.text("message"),
        permanent=fields.flag("permanent", False),
    )


def _report(fields: Fields) -> Report:
    return Report(
        verdict=fields.text("verdict"),
        sentence=fields.text("sentence"),
        frames=fields.integer("frames", 0, 0, _MAX),
        invalid_frames=fields.integer("invalidFrames", 0, 0, _MAX),
        faults=fields.texts("faults"),
        warnings=fields.texts("warnings"),
    )
