"""Decides whether and when an ended container restarts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackOff:
    """The back-off of a crashing container; the defaults are those of the kubelet."""

    base_s: float = 10.0
    """Delay before the second restart; the first one is immediate."""
    max_s: float = 300.0
    """Maximum delay. A run of twice this time resets the number of crashes."""

    def delay_s(self, crashes: int) -> float:
        """Return the delay after `crashes` ends in a row; after the first one it is 0."""
        if crashes <= 1:
            return 0.0
        # The exponent is limited, because 2.0 ** 1024 overflows.
        return min(self.max_s, self.base_s * 2.0 ** min(crashes - 2, 60))

    def crashes(self, before: int, ran_s: float) -> int:
        """Return the ends in a row after a run of `ran_s` seconds that followed `before` ends."""
        return 1 if ran_s >= 2 * self.max_s else before + 1


def restarts(policy: str, exit_code: int, *, init: bool) -> bool:
    """Return whether a container that ended with `exit_code` restarts under the pod's policy."""
    if exit_code == 0:
        return policy == "Always" and not init
    return policy != "Never"
