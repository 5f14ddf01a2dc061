"""The metrics of the gateway, with one method for each event that changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from avatar_contracts.labels import THE_REST
from avatar_gateway.core import rejections
from avatar_gateway.core.usage import FIGURES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from avatar_gateway.core.usage import Account

MAX_USAGE_SERIES: Final = 200
"""Combinations of tenant, service and GPU class with series of their own."""
_OTHER: Final = (THE_REST, THE_REST, THE_REST)
ENDED_CONNECTIONS: Final = ("address_limit", "deadline", "descriptors", "displaced", "limit")

RECOVERIES: Final = ("kept", "lost", "recovered")


class Metrics:
    """All series of one gateway, in their own registry."""

    def __init__(
        self,
        sessions: Callable[[], int],
        waiting: Callable[[], int],
        connections: Callable[[], int] = lambda: 0,
        has_shared_state: Callable[[], bool] = lambda: True,
    ) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        live = Gauge(
            "avatar_gateway_sessions", "Sessions that are proxied now.", registry=self._registry
        )
        live.set_function(lambda: float(sessions()))
        queued = Gauge(
            "avatar_gateway_waiting", "Callers that wait for a slot now.", registry=self._registry
        )
        queued.set_function(lambda: float(waiting()))
        self._placement = Histogram(
            "avatar_gateway_placement_duration_seconds",
            "Time from the authentication of a caller until a pod accepts its session.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self._registry,
        )
        self._rejections = Counter(
            "avatar_gateway_rejections_total",
            "Rejected callers, by error code; `pod` stands for every rejection by a pod.",
            ["reason"],
            registry=self._registry,
        )
        for reason in (*sorted(rejections.CODES), "pod"):
            self._rejections.labels(reason)

        self._state_faults = Counter(
            "avatar_gateway_state_faults_total",
            "State streams that ended because of what a runtime pod sent.",
            registry=self._registry,
        )

        self._recoveries = Counter(
            "avatar_gateway_recoveries_total",
            "Sessions whose pod was lost, by result: `recovered` on another pod, `kept` until a "
            "pod takes them or their callers give up, `lost` without a snapshot.",
            ["result"],
            registry=self._registry,
        )
        for result in RECOVERIES:
            self._recoveries.labels(result)

        self._snapshot_bytes = Gauge(
            "avatar_gateway_snapshot_bytes",
            "Size of the snapshots of the sessions that this gateway carries.",
            registry=self._registry,
        )
        self._evicted = Counter(
            "avatar_gateway_snapshots_evicted_total",
            "Snapshots that made room for newer ones: their sessions are lost if their pods are, "
            "before the next snapshot.",
            registry=self._registry,
        )

        shared_state = Gauge(
            "avatar_gateway_shared_state_up",
            "Whether the shared state answers: 1, or 0 while this gateway stays within its share "
            "of the limits of tenants. Always 1 without a shared state.",
            registry=self._registry,
        )
        shared_state.set_function(lambda: float(has_shared_state()))

        opened = Gauge(
            "avatar_gateway_connections",
            "Open connections of the sessions port.",
            registry=self._registry,
        )
        opened.set_function(lambda: float(connections()))
        self._ended_connections = Counter(
            "avatar_gateway_connections_ended_total",
            "Connections of the sessions port that the gateway refused or closed, by reason: "
            "`address_limit` and `limit` are refused at a limit, `displaced` made room for a newer "
            "connection, `deadline` sent no complete request in time or did not read its answer, "
            "`descriptors` counts pauses because the process had no file descriptor left.",
            ["reason"],
            registry=self._registry,
        )
        for reason in ENDED_CONNECTIONS:
            self._ended_connections.labels(reason)

        self.usage = UsageMetrics(self._registry)

    def watch_snapshots(self, size: Callable[[], int]) -> None:
        """Set the source of the size of all snapshots, which is read at each scrape."""
        self._snapshot_bytes.set_function(lambda: float(size()))

    def count_evicted_snapshot(self) -> None:
        """Count a snapshot that made room for others."""
        self._evicted.inc()

    def count_recovery(self, result: str) -> None:
        """Count a session whose pod was lost; `result` is one of `RECOVERIES`."""
        self._recoveries.labels(result).inc()

    def count_ended_connection(self, reason: str) -> None:
        """Count a connection that was refused or closed, by reason."""
        self._ended_connections.labels(reason).inc()

    def count_state_fault(self) -> None:
        """Count a state stream that ended because of what a pod sent."""
        self._state_faults.inc()

    def observe_placement(self, seconds: float) -> None:
        """Record how long the placement of a session took."""
        self._placement.observe(seconds)

    def count_rejection(self, reason: str) -> None:
        """Count a rejected caller; the reason `pod` stands for every rejection by a pod."""
        self._rejections.labels(reason).inc()

    def render(self) -> bytes:
        """Return all series in the Prometheus text format."""
        return generate_latest(self._registry)


class UsageMetrics:
    """The series of what tenants use, for a bounded number of tenants and services."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ["tenant", "service"]
        more = (
            f"The first {MAX_USAGE_SERIES} tenants, services and classes; the rest is `{THE_REST}`."
        )
        self._series: dict[Account, tuple[Counter, ...]] = {}
        self._sessions = Counter(
            "avatar_gateway_usage_sessions_total",
            f"Sessions that began. {more}",
            names,
            registry=registry,
        )
        self._seconds = Counter(
            "avatar_gateway_usage_session_seconds_total",
            f"Time of sessions. {more}",
            names,
            registry=registry,
        )
        self._gpu_seconds = Counter(
            "avatar_gateway_usage_gpu_seconds_total",
            f"Time of sessions divided by the capacity of their pods. {more}",
            [*names, "gpu_class"],
            registry=registry,
        )
        self._bytes = Counter(
            "avatar_gateway_usage_bytes_total",
            f"Data frames of sessions, `in` to the pod and `out` to the caller. {more}",
            [*names, "direction"],
            registry=registry,
        )
        self._rejections = Counter(
            "avatar_gateway_usage_rejections_total",
            f"Callers that were refused after they were authenticated. {more}",
            names,
            registry=registry,
        )

    def add(self, account: Account, growth: Sequence[int]) -> None:
        """Count what is new in the figures of an account."""
        series = self._series.get(account)
        if series is None:
            series = self._series_of(account)
        new = dict(zip(FIGURES, growth, strict=True))
        values = (
            new["sessions"],
            new["session_ms"] / 1000,
            new["gpu_ms"] / 1000,
            new["bytes_in"],
            new["bytes_out"],
            new["rejections"],
        )
        for counter, value in zip(series, values, strict=True):
            if value:
                counter.inc(value)

    def _series_of(self, account: Account) -> tuple[Counter, ...]:
        """Return the series of an account, which exist from now on; remember those of its own.

        To find them by their labels takes more time than to count.
        """
        known = (account.tenant, account.service, account.gpu_class)
        is_known = len(self._series) < MAX_USAGE_SERIES
        *pair, gpu_class = known if is_known else _OTHER
        series = (
            self._sessions.labels(*pair),
            self._seconds.labels(*pair),
            self._gpu_seconds.labels(*pair, gpu_class),
            self._bytes.labels(*pair, "in"),
            self._bytes.labels(*pair, "out"),
            self._rejections.labels(*pair),
        )
        if is_known:
            self._series[account] = series
        return series
