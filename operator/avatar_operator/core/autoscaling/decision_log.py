"""The decision log: which lines contain a full history, and how a log is replayed.

A line leaves out the history where the previous line of the same service determines it. Every
`FULL_HISTORY_EVERY` lines it is written in full, so that a log can be read from its middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from avatar_operator.core.autoscaling import inputs
from avatar_operator.core.autoscaling.decision_lines import (
    Document,
    LoggedDecision,
    encode,
    encode_history,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from avatar_operator.core.autoscaling import scaling
    from avatar_operator.core.resources.autoscaling import Autoscaling

FULL_HISTORY_EVERY: Final = 100
"""Lines of a service between two lines that contain its full history."""


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """A logged decision and the result of deciding again."""

    logged: LoggedDecision
    result: inputs.ScalingResult

    @property
    def differs(self) -> bool:
        """Whether the new decision differs from the logged one."""
        made = self.result.decision
        limit = None if made.limit is None else made.limit.value
        now = (made.pods, made.reserve, made.reason.value, limit)
        logged = self.logged
        return now != (logged.pods, logged.reserve, logged.reason, logged.limit)


@dataclass(frozen=True, slots=True)
class _Last:
    history: scaling.History
    lines: int
    """Lines since the history was written in full."""


class DecisionLog:
    """Turns decisions into lines; remembers the last history of each service."""

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}

    def line(self, service: str, result: inputs.ScalingResult) -> Document:
        """Return the line of a decision as JSON data."""
        last = self._last.get(service)
        history = result.inputs.history
        continues = last is not None and last.history is history and last.lines < FULL_HISTORY_EVERY
        lines = last.lines + 1 if last is not None and continues else 0
        self._last[service] = _Last(result.decision.history, lines)
        document = encode(service, result)
        return document if continues else {**document, "history": encode_history(history)}

    def forget(self, service: str | None = None) -> None:
        """Write the next line of a service (None: of every service) with its full history."""
        if service is None:
            self._last.clear()
        else:
            self._last.pop(service, None)


def replay(
    lines: Iterable[LoggedDecision], policy: Autoscaling | None = None
) -> Iterator[ReplayedDecision]:
    """Decide again for each line, with another policy if one is given.

    Pods and callers are taken from the log. With another policy, each decision is therefore what
    the policy would have decided at that time; its effect on later lines is not simulated. A line
    whose history is unknown is skipped.
    """
    histories: dict[str, scaling.History] = {}
    for line in lines:
        history = line.history
        if line.continues:
            if line.service not in histories:
                continue
            history = histories[line.service]
        elif policy is not None:
            history = histories.get(line.service, history)
        given = replace(line.inputs, history=history)
        if policy is not None:
            given = replace(given, policy=policy)
        result = inputs.decide(given)
        histories[line.service] = result.decision.history
        yield ReplayedDecision(line, result)
