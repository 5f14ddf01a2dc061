"""Keeps the accounts of a simulated service, and notes whenever a rule of the product is broken."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING, Final

from avatar_operator.simulator.scenario import Moment, Result

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from avatar_operator.core.resources.autoscaling import Autoscaling
    from avatar_operator.simulator.pods import Box

SHOWN: Final = 20  # broken rules that a result tells of


class Ledger:
    """The owner of all that is counted in one run."""

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
        self._course: list[Moment] = []
        self.desired: int | None = None

    def pass_time(self, seconds: float, pods: int) -> None:
        """Count what the pods cost meanwhile."""
        self._gpu_s += seconds * pods
        self._cost_s += seconds * float(self._hourly)

    def place(self, wait_s: float) -> None:
        """Count a session that begins after its caller waited."""
        self._placed += 1
        self._waits.append(wait_s)

    def end(self) -> None:
        """Count a session that ended by itself."""
        self._ended += 1

    def lose(self, sessions: int) -> None:
        """Count sessions that went with a pod that crashed."""
        self._lost += sessions

    def refuse(self) -> None:
        """Count a caller who gave up."""
        self._refused += 1

    def make(self, at_s: float, box: Box, pods: int, *, bounded: bool) -> None:
        """Count a pod that was made; `bounded` says whether its maker keeps to a cost."""
        self._hourly += self._costs.get(box.gpu_class) or Decimal(0)
        self._max_pods = max(self._max_pods, pods)
        if self._short_since is not None:
            self._reactions.append(at_s - self._short_since)
            self._short_since = None
        most = None if self._policy is None else self._policy.max_cost_per_hour
        if bounded and most is not None and self._hourly > most:
            self._break(at_s, f"with {box.name} the pods cost {self._hourly}")

    def delete(self, at_s: float, box: Box, *, forbidden: bool) -> None:
        """Count a pod that was deleted with whoever was on it."""
        self._hourly -= self._costs.get(box.gpu_class) or Decimal(0)
        self._cut += len(box.sessions)
        if box.sessions and forbidden:
            self._break(at_s, f"{box.name} went with {len(box.sessions)} sessions")

    def want(self, desired: int) -> None:
        """Count a decision."""
        self._plans += 1
        if self.desired is not None and desired != self.desired:
            direction = 1 if desired > self.desired else -1
            self._reversals += self._direction == -direction
            self._direction = direction
        self.desired = desired

    def note_shortage(self, at_s: float, boxes: Collection[Box], waiting: int) -> None:
        """Note since when there are fewer slots than the sessions and the least headroom ask."""
        if self._policy is None:
            return
        live = sum(len(box.sessions) for box in boxes)
        slots = sum(box.slots for box in boxes if not box.draining)
        full = len(boxes) >= min(self._policy.max_replicas, sum(self._gpus.values()))
        needed = live + waiting + (self._policy.free_min if live or waiting else 0)
        if needed <= slots or full:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = at_s

    def check(self, at_s: float, boxes: Collection[Box]) -> None:
        """Note each rule of the product that is broken now."""
        for box in boxes:
            if len(box.sessions) > box.slots:
                self._break(at_s, f"{box.name} is over its capacity")
        pods = Counter(box.gpu_class for box in boxes)
        for gpu_class, gpus in self._gpus.items():
            if pods[gpu_class] > gpus:
                self._break(at_s, f"more pods than {gpu_class} has GPUs")
        live = sum(len(box.sessions) for box in boxes)
        if self._placed != live + self._ended + self._lost + self._cut:
            self._break(at_s, "sessions do not add up")

    def record(self, at_s: float, boxes: Collection[Box], waiting: int) -> None:
        """Keep how things are, for a plot."""
        moment = Moment(
            at_s=at_s,
            sessions=sum(len(box.sessions) for box in boxes),
            waiting=waiting,
            slots=sum(box.slots for box in boxes if box.ready),
            pods=len(boxes),
            desired=self.desired or 0,
            classes=tuple(sorted(Counter(box.gpu_class for box in boxes).items())),
            cost_per_hour=self._hourly,
        )
        self._course.append(moment)

    def result(self, sessions: int) -> Result:
        """Return what became of so many sessions."""
        return Result(
            sessions=sessions,
            ended_by_operator=self._cut,
            lost_with_pods=self._lost,
            refused=self._refused,
            waited=sum(1 for wait_s in self._waits if wait_s > 0) + self._refused,
            wait_p99_s=_p99(sorted(self._waits)),
            gpu_hours=self._gpu_s / 3600,
            cost=self._cost_s / 3600,
            reversals=self._reversals,
            reaction_p99_s=_p99(sorted(self._reactions)),
            max_pods=self._max_pods,
            plans=self._plans,
            violations=tuple(self._violations[:SHOWN]),
            course=tuple(self._course),
        )

    def _break(self, at_s: float, rule: str) -> None:
        self._violations.append(f"{at_s:.1f} s: {rule}")


def _p99(ordered: Sequence[float]) -> float:
    return ordered[ceil(0.99 * len(ordered)) - 1] if ordered else 0.0
