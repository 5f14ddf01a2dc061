"""The gateway's metrics, and one function for each fact that changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from avatar_gateway.core import refusals

if TYPE_CHECKING:
    from collections.abc import Callable


class Metrics:
    """All series of one gateway, in a registry of its own."""

    def __init__(self, sessions: Callable[[], int], waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        live = Gauge("avatar_gateway_sessions", "Sessions proxied now.", registry=self._registry)
        live.set_function(lambda: float(sessions()))
        held = Gauge(
            "avatar_gateway_waiting", "Callers that wait for a slot.", registry=self._registry
        )
        held.set_function(lambda: float(waiting()))
        self._placement = Histogram(
            "avatar_gateway_placement_duration_seconds",
            "From an accepted credential to a pod's acceptance.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self._registry,
        )
        self._rejections = Counter(
            "avatar_gateway_rejections_total",
            "Callers turned away, by the code they were told.",
            ["reason"],
            registry=self._registry,
        )
        for reason in (*sorted(refusals.CODES), "pod"):
            self._rejections.labels(reason)

    def placed(self, seconds: float) -> None:
        """Count a session that found its pod."""
        self._placement.observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a caller turned away; `pod` stands for whatever a pod answered."""
        self._rejections.labels(reason).inc()

    def render(self) -> bytes:
        """Return all series in the text format of Prometheus."""
        return generate_latest(self._registry)
