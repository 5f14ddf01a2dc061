"""The operator's own metrics: their declarations, and one function for each fact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from avatar_operator.core.resources.service import ServiceKey

_DESIRED = Gauge(
    "avatar_operator_desired_replicas",
    "Pods that the operator wants for a service.",
    ["namespace", "service"],
)
_DECISIONS = Counter(
    "avatar_operator_decisions_total", "Actions that succeeded, by kind.", ["action"]
)
_RECONCILE = Histogram(
    "avatar_operator_reconcile_duration_seconds",
    "Time from reading the caches to the status write, by how it ended.",
    ["outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_STATE_AGE = Gauge(
    "avatar_operator_state_age_seconds", "Age of the oldest state among the runtime pods followed."
)
_WATCH_AGE = Gauge(
    "avatar_operator_watch_age_seconds",
    "Time since the watch of a resource told anything; a quiet resource is no fault.",
    ["resource"],
)
_LOOP_LAG = Gauge(
    "avatar_operator_event_loop_lag_seconds", "How late the last tick of the event loop was."
)
_LEADER = Gauge("avatar_operator_is_leader", "1 while this replica acts.")


def set_desired(key: ServiceKey, pods: int) -> None:
    """Note how many pods a service is to have."""
    _DESIRED.labels(key.namespace, key.name).set(pods)


def forget_service(key: ServiceKey) -> None:
    """Drop the series of a service that is gone."""
    try:
        _DESIRED.remove(key.namespace, key.name)
    except KeyError:
        pass  # it was never planned


def forget_services() -> None:
    """Drop the series of all services, which another replica tells from now on."""
    _DESIRED.clear()


def count_scaling(pods: int, before: object) -> None:
    """Count a decision that changed how many pods are wanted."""
    if isinstance(before, int) and before != pods:
        _DECISIONS.labels("ScaleUp" if pods > before else "ScaleDown").inc()


def count_action(kind: str) -> None:
    """Count an action that succeeded."""
    _DECISIONS.labels(kind).inc()


def observe_reconcile(seconds: float, *, succeeded: bool) -> None:
    """Note how long a reconcile took."""
    _RECONCILE.labels("success" if succeeded else "failure").observe(seconds)


def set_state_age(seconds: float) -> None:
    """Note the age of the oldest state."""
    _STATE_AGE.set(seconds)


def set_watch_age(resource: str, seconds: float) -> None:
    """Note how long a watch has told nothing."""
    _WATCH_AGE.labels(resource).set(seconds)


def set_loop_lag(seconds: float) -> None:
    """Note how late the event loop was."""
    _LOOP_LAG.set(max(0.0, seconds))


def set_leader(leads: bool) -> None:
    """Note whether this replica acts."""
    _LEADER.set(leads)
