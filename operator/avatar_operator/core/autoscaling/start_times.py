"""How long pods take to start: by stage for people, in total by GPU class for the autoscaler.

A start counts once, when a pod that was seen not ready becomes ready without a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from avatar_contracts.fields import Fields
from avatar_contracts.percentiles import percentile

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

Stage = Literal[
    "scheduled", "image", "download", "process", "weights", "avatars", "warmUp", "total"
]
STAGES: Final[tuple[Stage, ...]] = (
    *("scheduled", "image", "download", "process"),
    *("weights", "avatars", "warmUp", "total"),
)
"""In their order. `image` is from the node to the first container: volumes and images. The time of
the kubelet's probes and of the API server is in `total` only."""

KEPT: Final = 50
"""Starts of a class that the 90th percentile is of."""
PERCENT: Final = 90.0
MIN_S: Final = 1.0
MAX_S: Final = 1200.0
"""The start timeout of a pod (`container.START_TIMEOUT_S`): a longer start has failed."""
MAX_CLASSES: Final = 64

Durations = Mapping[Stage, float]
"""Seconds by stage; only those that are known."""


@dataclass(frozen=True, slots=True)
class PodStart:
    """One start of one pod."""

    pod: str
    gpu_class: str
    seconds: Durations


@dataclass(frozen=True, slots=True)
class ClassStarts:
    """The last starts on one GPU class."""

    totals: tuple[float, ...]
    """Seconds, oldest first, at most `KEPT`."""
    last: PodStart | None = None
    """None if they are from the status of another replica."""

    @property
    def p90_s(self) -> float:
        """The 90th percentile of the totals, within `MIN_S` and `MAX_S`."""
        return min(MAX_S, max(MIN_S, percentile(self.totals, PERCENT) or 0.0))


@dataclass(frozen=True, slots=True)
class Starts:
    """The starts of the pods of one service."""

    waiting: frozenset[str] = frozenset()
    """UIDs of the pods that were seen not ready and have not started yet."""
    started: frozenset[str] = frozenset()
    """UIDs of the pods that were seen ready: not being ready again is no start."""
    classes: Mapping[str, ClassStarts] = field(default_factory=dict)


def observe(
    before: Starts, pods: Sequence[RuntimePod], states: Mapping[str, PodState]
) -> tuple[Starts, tuple[PodStart, ...]]:
    """Return the record with the pods that have started since, and these starts.

    A pod that is ready counts when its first state has arrived, which has the stages of its
    runtime. A pod that no one waits for any more is forgotten.
    """
    classes = dict(before.classes)
    started: list[PodStart] = []
    waiting: set[str] = set()
    seen_ready: set[str] = set()
    for pod in pods:
        if pod.ended or pod.terminating or pod.restarts:
            continue
        if pod.uid in before.started:
            seen_ready.add(pod.uid)
        elif not pod.ready:
            waiting.add(pod.uid)
        elif pod.uid not in before.waiting:
            seen_ready.add(pod.uid)  # it started before this replica saw it
        elif (state := states.get(pod.uid)) is None:
            waiting.add(pod.uid)
        else:
            seen_ready.add(pod.uid)
            start = PodStart(pod.name, pod.gpu_class, stages(pod, state))
            started.append(start)
            classes = _with_start(classes, start)
    return Starts(frozenset(waiting), frozenset(seen_ready), classes), tuple(started)


def stages(pod: RuntimePod, state: PodState) -> Durations:
    """Return the seconds of each stage of the start of a pod that is known."""
    times, measured = pod.times, state.start_s
    spans: dict[Stage, float | None] = {
        "scheduled": _span(pod.created_at, times.scheduled_at),
        "image": _span(times.scheduled_at, times.first_container_at),
        "download": times.download_s,
        "process": measured.get("process"),
        "weights": measured.get("weights"),
        "avatars": measured.get("avatars"),
        "warmUp": measured.get("warm_up"),
        "total": _span(pod.created_at, times.ready_at),
    }
    return {stage: span for stage, span in spans.items() if span is not None}


def merged(known: Mapping[str, ClassStarts], started: Sequence[PodStart]) -> dict[str, ClassStarts]:
    """Return the starts by class with new ones; they may be of several services."""
    classes = dict(known)
    for start in started:
        classes = _with_start(classes, start)
    return classes


def describe_all(started: Sequence[PodStart]) -> str:
    """Return one sentence about starts, at least one; of several, the slowest is described."""
    slowest = max(started, key=lambda start: start.seconds.get("total", 0.0))
    if len(started) == 1:
        return describe(slowest)
    return f"{len(started)} pods started; the slowest: {describe(slowest)}"


def p90_by_class(classes: Mapping[str, ClassStarts]) -> dict[str, float]:
    """Return the 90th percentile of the starts on each class, in seconds."""
    return {name: known.p90_s for name, known in classes.items() if known.totals}


def describe(start: PodStart) -> str:
    """Return a start as a sentence for people."""
    total = start.seconds.get("total")
    parts = [f"{_WORDS[s]} {start.seconds[s]:.1f} s" for s in STAGES[:-1] if s in start.seconds]
    took = "" if total is None else f" in {total:.1f} s"
    listed = f": {', '.join(parts)}" if parts else ""
    return f"pod {start.pod} started on {start.gpu_class}{took}{listed}"


def to_status(starts: Starts) -> list[Body]:
    """Return the starts by class for the status of a service."""
    return [
        {
            "gpuClass": name,
            "count": len(known.totals),
            "p90Seconds": round(known.p90_s, 1),
            **({} if known.last is None else _last(known.last)),
        }
        for name, known in sorted(starts.classes.items())
        if known.totals
    ]


def read_status(status: Mapping[str, object]) -> Starts:
    """Return what the status of a service says of the starts of its pods.

    The percentile counts as one start per class, so that new starts outweigh it soon.
    """
    classes: dict[str, ClassStarts] = {}
    for item in islice(Fields(status, "status", []).children("starts"), MAX_CLASSES):
        name, p90 = item.text("gpuClass"), item.raw("p90Seconds")
        if name and isinstance(p90, int | float) and not isinstance(p90, bool):
            classes[name] = ClassStarts((min(MAX_S, max(MIN_S, float(p90))),))
    return Starts(classes=classes)


_WORDS: Final[Mapping[Stage, str]] = {
    "scheduled": "scheduling",
    "image": "volumes and image",
    "download": "model download",
    "process": "process",
    "weights": "weights",
    "avatars": "avatars",
    "warmUp": "warm-up",
}


def _with_start(classes: Mapping[str, ClassStarts], start: PodStart) -> dict[str, ClassStarts]:
    total = start.seconds.get("total")
    known = classes.get(start.gpu_class, ClassStarts(()))
    if total is None or (len(classes) >= MAX_CLASSES and start.gpu_class not in classes):
        return dict(classes)
    totals = (*known.totals, total)[-KEPT:]
    return {**classes, start.gpu_class: replace(known, totals=totals, last=start)}


def _last(start: PodStart) -> Body:
    seconds = {stage: round(start.seconds[stage], 2) for stage in STAGES if stage in start.seconds}
    return {"lastPod": start.pod, "lastSeconds": seconds}


def _span(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(0.0, end - begin)
