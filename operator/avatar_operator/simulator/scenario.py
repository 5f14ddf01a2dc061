"""Says in what world a service is simulated, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from avatar_operator.core.autoscaling import inputs

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, as rates of a Poisson process for each pod or the operator."""

    crashes_per_hour: float = 0.0  # of each pod; its sessions are lost, it starts again
    silences_per_hour: float = 0.0  # of each pod's stream
    gateway_silences_per_hour: float = 0.0
    silence_s: float = 20.0  # on average
    restarts_per_hour: float = 0.0  # of the operator, which forgets everything
    restart_s: float = 5.0
    leader_changes_per_hour: float = 0.0  # to one who heard everything and remembers nothing
    clock_steps_per_hour: float = 0.0  # of the operator's clock, by up to an hour to either side
    api_fault_ratio: float = 0.0  # of the writes


@dataclass(frozen=True, slots=True)
class Settings:
    """The world that a service runs in."""

    gpus: Mapping[str, int]  # by class
    start_s: float = 20.0  # median of the time that a pod takes to start
    start_spread: float = 0.25  # sigma of its log-normal distribution
    patience_s: float = 60.0  # for which a caller waits for a slot
    faults: Faults = field(default_factory=Faults)


@dataclass(frozen=True, slots=True)
class Moment:
    """The world at one time, for a plot."""

    at_s: float
    sessions: int
    waiting: int
    slots: int
    pods: int
    desired: int
    classes: tuple[tuple[str, int], ...]  # pods by GPU class, those that are to go too
    cost_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the sessions, and what it cost."""

    sessions: int
    ended_by_operator: int
    lost_with_pods: int  # a pod crashed under them
    refused: int  # nobody waits longer than the patience
    waited: int  # found no free slot at once
    wait_p99_s: float
    gpu_hours: float
    cost: float  # in the unit of the profiles' costPerHour
    reversals: int  # changes of direction of the pods wanted
    reaction_p99_s: float  # from a shortage of slots to the making of pods
    max_pods: int
    plans: int
    violations: tuple[str, ...]
    course: tuple[Moment, ...]

    @property
    def at_once_ratio(self) -> float:
        """The part of the callers who found a free slot."""
        return 1 - self.waited / max(1, self.sessions)


class Scaler(Protocol):
    """Another way to choose a number of pods, to compare with; it protects no session."""

    every_s: float

    def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
        """Return how many pods to have."""


Note = Callable[[inputs.ScalingResult], None]
"""Is told of each decision."""
