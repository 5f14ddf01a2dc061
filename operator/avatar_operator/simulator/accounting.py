"""Statistics of a simulation, and a check of the rules that the product guarantees."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from avatar_contracts.percentiles import percentile
from avatar_operator.core import text
from avatar_operator.simulator.scenario import Result, Sample

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.simulator.pods import SimulatedPod

SHOWN: Final = 20  # violations that a result contains


class SimulationStats:
    """Counts everything that happens in one run."""

    def __init__(
        self,
        policy: Autoscaling | None,
        gpus: Mapping[str, int],
        costs: Mapping[str, Decimal | None],
    ) -> None:
        self._policy = policy
        self._gpus = gpus
        self._costs = costs
        self._hourly = Decimal(0)
        self._gpu_s = self._cost_s = 0.0
        self._waits: list[float] = []
        self._placed = self._ended = self._lost = self._cut = self._refused = 0
        self._max_pods = self._plans = 0
        self._direction = self._reversals = 0
        self._short_since: float | None = None
        self._reactions: list[float] = []
        self._violations: list[str] = []
        self._course: list[Sample] = []
        self.desired: int | None = None

    def pass_time(self, seconds: float, pods: int) -> None:
        """Add the cost of the pods over a time span."""
        self._gpu_s += seconds * pods
        self._cost_s += seconds * float(self._hourly)

    def place(self, wait_s: float) -> None:
        """Count a session that starts after its caller waited."""
        self._placed += 1
        self._waits.append(wait_s)

    def end(self) -> None:
        """Count a session that ended normally."""
        self._ended += 1

    def lose(self, sessions: int) -> None:
        """Count sessions that were lost because their pod crashed."""
        self._lost += sessions

    def refuse(self) -> None:
        """Count a caller that gave up."""
        self._refused += 1

    def make(self, at_s: float, pod: SimulatedPod, pods: int, *, bounded: bool) -> None:
        """Count a created pod; `bounded` tells whether `maxCostPerHour` must hold."""
        self._hourly += self._costs.get(pod.gpu_class) or Decimal(0)
        self._max_pods = max(self._max_pods, pods)
        if self._short_since is not None:
            self._reactions.append(at_s - self._short_since)
            self._short_since = None
        most = None if self._policy is None else self._policy.max_cost_per_hour
        if bounded and most is not None and self._hourly > most:
            self._break(at_s, f"with {pod.name}, the pods cost {self._hourly} per hour")

    def delete(self, at_s: float, pod: SimulatedPod, *, forbidden: bool) -> None:
        """Count a deleted pod and the sessions that it ended."""
        self._hourly -= self._costs.get(pod.gpu_class) or Decimal(0)
        self._cut += len(pod.sessions)
        if pod.sessions and forbidden:
            self._break(
                at_s, f"{pod.name} was deleted with {text.count(len(pod.sessions), 'session')}"
            )

    def want(self, desired: int) -> None:
        """Count a decision and a change of its direction."""
        self._plans += 1
        if self.desired is not None and desired != self.desired:
            direction = 1 if desired > self.desired else -1
            self._reversals += self._direction == -direction
            self._direction = direction
        self.desired = desired

    def note_shortage(self, at_s: float, all_pods: Collection[SimulatedPod], waiting: int) -> None:
        """Record since when there are fewer slots than sessions and `freeSessions.min` need."""
        if self._policy is None:
            return
        live = sum(len(pod.sessions) for pod in all_pods)
        slots = sum(pod.slots for pod in all_pods if not pod.draining)
        full = len(all_pods) >= min(self._policy.max_replicas, sum(self._gpus.values()))
        needed = live + waiting + (self._policy.free_min if live or waiting else 0)
        if needed <= slots or full:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = at_s

    def check(self, at_s: float, all_pods: Collection[SimulatedPod]) -> None:
        """Record each rule that is violated now."""
        for pod in all_pods:
            if len(pod.sessions) > pod.slots:
                self._break(at_s, f"{pod.name} has more sessions than slots")
        pods = Counter(pod.gpu_class for pod in all_pods)
        for gpu_class, gpus in self._gpus.items():
            if pods[gpu_class] > gpus:
                self._break(at_s, f"{gpu_class} has more pods than GPUs")
        live = sum(len(pod.sessions) for pod in all_pods)
        if self._placed != live + self._ended + self._lost + self._cut:
            self._break(at_s, "the number of sessions is inconsistent")

    def record(self, at_s: float, all_pods: Collection[SimulatedPod], waiting: int) -> None:
        """Record a sample for the plot."""
        sample = Sample(
            at_s=at_s,
            sessions=sum(len(pod.sessions) for pod in all_pods),
            waiting=waiting,
            slots=sum(pod.slots for pod in all_pods if pod.ready),
            pods=len(all_pods),
            desired=self.desired or 0,
            classes=tuple(sorted(Counter(pod.gpu_class for pod in all_pods).items())),
            cost_per_hour=self._hourly,
        )
        self._course.append(sample)

    def result(self, sessions: int) -> Result:
        """Return the result of a run with this number of sessions."""
        return Result(
            sessions=sessions,
            ended_by_operator=self._cut,
            lost_with_pods=self._lost,
            refused=self._refused,
            waited=sum(1 for wait_s in self._waits if wait_s > 0) + self._refused,
            wait_p99_s=percentile(self._waits, 99) or 0.0,
            gpu_hours=self._gpu_s / 3600,
            cost=self._cost_s / 3600,
            reversals=self._reversals,
            reaction_p99_s=percentile(self._reactions, 99) or 0.0,
            max_pods=self._max_pods,
            plans=self._plans,
            violations=tuple(self._violations[:SHOWN]),
            timeline=tuple(self._course),
        )

    def _break(self, at_s: float, rule: str) -> None:
        self._violations.append(f"{at_s:.1f} s: {rule}")
