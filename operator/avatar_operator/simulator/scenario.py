"""The settings and the result of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from avatar_operator.core.autoscaling import inputs

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Faults:
    """Rates of faults, as a Poisson process for each pod or for the operator."""

    crashes_per_hour: float = 0.0  # of each pod; its sessions are lost and it restarts
    silences_per_hour: float = 0.0  # of each pod's state stream
    gateway_silences_per_hour: float = 0.0
    silence_s: float = 20.0  # on average
    restarts_per_hour: float = 0.0  # of the operator, which loses its history
    restart_s: float = 5.0
    leader_changes_per_hour: float = 0.0  # to a replica with all states and no history
    clock_steps_per_hour: float = 0.0  # of the operator's clock, by up to one hour
    api_fault_ratio: float = 0.0  # of the writes


@dataclass(frozen=True, slots=True)
class Settings:
    """The simulated cluster of a service."""

    gpus: Mapping[str, int]  # by class
    start_s: float = 20.0  # median of the time that a pod takes to start
    start_spread: float = 0.25  # sigma of its log-normal distribution
    patience_s: float = 60.0  # time that a caller waits for a slot
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True, slots=True)
class Sample:
    """The simulated cluster at one time, for the plot."""

    at_s: float
    sessions: int
    waiting: int
    slots: int
    pods: int
    desired: int
    classes: tuple[tuple[str, int], ...]  # pods by GPU class, draining ones included
    cost_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class Result:
    """What happened to the sessions, and the cost."""

    sessions: int
    ended_by_operator: int
    lost_with_pods: int  # their pod crashed
    refused: int  # callers that waited for `patience_s` and gave up
    waited: int  # callers that did not find a free slot at once
    wait_p99_s: float
    gpu_hours: float
    cost: float  # in the unit of the profiles' costPerHour
    reversals: int  # changes of direction of the desired number of pods
    reaction_p99_s: float  # from a shortage of slots to the creation of pods
    max_pods: int
    plans: int
    violations: tuple[str, ...]
    timeline: tuple[Sample, ...]

    @property
    def at_once_ratio(self) -> float:
        """The fraction of callers that found a free slot at once."""
        return 1 - self.waited / max(1, self.sessions)


class Scaler(Protocol):
    """A baseline autoscaler to compare with; it does not protect sessions."""

    every_s: float

    def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
        """Return the desired number of pods."""


OnDecision = Callable[[inputs.ScalingResult], None]
"""Called with each decision."""
