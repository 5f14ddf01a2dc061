"""Baseline autoscalers, which are compared with the operator on the same traces.

They implement the published formulas with default settings and sessions as the metric. They do
not know which pods have sessions.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import Final

_HPA_DOWN_S: Final = 300.0
_HPA_TOLERANCE: Final = 0.1
_KPA_STABLE_S: Final = 60.0
_KPA_PANIC_S: Final = 6.0
_KPA_SHARE: Final = 0.7  # target share of used slots


class HorizontalPodAutoscaler:
    """The HPA (autoscaling/v2) with default behavior, on a metric that is scraped every 15 s."""

    every_s = 15.0

    def __init__(self, share: float = 0.8) -> None:
        self._share = share  # target share of used slots
        self._scraped: int | None = None
        self._wishes: deque[tuple[float, int]] = deque()

    def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
        """Return the desired number of pods."""
        seen = sessions if self._scraped is None else self._scraped
        self._scraped = sessions  # the adapter is one scrape late
        use = seen / (max(1, ready) * per_pod * self._share)
        wish = pods if abs(use - 1) <= _HPA_TOLERANCE else ceil(max(1, ready) * use)
        wish = min(wish, max(2 * pods, pods + 4))
        self._wishes.append((at_s, wish))
        while self._wishes[0][0] <= at_s - _HPA_DOWN_S:
            self._wishes.popleft()
        return max(wish, min(pods, max(wish for _, wish in self._wishes)))


class KnativePodAutoscaler:
    """Knative's concurrency autoscaler: averages over 60 s, or over 6 s in panic mode."""

    every_s = 2.0

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._panic_until = 0.0
        self._panic_pods = 0

    def wanted(self, at_s: float, sessions: int, pods: int, ready: int, per_pod: int) -> int:
        """Return the desired number of pods."""
        self._seen.append((at_s, sessions))
        while self._seen[0][0] <= at_s - _KPA_STABLE_S:
            self._seen.popleft()
        stable = self._pods(at_s, _KPA_STABLE_S, per_pod)
        panic = self._pods(at_s, _KPA_PANIC_S, per_pod)
        if panic >= 2 * max(1, ready):
            self._panic_until = at_s + _KPA_STABLE_S
        if at_s < self._panic_until:
            self._panic_pods = max(self._panic_pods, stable, panic)
            return max(pods, self._panic_pods)
        self._panic_pods = 0
        return max(stable, pods // 2)

    def _pods(self, at_s: float, window_s: float, per_pod: int) -> int:
        seen = [sessions for at, sessions in self._seen if at > at_s - window_s]
        return ceil(sum(seen) / len(seen) / (_KPA_SHARE * per_pod))
