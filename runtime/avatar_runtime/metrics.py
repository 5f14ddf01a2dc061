"""The metrics of the runtime: one method for each fact."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from avatar_contracts.percentiles import percentile
from avatar_runtime.upstream.metrics import UpstreamMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from avatar_contracts.state import StartStage
    from avatar_runtime.cpus import Cpus

ResumeResult = Literal["resumed", "recovered", "refused", "gap", "expired", "limited", "displaced"]
MoveResult = Literal["exported", "imported", "refused"]
DiscardReason = Literal["cancelled", "slow_client", "failed", "overload"]
FrameKind = Literal["drawn", "silent", "idle"]
"""Drawn by the model, the avatar's source frame in silence, or that of an idle stream."""
TurnLeg = Literal["upstream", "transcription", "chat", "speech", "avatar"]
"""Until the first audio of an answer, the parts of it in mode speech, and from there to its first
frame."""

RECENT_S: Final = 30.0
_RECENT_SAMPLES: Final = 4096
# Around the objectives: 40 ms per frame, 150 ms for the first one.
_FRAME_BUCKETS: Final = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 0.8, 2.0)
_FIRST_BUCKETS: Final = (0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_TURN_BUCKETS: Final = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_LAG_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.1, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class Load:
    """The load of the last 30 s. Latencies are in seconds, `None` without samples."""

    first_frame_p95_s: float | None
    frame_p95_s: float | None
    deadline_miss_ratio: float
    batch_fill_ratio: float
    busy_ratio: float


class Recent:
    """The values of the last 30 s, at most `_RECENT_SAMPLES`."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=_RECENT_SAMPLES)

    def add(self, value: float, now: float) -> None:
        """Add a value."""
        self._values.append((now, value))

    def values(self, now: float) -> list[float]:
        """Return the values of the last 30 s, oldest first."""
        while self._values and self._values[0][0] < now - RECENT_S:
            self._values.popleft()
        return [value for _, value in self._values]


class Metrics:
    """The metrics of one runtime, in their own registry."""

    def __init__(self, device: str, gpu_class: str) -> None:
        self._registry = CollectorRegistry()
        self.upstream = UpstreamMetrics(self._registry)
        """Those of the endpoints of modes bridge and speech."""
        self._first_recent = Recent()
        self._frame_recent = Recent()
        self._miss_recent = Recent()
        self._fill_recent = Recent()
        self._busy_recent = Recent()
        gauge, counter = self._gauge, self._counter
        info = Gauge(
            "avatar_runtime_device_info",
            "Device that generates the frames: cuda, cpu or simulated.",
            ["device", "gpu_class"],
            registry=self._registry,
        )
        info.labels(device, gpu_class).set(1)
        self._start = Gauge(
            "avatar_runtime_start_seconds",
            "Time of the start of this process by stage: process (until it loads the model), "
            "weights, avatars, and warm_up (the first batches on the device).",
            ["stage"],
            registry=self._registry,
        )
        self._cpus = Gauge(
            "avatar_runtime_cpus",
            "CPUs that the runtime computes on, by what limits them: the quota of its cgroup, or "
            "the affinity of the process, which is its CPU set or all cores of the node.",
            ["source"],
            registry=self._registry,
        )
        self._vram_used = gauge("vram_used_bytes", "Device memory in use, with the context.")
        self._vram_total = gauge("vram_total_bytes", "Device memory.")
        self._vram_ratio = gauge("vram_used_ratio", "Share of device memory in use, 0 to 1.")
        self._utilization = gauge(
            "gpu_utilization_ratio", "Share of the last 30 s in which a batch was on the device."
        )
        self._sessions = gauge(
            "sessions", "Sessions, with those that wait for a client that has lost its connection."
        )
        self._capacity = gauge("session_capacity", "Maximum number of sessions of this pod.")
        self._free = gauge("sessions_free", "Sessions it would accept now; 0 while it drains.")
        self._avatars = gauge("avatars", "Avatars that clients can select.")
        self._faulty_avatars = gauge(
            "avatars_faulty",
            "Avatars whose newest files are not served, because they are unusable.",
        )
        self._batch_size = gauge("batch_size", "Frames in the largest batch that is allowed.")
        self._fill = gauge("batch_fill_ratio", "Mean fill of the batches of the last 30 s, 0 to 1.")
        self._first = self._histogram(
            "first_frame_latency_seconds",
            "Time from the audio that frame 0 needs until the frame is sent.",
            _FIRST_BUCKETS,
        )
        self._frame = Histogram(
            "avatar_runtime_frame_latency_seconds",
            "Time of a frame by stage: queue, the stages of the engine, engine, h264 (its "
            "encoding), and total.",
            ["stage"],
            buckets=_FRAME_BUCKETS,
            registry=self._registry,
        )
        self._lag = self._histogram(
            "event_loop_lag_seconds", "Delay of the timers of the event loop.", _LAG_BUCKETS
        )
        self._misses = counter(
            "deadline_misses", "Frames finished after their deadline, or dropped because of it."
        )
        self._frames = Counter(
            "avatar_runtime_frames",
            "Frames sent, by kind: drawn by the model, silent, which need no model, or idle, which "
            "belong to no response.",
            ["kind"],
            registry=self._registry,
        )
        for kind in get_args(FrameKind):
            self._frames.labels(kind)  # exported from the start, so that a rate has a first value
        self._turns = Histogram(
            "avatar_runtime_turn_latency_seconds",
            "Time of a turn by leg: upstream from the end of the user's turn to the first audio of "
            "the answer, avatar from there until the first frame is sent. In mode speech, upstream "
            "has parts: transcription until the text of the user is known, chat until the first "
            "sentence of the answer is complete, speech until its first sound.",
            ["leg"],
            buckets=_TURN_BUCKETS,
            registry=self._registry,
        )
        self._upstream_faults = Counter(
            "avatar_runtime_upstream_faults",
            "Connections to the upstream that failed or ended, by code.",
            ["code"],
            registry=self._registry,
        )
        self._oom = counter("oom_recoveries", "Batches split after the device ran out of memory.")
        self._discarded = Counter(
            "avatar_runtime_frames_discarded",
            "Frames requested and not sent.",
            ["reason"],
            registry=self._registry,
        )
        self._failures = counter("batch_failures", "Batches that failed in the engine.")
        self._rejections = Counter(
            "avatar_runtime_rejections",
            "Connections refused before the upgrade, by code.",
            ["reason"],
            registry=self._registry,
        )
        self._resumes = Counter(
            "avatar_runtime_session_resumes",
            "Sessions whose client lost its connection, by result: resumed on another connection, "
            "recovered of them from the snapshot of a pod that is lost, "
            "refused for a wrong token, gap if messages were not kept, expired without a client, "
            "limited if a session was resumed too often, displaced if a connection made room for "
            "newer ones.",
            ["result"],
            registry=self._registry,
        )

        self._moves = Counter(
            "avatar_runtime_session_moves",
            "Requests to move a session, by result: exported to another pod, imported from one, "
            "refused because the session cannot move as it is.",
            ["result"],
            registry=self._registry,
        )

        self._snapshots = Counter(
            "avatar_runtime_session_snapshots",
            "Snapshots of sessions that were sent to gateways.",
            registry=self._registry,
        )
        self._snapshot_bytes = Counter(
            "avatar_runtime_session_snapshot_bytes",
            "Size of the snapshots of sessions that were sent to gateways.",
            registry=self._registry,
        )

    def watch(self, memory: Callable[[], tuple[int, int]], load: Callable[[], Load]) -> None:
        """Set the sources of the gauges that are read at each scrape.

        `memory` returns the used and the total bytes of the device.
        """
        self._vram_used.set_function(lambda: memory()[0])
        self._vram_total.set_function(lambda: memory()[1])
        self._vram_ratio.set_function(lambda: memory()[0] / max(memory()[1], 1))
        self._utilization.set_function(lambda: load().busy_ratio)
        self._fill.set_function(lambda: load().batch_fill_ratio)

    def show_sessions(self, sessions: int, capacity: int, free: int) -> None:
        """Set the number of sessions: connected, at most, and accepted now."""
        self._sessions.set(sessions)
        self._capacity.set(capacity)
        self._free.set(free)

    def show_batch_limit(self, limit: int) -> None:
        """Set the largest batch that is allowed now."""
        self._batch_size.set(limit)

    def show_avatars(self, served: int, faulty: int) -> None:
        """Set the number of avatars that clients can select, and that of unusable ones."""
        self._avatars.set(served)
        self._faulty_avatars.set(faulty)

    def count_rejection(self, reason: str) -> None:
        """Count a refused connection; codes: docs/wire-protocol.md, "Refused connections"."""
        self._rejections.labels(reason).inc()

    def count_resume(self, result: ResumeResult) -> None:
        """Count a session that was continued on another connection, or could not be."""
        self._resumes.labels(result).inc()

    def count_move(self, result: MoveResult) -> None:
        """Count a session that has left this pod, has come to it, or could not leave it."""
        self._moves.labels(result).inc()

    def count_snapshot(self, size: int) -> None:
        """Count a snapshot of `size` bytes."""
        self._snapshots.inc()
        self._snapshot_bytes.inc(size)

    def observe_lag(self, seconds: float) -> None:
        """Record the delay of a timer of the event loop."""
        self._lag.observe(seconds)

    def set_start(self, seconds: Mapping[StartStage, float]) -> None:
        """Set the times of the stages of the start, which are a closed set."""
        for stage, value in seconds.items():
            self._start.labels(stage).set(value)

    def set_cpus(self, cpus: Cpus) -> None:
        """Set the CPUs of the process."""
        self._cpus.labels(cpus.source).set(cpus.count)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time of a stage: `queue`, `engine`, or a stage of the engine."""
        self._frame.labels(stage).observe(seconds)

    def observe_batch(self, frames: int, limit: int, seconds: float, now: float) -> None:
        """Record a batch that the engine has finished."""
        self._fill_recent.add(frames / limit, now)
        self._busy_recent.add(seconds, now)

    def count_finished(self, is_late: bool, now: float) -> None:
        """Count a finished frame; `is_late` says that its deadline has passed."""
        self._miss_recent.add(float(is_late), now)
        if is_late:
            self._misses.inc()

    def count_dropped(self, frames: int, now: float) -> None:
        """Count frames that were dropped because they would have been too late."""
        self._discarded.labels("overload").inc(frames)
        self._misses.inc(frames)
        for _ in range(min(frames, _RECENT_SAMPLES)):
            self._miss_recent.add(1.0, now)

    def count_sent(self, kind: FrameKind, seconds: float, now: float) -> None:
        """Count a frame that was sent, `seconds` after its request."""
        self._frames.labels(kind).inc()
        self._frame.labels("total").observe(seconds)
        self._frame_recent.add(seconds, now)

    def count_idle_sent(self) -> None:
        """Count a frame of an idle stream, whose latency says nothing about responses."""
        self._frames.labels("idle").inc()

    def observe_first_frame(self, seconds: float, now: float) -> None:
        """Record the latency of the first frame of a response."""
        self._first.observe(seconds)
        self._first_recent.add(seconds, now)

    def observe_turn(self, leg: TurnLeg, seconds: float) -> None:
        """Record the time of a leg of a turn that is answered from outside."""
        self._turns.labels(leg).observe(seconds)

    def count_upstream_fault(self, code: str) -> None:
        """Count a connection to the upstream that failed or ended; codes are those of errors."""
        self._upstream_faults.labels(code).inc()

    def count_discarded(self, reason: DiscardReason, frames: int = 1) -> None:
        """Count frames that were requested and not sent."""
        self._discarded.labels(reason).inc(frames)

    def count_oom_recoveries(self, recoveries: int) -> None:
        """Count batches that were split after the device ran out of memory."""
        self._oom.inc(recoveries)

    def count_failed_batch(self) -> None:
        """Count a batch that failed as a whole."""
        self._failures.inc()

    def load(self, now: float) -> Load:
        """Return the load of the last 30 s."""
        misses, fills = self._miss_recent.values(now), self._fill_recent.values(now)
        return Load(
            first_frame_p95_s=percentile(self._first_recent.values(now), 95),
            frame_p95_s=percentile(self._frame_recent.values(now), 95),
            deadline_miss_ratio=_mean(misses),
            batch_fill_ratio=_mean(fills),
            busy_ratio=min(1.0, sum(self._busy_recent.values(now)) / RECENT_S),
        )

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"avatar_runtime_{name}", text, registry=self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"avatar_runtime_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        name = f"avatar_runtime_{name}"
        return Histogram(name, text, buckets=tuple(buckets), registry=self._registry)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
