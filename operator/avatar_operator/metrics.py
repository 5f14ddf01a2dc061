"""The operator's metrics, and one method for each fact that changes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from avatar_contracts.labels import THE_REST
from avatar_operator.core.autoscaling.start_times import MAX_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from avatar_operator.core.autoscaling.start_times import PodStart
    from avatar_operator.core.resources.service import ServiceKey
    from avatar_operator.core.status.findings import Finding


class Metrics:
    """All series of one operator, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._desired = Gauge(
            "avatar_operator_desired_replicas",
            "Pods that the operator wants for a service.",
            ["namespace", "service"],
            registry=self._registry,
        )
        self._problems = Gauge(
            "avatar_operator_service_problem",
            "1 for each condition of a service that reports a problem, with its reason: Stalled or "
            "Degraded is True, or GPUAvailable, StateFresh, AvatarsReady or UpstreamAllowed is "
            "False.",
            ["namespace", "service", "condition", "reason"],
            registry=self._registry,
        )
        self._problems_of: dict[ServiceKey, frozenset[tuple[str, str]]] = {}
        self._decisions = Counter(
            "avatar_operator_decisions_total",
            "Scaling decisions that changed the desired number of pods, by direction.",
            ["action"],
            registry=self._registry,
        )
        for direction in ("ScaleUp", "ScaleDown"):
            self._decisions.labels(direction)  # exported from the start, so that a rate is known
        self._actions = Counter(
            "avatar_operator_actions_total",
            "Actions that the operator executed, by kind.",
            ["action"],
            registry=self._registry,
        )
        self._reconcile = Histogram(
            "avatar_operator_reconcile_duration_seconds",
            "Duration of a reconcile, from the read of the caches to the status write, by outcome.",
            ["outcome"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self._registry,
        )
        self._starts = Histogram(
            "avatar_operator_pod_start_seconds",
            "Time of the start of a runtime pod by stage: scheduled, image (volumes and images), "
            "download, process, weights, avatars, warmUp, and total until it is ready. "
            f"Classes beyond the first {MAX_CLASSES} are `{THE_REST}`.",
            ["stage", "gpu_class"],
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200),
            registry=self._registry,
        )
        self._start_classes: set[str] = set()
        self._state_age = self._gauge("state_age_seconds", "Age of the oldest runtime pod state.")
        self._watch_age = Gauge(
            "avatar_operator_watch_age_seconds",
            "Time since the last event of the watch of a resource; no event is normal for a "
            "resource that does not change.",
            ["resource"],
            registry=self._registry,
        )
        self._loop_lag = self._gauge(
            "event_loop_lag_seconds", "Delay of the last periodic check of the event loop."
        )
        self._elsewhere = self._gauge(
            "services_managed_elsewhere",
            "Services that another installation of the operator manages.",
        )
        self._avatars = Gauge(
            "avatar_operator_avatars",
            "Avatars by phase.",
            ["phase"],
            registry=self._registry,
        )
        self._leader = self._gauge("is_leader", "1 while this replica leads, else 0.")

    def set_desired(self, key: ServiceKey, pods: int) -> None:
        """Set the number of pods that a service should have."""
        self._desired.labels(key.namespace, key.name).set(pods)

    def set_problems(self, key: ServiceKey, findings: Iterable[Finding]) -> None:
        """Set which conditions of a service report a problem, from all its findings."""
        new = frozenset((f.condition.value, f.reason.value) for f in findings if f.is_problem)
        old = self._problems_of.pop(key, frozenset())
        for labels in old - new:
            self._problems.remove(key.namespace, key.name, *labels)
        for labels in new - old:
            self._problems.labels(key.namespace, key.name, *labels).set(1)
        if new:
            self._problems_of[key] = new

    def forget_service(self, key: ServiceKey) -> None:
        """Remove the series of a deleted service."""
        self.set_problems(key, ())
        try:
            self._desired.remove(key.namespace, key.name)
        except KeyError:
            pass  # the service was never planned

    def forget_services(self) -> None:
        """Remove the series of services and avatars: another replica reports them from now on."""
        self._desired.clear()
        self._problems.clear()
        self._problems_of.clear()
        self._avatars.clear()
        self._elsewhere.set(0)

    def count_decision(self, pods: int, before: object) -> None:
        """Count a scaling decision if it changed the desired number of pods.

        `before` is `status.desiredReplicas`, None in a service without status.
        """
        if isinstance(before, int) and before != pods:
            self._decisions.labels("ScaleUp" if pods > before else "ScaleDown").inc()

    def count_action(self, kind: str) -> None:
        """Count an executed action."""
        self._actions.labels(kind).inc()

    def observe_reconcile(self, seconds: float, *, succeeded: bool) -> None:
        """Record the duration of a reconcile."""
        self._reconcile.labels("success" if succeeded else "failure").observe(seconds)

    def observe_start(self, start: PodStart) -> None:
        """Record the stages of the start of a pod; the classes beyond `MAX_CLASSES` are one."""
        gpu_class = start.gpu_class
        if gpu_class not in self._start_classes:
            if len(self._start_classes) < MAX_CLASSES:
                self._start_classes.add(gpu_class)
            else:
                gpu_class = THE_REST
        for stage, seconds in start.seconds.items():
            self._starts.labels(stage, gpu_class).observe(seconds)

    def set_state_age(self, seconds: float) -> None:
        """Set the age of the oldest state."""
        self._state_age.set(seconds)

    def set_watch_age(self, resource: str, seconds: float) -> None:
        """Set the time since the last event of a watch."""
        self._watch_age.labels(resource).set(seconds)

    def set_loop_lag(self, seconds: float) -> None:
        """Set the delay of the event loop."""
        self._loop_lag.set(max(0.0, seconds))

    def set_managed_elsewhere(self, services: int) -> None:
        """Set the number of services that another installation manages."""
        self._elsewhere.set(services)

    def set_avatars(self, phases: Mapping[str, int]) -> None:
        """Set the number of avatars by phase; the phases are a closed set."""
        for phase, count in phases.items():
            self._avatars.labels(phase).set(count)

    def set_leader(self, leads: bool) -> None:
        """Set whether this replica leads."""
        self._leader.set(leads)

    def render(self) -> bytes:
        """Return all series in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"avatar_operator_{name}", text, registry=self._registry)
