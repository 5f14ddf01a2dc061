"""The metrics of the endpoints of an upstream: one method for each fact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from prometheus_client import Counter, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Outcome = Literal["completed", "cancelled", "failed"]

_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class UpstreamMetrics:
    """Requests to the endpoints, by leg."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "avatar_runtime_upstream_requests",
            "Requests to an endpoint of the upstream, by leg and outcome: completed, cancelled or "
            "failed.",
            ["leg", "outcome"],
            registry=registry,
        )
        self._retries = Counter(
            "avatar_runtime_upstream_retries",
            "Requests that were repeated after status 429 or 5xx or a failed connection, by leg.",
            ["leg"],
            registry=registry,
        )
        self._first_byte = Histogram(
            "avatar_runtime_upstream_first_byte_seconds",
            "Time from a request until the first part of its answer, by leg, with retries.",
            ["leg"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def count_request(self, leg: str, outcome: Outcome) -> None:
        """Count a request that has ended."""
        self._requests.labels(leg, outcome).inc()

    def count_retry(self, leg: str) -> None:
        """Count a request that is repeated."""
        self._retries.labels(leg).inc()

    def observe_first_byte(self, leg: str, seconds: float) -> None:
        """Observe how long an endpoint took for the first part of its answer."""
        self._first_byte.labels(leg).observe(seconds)
