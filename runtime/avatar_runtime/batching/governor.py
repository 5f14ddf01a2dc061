"""The largest batch while the memory of the device is short.

Below 70 % of used memory the batch is full, from 70 % half, from 90 % a quarter. If the device
runs out of memory, the limit is half of the failed batch. The limit decreases at once and
increases by one step after a delay with low memory. If the full batch as planned uses more
than a threshold, the threshold is a margin above that (decision 0011). If a step up does not
last, the next delay is twice as long, so that the limit settles instead of oscillating.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from avatar_runtime.batching import buckets

HALF_AT: Final = 0.70
QUARTER_AT: Final = 0.90
HYSTERESIS: Final = 0.05
"""How far memory must fall below a threshold before the batch grows again."""
MARGIN: Final = 0.05
"""What other processes may use beside a plan over a threshold; the allocator needs some of it."""
STEP_UP_DELAY_S: Final = 0.5
"""The first delay before a step up: the limit must recover within a second."""
MAX_STEP_UP_DELAY_S: Final = 60.0
STABLE_S: Final = 30.0
"""A step up that lasted this long was right: the next delay is the first one again."""


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
    """The limit at one moment; each event returns a new governor."""

    full: int
    """Frames in the largest batch, as the operator planned it."""
    divisor: int = 1
    """Power of two; over 4 only after the device ran out of memory."""
    step_up_delay_s: float = STEP_UP_DELAY_S
    """Seconds of low memory before the next step up."""
    low_since: float | None = None
    """Since when memory is low enough for a step up; `None` if it is not."""
    raised_at: float | None = None
    """Time of the last step up."""
    thresholds: Thresholds = Thresholds()

    @property
    def limit(self) -> int:
        """Maximum frames of the next batch, at least 1."""
        if self.divisor == 1:
            return self.full
        return buckets.within(max(1, self.full // self.divisor))

    def with_memory(self, ratio: float, now: float) -> Governor:
        """Return the governor after the device reported its used share of memory, 0 to 1."""
        divisor = self.thresholds.divisor_at(ratio)
        if divisor > self.divisor:
            return self._lowered(divisor, now)
        raised_ratio = ratio + HYSTERESIS
        if self.divisor == 1 or self.thresholds.divisor_at(raised_ratio) > self.divisor // 2:
            return replace(self, low_since=None)
        if self.low_since is None:
            return replace(self, low_since=now)
        if now - self.low_since < self.step_up_delay_s:
            return self
        return replace(self, divisor=self.divisor // 2, low_since=now, raised_at=now)

    def with_out_of_memory(self, frames: int, now: float) -> Governor:
        """Return the governor after the device ran out of memory for a batch of `frames`."""
        divisor = self.divisor
        while self.full // divisor > max(1, frames // 2):
            divisor *= 2
        return self._lowered(divisor, now)

    def _lowered(self, divisor: int, now: float) -> Governor:
        lasted = self.raised_at is None or now - self.raised_at >= STABLE_S
        step_up_delay_s = (
            STEP_UP_DELAY_S if lasted else min(2 * self.step_up_delay_s, MAX_STEP_UP_DELAY_S)
        )
        return replace(self, divisor=divisor, step_up_delay_s=step_up_delay_s, low_since=None)


def combined(governor: Governor, requested: int | None) -> int:
    """Return the smaller of the limit of the governor and the requested limit, if any."""
    return governor.limit if requested is None else min(governor.limit, requested)
