"""`avatar-operator replay`: decides again from the inputs in a decision log."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from avatar_operator.cli import plan
from avatar_operator.core.autoscaling import decision_lines, decision_log
from avatar_operator.core.text import count, rfc3339
from avatar_operator.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from avatar_operator.core.resources.autoscaling import Autoscaling

SHOWN: Final = 20  # differences that the comparison lists
_OURS: Final = (
    f'{{"kind":"{decision_lines.KIND}",'  # how a line begins; a container's log has others
)


@dataclasses.dataclass(slots=True)
class _Summary:
    """The comparison of one service."""

    decisions: int = 0
    differences: int = 0
    last_at: float | None = None
    pods: int = 0
    pods_again: int = 0
    pod_s: float = 0.0
    pod_s_again: float = 0.0
    most: int = 0
    most_again: int = 0

    def add(self, again: decision_log.ReplayedDecision) -> None:
        at = again.logged.inputs.wall
        if self.last_at is not None:
            span_s = max(0.0, at - self.last_at)
            self.pod_s += span_s * self.pods
            self.pod_s_again += span_s * self.pods_again
        self.last_at = at
        self.pods, self.pods_again = again.logged.pods, again.result.decision.pods
        self.most = max(self.most, self.pods)
        self.most_again = max(self.most_again, self.pods_again)
        self.decisions += 1
        self.differences += again.differs

    def document(self) -> dict[str, object]:
        return {
            "decisions": self.decisions,
            "differences": self.differences,
            "pod_hours": round(self.pod_s / 3600, 4),
            "pod_hours_again": round(self.pod_s_again / 3600, 4),
            "max_pods": self.most,
            "max_pods_again": self.most_again,
        }


def replay(log: Path, service: Path | None) -> Mapping[str, object]:
    """Return how the decisions of a log compare with those made now.

    With the manifest of a service, its policy replaces the policy of every line.

    Raises:
        InputError: a file cannot be read or contains no decision.
        InvalidResource: the service is invalid.
    """
    policy = None if service is None else _policy(service)
    sums: dict[str, _Summary] = {}
    found: list[Mapping[str, object]] = []
    lines = list(_lines(log))
    for again in decision_log.replay(lines, policy):
        sums.setdefault(again.logged.service, _Summary()).add(again)
        if again.differs and len(found) < SHOWN:
            found.append(_difference(again))
    skipped = len(lines) - sum(each.decisions for each in sums.values())
    return {
        "decisions": len(lines) - skipped,
        "passed_over": skipped,
        "differences": sum(each.differences for each in sums.values()),
        "services": {name: each.document() for name, each in sorted(sums.items())},
        "first_differences": found,
    }


def text(data: Mapping[str, object]) -> str:
    """Return a comparison as readable text."""
    services, differences = data["services"], data["first_differences"]
    assert isinstance(services, Mapping)
    assert isinstance(differences, list)
    lines = [f"{data['decisions']} decisions, {data['differences']} differ"]
    if data["passed_over"]:
        lines.append(f"{data['passed_over']} skipped: their history is not in the log")
    for name, row in services.items():
        lines.append(
            f"{name}: {row['decisions']} decisions, {row['differences']} differ, "
            f"pod hours {row['pod_hours']} logged, {row['pod_hours_again']} now, "
            f"most pods {row['max_pods']} logged, {row['max_pods_again']} now"
        )
    lines += [
        f"  {row['time']} {row['service']}: logged {row['written']}, now {row['now']}"
        for row in differences
    ]
    return "\n".join(lines)


def _policy(path: Path) -> Autoscaling:
    service = plan.read_service(path)
    if service.autoscaling is None or service.replicas is not None:
        fault = "has a fixed number of pods, must have spec.autoscaling"
        raise InputError("--service", str(path), fault)
    return service.autoscaling


def _lines(path: Path) -> Iterator[decision_lines.LoggedDecision]:
    """Yield the decisions of a log; other lines are ignored."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("--log", str(path), str(error)) from error
    found = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(_OURS):
            continue
        try:
            yield decision_lines.decode(json.loads(line))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            fault = f"has an invalid decision in line {number}: {error}"
            raise InputError("--log", str(path), fault) from error
        found = True
    if not found:
        raise InputError("--log", str(path), "contains no decision")


def _difference(again: decision_log.ReplayedDecision) -> Mapping[str, object]:
    line, made = again.logged, again.result.decision
    return {
        "time": rfc3339(line.inputs.wall),
        "service": line.service,
        "written": _summary(line.pods, line.reserve, line.reason, line.limit),
        "now": _summary(
            made.pods, made.reserve, made.reason.value, made.limit and made.limit.value
        ),
    }


def _summary(pods: int, reserve: int, why: str, limit: str | None) -> str:
    kept = f", {reserve} of them in the reserve" if reserve else ""
    return f"{count(pods, 'pod')}{kept} ({why}{f', limited by {limit}' if limit else ''})"
