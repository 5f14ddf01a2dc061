"""Evaluates probe results with the thresholds of the kubelet, as an immutable value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(Enum):
    """The kind of a probe; the values are the names of the fields of a container."""

    STARTUP = "startupProbe"
    READINESS = "readinessProbe"
    LIVENESS = "livenessProbe"

    @property
    def word(self) -> str:
        """Return the word in Events of the kubelet, as in `Readiness probe failed`."""
        return self.value.removesuffix("Probe").capitalize()


class Verdict(Enum):
    """The result after the thresholds."""

    UNKNOWN = "unknown"
    PASSING = "passing"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe with the defaults of the API server."""

    kind: Kind
    action: Mapping[str, Any]
    """The httpGet, tcpSocket or exec of the manifest."""
    initial_delay_s: float
    period_s: float
    timeout_s: float
    success_threshold: int
    failure_threshold: int
    grace_s: float | None
    """Grace period if this probe ends the container; None for the pod's grace period."""


def probe(kind: Kind, container: Mapping[str, Any]) -> Probe | None:
    """Return a container's probe of this kind, or None."""
    body = container.get(kind.value)
    if body is None:
        return None
    return Probe(
        kind=kind,
        action={key: body[key] for key in ("httpGet", "tcpSocket", "exec", "grpc") if key in body},
        initial_delay_s=body.get("initialDelaySeconds", 0),
        period_s=body.get("periodSeconds", 10),
        timeout_s=body.get("timeoutSeconds", 1),
        success_threshold=body.get("successThreshold", 1),
        failure_threshold=body.get("failureThreshold", 3),
        grace_s=body.get("terminationGracePeriodSeconds"),
    )


@dataclass(frozen=True, slots=True)
class Streak:
    """The number of equal results in a row, and the verdict."""

    verdict: Verdict
    last: bool | None = None
    length: int = 0

    def with_result(self, passed: bool, probe: Probe) -> Streak:
        """Return the streak after one more result; the verdict changes only at a threshold."""
        length = self.length + 1 if passed is self.last else 1
        threshold = probe.success_threshold if passed else probe.failure_threshold
        turned = Verdict.PASSING if passed else Verdict.FAILING
        return Streak(turned if length >= threshold else self.verdict, passed, length)


def fresh(kind: Kind) -> Streak:
    """Return the streak of a new container: live, not ready, started without a startup probe."""
    return Streak(
        {
            Kind.STARTUP: Verdict.UNKNOWN,
            Kind.READINESS: Verdict.FAILING,
            Kind.LIVENESS: Verdict.PASSING,
        }[kind]
    )


def port_number(port: int | str, container: Mapping[str, Any]) -> int:
    """Return the number of a port, which may be given by name.

    Raises:
        ValueError: the container has no port with this name.
    """
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for item in container.get("ports") or ():
        if item.get("name") == port:
            return int(item["containerPort"])
    raise ValueError(f"the container has no port named {port!r}")
