"""The Jobs that prepare avatars, and their pods: their types and their parsers.

The container writes a JSON object of at most 4096 bytes to its termination message, so that the
status of the pod has the result: `{"ok": true, "frames", "width", "height", "content_hash",
"report"}`, or `{"ok": false, "permanent", "message", "report"}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts import exit_status
from avatar_contracts.fields import Fields
from avatar_contracts.owners import owner_of
from avatar_operator import names
from avatar_operator.core.resources import pod_status
from avatar_operator.core.resources.fields import split_body
from avatar_operator.core.resources.log_lines import last_line
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST_MESSAGE: Final = 1024
_MAX_FAULTS: Final = 16
_MAX_WARNINGS: Final = 8
_LONGEST_LINE: Final = 512


@dataclass(frozen=True, slots=True)
class Report:
    """The summary of the report on a source."""

    verdict: str
    sentence: str
    frames: int
    invalid_frames: int
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What the container of a Job reported when it ended."""

    ok: bool
    message: str = ""
    """Why it failed; empty if it did not."""
    permanent: bool = False
    """Whether another attempt would fail as well."""
    frames: int = 0
    width: int = 0
    height: int = 0
    content_hash: str = ""
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class PreparationPod:
    """The pod of a Job that prepares an avatar."""

    uid: str
    job_uid: str
    node: str
    rejected: bool
    """Whether the scheduler finds no node for it."""
    running: bool
    """Whether a container of it runs or has run."""
    trouble: str
    """Why it does not start; empty if no reason is known."""
    ended_at: float | None
    """Seconds since 1970; None if it has not ended."""
    result: Result | None
    """None until it has ended."""
    scheduled_at: float | None = None
    """Seconds since 1970 at which it got its node; None if it has none."""
    avatar: ServiceKey | None = None
    """The avatar that its label names."""


@dataclass(frozen=True, slots=True)
class PreparationJob:
    """A Job that prepares an avatar."""

    name: str
    namespace: str
    uid: str
    avatar: str
    avatar_uid: str
    spec_hash: str
    attempt: int
    gpu_class: str
    """Empty if it uses no GPU."""
    created_at: float
    ended_at: float | None
    """Seconds since 1970; None if it has not ended."""
    succeeded: bool
    failure: tuple[str, str] = ("", "")
    """Reason and message of a failed Job."""
    terminating: bool = False
    pods: tuple[PreparationPod, ...] = field(default=(), compare=True)

    @property
    def key(self) -> ServiceKey:
        """Namespace and name."""
        return ServiceKey(self.namespace, self.name)


def parse_job(body: Mapping[str, object]) -> PreparationJob | None:
    """Return the Job that a body describes, None if no Avatar controls it."""
    metadata, _, status = split_body(body)
    owner = owner_of(body, names.AVATAR_KIND)
    if owner is None:
        return None
    labels = metadata.strings("labels")
    created_at = pod_status.parse_seconds(metadata.text("creationTimestamp")) or 0.0
    ended_at, succeeded, failure = _outcome(status, created_at)
    attempt = metadata.strings("annotations").get(names.ANNOTATION_ATTEMPT, "")
    return PreparationJob(
        name=metadata.text("name"),
        namespace=metadata.text("namespace", "default"),
        uid=metadata.text("uid"),
        avatar=owner.name,
        avatar_uid=owner.uid,
        spec_hash=labels.get(names.LABEL_SPEC_HASH, ""),
        attempt=int(attempt) if attempt.isascii() and attempt.isdigit() else 0,
        gpu_class=labels.get(names.LABEL_GPU_CLASS, ""),
        created_at=created_at,
        ended_at=ended_at,
        succeeded=succeeded,
        failure=failure,
        terminating=metadata.has("deletionTimestamp"),
    )


def parse_pod(body: Mapping[str, object]) -> PreparationPod | None:
    """Return the pod of a preparation that a body describes, None if it is another pod."""
    metadata, spec, status = split_body(body)
    if names.LABEL_AVATAR not in metadata.strings("labels"):
        return None
    job_uid = _controlling_job(metadata)
    if not job_uid:
        return None
    created_at = pod_status.parse_seconds(metadata.text("creationTimestamp")) or 0.0
    ended = status.text("phase") in ("Succeeded", "Failed")
    statuses = [
        *status.children("initContainerStatuses"),
        *status.children("containerStatuses"),
    ]
    begun = any(
        each.child("state").has("running") or each.child("state").has("terminated")
        for each in statuses
    )
    bound_at = pod_status.bound_at(status)
    scheduled_at = created_at if bound_at is None else bound_at
    return PreparationPod(
        uid=metadata.text("uid"),
        job_uid=job_uid,
        node=spec.text("nodeName"),
        rejected=not spec.text("nodeName") and pod_status.rejected_at(status) is not None,
        running=begun,
        trouble="" if ended else _trouble(status, statuses),
        ended_at=pod_status.ended_at(status, created_at) if ended else None,
        result=_result(status, statuses) if ended else None,
        avatar=ServiceKey(
            metadata.text("namespace", "default"),
            metadata.strings("labels")[names.LABEL_AVATAR],
        ),
        scheduled_at=scheduled_at if spec.text("nodeName") else None,
    )


def _controlling_job(metadata: Fields) -> str:
    for reference in metadata.children("ownerReferences"):
        is_job = reference.text("kind") == "Job" and reference.text("apiVersion") == "batch/v1"
        if is_job and reference.flag("controller", False):
            return reference.text("uid")
    return ""


def _outcome(status: Fields, created_at: float) -> tuple[float | None, bool, tuple[str, str]]:
    """Return when a Job ended, whether it succeeded, and else why not."""
    for condition in status.children("conditions"):
        kind = condition.text("type")
        if condition.text("status") != "True" or kind not in ("Complete", "Failed"):
            continue
        at = pod_status.parse_seconds(condition.text("lastTransitionTime")) or created_at
        failure = (condition.text("reason"), condition.text("message"))
        return at, kind == "Complete", ("", "") if kind == "Complete" else failure
    return None, False, ("", "")


def _trouble(status: Fields, statuses: list[Fields]) -> str:
    """Return why a pod does not start: the scheduler's reason, or that of a container."""
    why = pod_status.unscheduled(status)
    if why is not None:
        return f"not scheduled: {why}"[:_LONGEST_LINE]
    for container in statuses:
        waiting = container.child("state").child("waiting")
        if waiting.text("reason") not in ("", "ContainerCreating", "PodInitializing"):
            return f"{waiting.text('reason')}: {waiting.text('message')}"[:_LONGEST_LINE]
    return ""


def _result(status: Fields, statuses: list[Fields]) -> Result:
    """Return the result of a pod that has ended: of the first container that failed, or the last.

    A container that writes no result (it was killed, or its image is another one) has failed.
    """
    for container in statuses:
        ended = container.child("state").child("terminated")
        code = ended.integer("exitCode", 0, -(2**31), 2**31)
        if code or container.text("name") == names.PREPARE_CONTAINER:
            return parse_result(ended.text("message"), code, ended.text("reason"))
    reason = status.text("reason")
    message = f"{reason}: {status.text('message')}".strip(": ")
    return Result(ok=False, message=(message or "the pod ended without a result")[:LONGEST_MESSAGE])


def parse_result(message: str, code: int, reason: str = "") -> Result:
    """Return the result in a termination message; `code` is the exit status."""
    fields = Fields(_document(message), "result", [])
    report = _report(fields.child("report")) if fields.has("report") else None
    if code == 0 and fields.flag("ok", False):
        return Result(
            ok=True,
            frames=fields.integer("frames", 0, 0, 2**31 - 1),
            width=fields.integer("width", 0, 0, 2**31 - 1),
            height=fields.integer("height", 0, 0, 2**31 - 1),
            content_hash=_printable(fields.text("content_hash"), 128),
            report=report,
        )
    text = fields.text("message")
    if not text:
        text = "" if _document(message) else last_line(message)
        text = text or f"the container ended with exit status {code} ({reason})"
    return Result(
        ok=False,
        message=_printable(text, LONGEST_MESSAGE),
        # A message of a container that was killed, or of another image, says nothing about it.
        permanent=fields.flag("permanent", code == exit_status.WRONG_INPUT),
        report=report,
    )


def _document(message: str) -> object:
    try:
        document = json.loads(message)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _report(fields: Fields) -> Report:
    return Report(
        verdict=_printable(fields.text("verdict"), 32),
        sentence=_printable(fields.text("sentence"), LONGEST_MESSAGE),
        frames=fields.integer("frames", 0, 0, 2**31 - 1),
        invalid_frames=fields.integer("invalid_frames", 0, 0, 2**31 - 1),
        faults=_lines(fields.texts("faults")[:_MAX_FAULTS]),
        warnings=_lines(fields.texts("warnings")[:_MAX_WARNINGS]),
    )


def _lines(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_printable(text, _LONGEST_LINE) for text in texts)


def _printable(text: str, limit: int) -> str:
    """Return the beginning of a text without control characters.

    The image of the container may be a user's own, and terminals show the status.
    """
    return "".join(char if char.isprintable() else " " for char in text[:limit])
