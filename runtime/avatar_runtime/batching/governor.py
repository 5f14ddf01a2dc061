"""How large a batch may be while the device's memory runs short.

Below 70 % of the device's memory the batch is full, from 70 % half, from 90 % a quarter; a
refused allocation halves what was refused. Down at once, up one step after a calm spell. What
the plan itself fills is no pressure: where the full batch takes more than a threshold, that one
lies a margin above it (decision 0011). A step up that does not last makes the next spell twice
as long, so that the limit settles instead of swinging.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from avatar_runtime.batching import buckets

HALF_AT: Final = 0.70
QUARTER_AT: Final = 0.90
HYSTERESIS: Final = 0.05
"""So far below a threshold memory must fall before the batch grows over it again."""
MARGIN: Final = 0.05
"""What others may take beside a plan that fills more than a threshold; the allocator needs some."""
CALM_S: Final = 0.5
"""The first wait before a step up; a second is the goal for being back after one refusal."""
LONGEST_CALM_S: Final = 60.0
STEADY_S: Final = 30.0
"""A step up that held this long was right: the next wait is the first one again."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of the device's memory from which the batch shrinks."""

    half_at: float = HALF_AT
    quarter_at: float = QUARTER_AT

    def divisor_at(self, ratio: float) -> int:
        """Return what the full batch is divided by at a share of used memory: 1, 2 or 4."""
        if ratio >= self.quarter_at:
            return 4
        return 2 if ratio >= self.half_at else 1


def thresholds(planned_ratio: float) -> Thresholds:
    """Return the thresholds of a pod whose full batch fills a share of memory, 0 to 1."""
    half_at = max(HALF_AT, planned_ratio + MARGIN)
    return Thresholds(half_at, max(QUARTER_AT, half_at + MARGIN))


@dataclass(frozen=True, slots=True)
class Governor:
    """The limit at one moment; what happens gives the next one."""

    full: int
    """Frames in the largest batch, as the operator planned it."""
    divisor: int = 1
    """Power of two; over 4 only after refusals."""
    calm_s: float = CALM_S
    """How long memory must be low before the next step up."""
    calm_since: float | None = None
    """Since when memory has been low enough for a step up; `None` while it is not."""
    raised_at: float | None = None
    """When the last step up was."""
    thresholds: Thresholds = Thresholds()

    @property
    def limit(self) -> int:
        """Frames that the next batch may have, at least 1."""
        if self.divisor == 1:
            return self.full
        return buckets.within(max(1, self.full // self.divisor))

    def with_memory(self, ratio: float, now: float) -> Governor:
        """Return the governor after the device reported its used share of memory, 0 to 1."""
        wanted = self.thresholds.divisor_at(ratio)
        if wanted > self.divisor:
            return self._lowered(wanted, now)
        calm_ratio = ratio + HYSTERESIS
        if self.divisor == 1 or self.thresholds.divisor_at(calm_ratio) > self.divisor // 2:
            return replace(self, calm_since=None)
        if self.calm_since is None:
            return replace(self, calm_since=now)
        if now - self.calm_since < self.calm_s:
            return self
        return replace(self, divisor=self.divisor // 2, calm_since=now, raised_at=now)

    def with_refusal(self, frames: int, now: float) -> Governor:
        """Return the governor after the device had no room for a batch of `frames`."""
        divisor = self.divisor
        while self.full // divisor > max(1, frames // 2):
            divisor *= 2
        return self._lowered(divisor, now)

    def _lowered(self, divisor: int, now: float) -> Governor:
        held = self.raised_at is None or now - self.raised_at >= STEADY_S
        calm_s = CALM_S if held else min(2 * self.calm_s, LONGEST_CALM_S)
        return replace(self, divisor=divisor, calm_s=calm_s, calm_since=None)


def combined(governor: Governor, asked: int | None) -> int:
    """Return the limit that holds: the governor's, or the one that was asked for if smaller."""
    return governor.limit if asked is None else min(governor.limit, asked)
