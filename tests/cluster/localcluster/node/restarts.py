"""Decides whether an ended container starts again, and when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long a crashing container waits; the kubelet's figures are the defaults."""

    base_s: float = 10.0
    """Wait before the second restart; the first one is immediate."""
    max_s: float = 300.0
    """Longest wait. A run of twice this time makes the next crash the first one again."""

    def delay_s(self, crashes: int) -> float:
        """Return the wait after `crashes` ends in a row, of which the first costs nothing."""
        if crashes <= 1:
            return 0.0
        # The exponent is bounded: 2.0 ** 1024 overflows.
        return min(self.max_s, self.base_s * 2.0 ** min(crashes - 2, 60))

    def crashes(self, before: int, ran_s: float) -> int:
        """Return the ends in a row after a run of `ran_s` seconds that followed `before` ends."""
        return 1 if ran_s >= 2 * self.max_s else before + 1


def restarts(policy: str, exit_code: int, *, init: bool) -> bool:
    """Say whether a container that ended with `exit_code` runs again under a pod's policy."""
    if exit_code == 0:
        return policy == "Always" and not init
    return policy != "Never"
