"""Explains why the API server did not execute a request: each cause has a reason of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_contracts.backoff import doubled
from avatar_operator.errors import Refused
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from avatar_operator.errors import ClusterError

LONGEST_CAUSE: Final = 300  # characters of the API server's own words

FIRST_RETRY_S: Final = 0.1
"""Delay before a refused pod is tried again; each refusal in a row doubles it."""

LONGEST_RETRY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class FailedAction:
    """An action that failed."""

    reason: Reason
    message: str
    of_pod: bool = False
    """Whether it kept a pod from being created."""
    needs_change: bool = False
    """Whether waiting does not help: a spec or another object must change."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last refusal of the pods of a spec, valid until another pod of the spec is created."""

    generation: int
    """metadata.generation of the service."""
    failures: tuple[FailedAction, ...]
    tries: int
    """Refusals in a row, by which the delay grows."""
    retry_at: float
    """When a pod may be tried again, in seconds of the loop's clock."""

    def reported(self, *, withheld: bool) -> tuple[FailedAction, ...]:
        """Return what is still true: a quota may have room again as soon as a pod may be tried."""
        return tuple(each for each in self.failures if each.needs_change or withheld)


class _Cause(NamedTuple):
    reason: Reason
    pattern: re.Pattern[str]
    """Matches the API server's message; the message of the failure starts with the match."""
    sentence: str
    needs_change: bool = True


_CAUSES: Final = (
    _Cause(
        Reason.QUOTA_EXCEEDED,
        re.compile(r"(exceeded|failed) quota\b.*"),
        "a ResourceQuota of the namespace allows no other pod",
        needs_change=False,  # a pod of somebody else may end
    ),
    _Cause(
        Reason.POD_SECURITY_VIOLATION,
        re.compile(r"violates PodSecurity .*"),
        "Pod Security Admission of the namespace refuses the pod",
    ),
    _Cause(
        Reason.PRIORITY_CLASS_NOT_FOUND,
        re.compile(r"no PriorityClass with name .*"),
        "spec.template.priorityClassName names a class that does not exist",
    ),
    _Cause(
        Reason.RUNTIME_CLASS_NOT_FOUND,
        re.compile(r"RuntimeClass \S+ not found.*"),
        "spec.template.runtimeClassName names a class that does not exist",
    ),
    _Cause(
        Reason.SERVICE_ACCOUNT_NOT_FOUND,
        re.compile(r"serviceaccount \S+ not found.*", re.IGNORECASE),
        "spec.template.serviceAccountName names an account that does not exist",
    ),
    _Cause(
        Reason.NAMESPACE_TERMINATING,
        re.compile(r"namespace \S+ because it is being terminated.*"),
        "no pod can be created in a namespace that is being deleted",
    ),
    _Cause(
        Reason.NOT_PERMITTED,
        re.compile(r"User \S+ cannot .*"),
        "the ServiceAccount of the operator lacks a permission",
    ),
)
_FORBIDDEN: Final = re.compile(r"^\S+ \S+ is forbidden: ")


def explain(fault: ClusterError) -> FailedAction:
    """Return the cause of a failed request in one sentence."""
    method, _, path = fault.request.partition(" ")
    of_pod = method == "POST" and path.endswith("/pods")
    if not isinstance(fault, Refused):
        return FailedAction(Reason.APPLY_FAILED, str(fault), of_pod)
    for cause in _CAUSES:
        found = cause.pattern.search(" ".join(fault.message.split()))
        if found and (of_pod or cause.reason is Reason.NOT_PERMITTED):
            message = f"{cause.sentence}: {_shortened(found.group())}"
            return FailedAction(cause.reason, message, of_pod, cause.needs_change)
    if of_pod:
        why = _FORBIDDEN.sub("", " ".join(fault.message.split()))
        return FailedAction(
            Reason.POD_REFUSED, f"the API server refuses the pod: {_shortened(why)}", True, True
        )
    return FailedAction(Reason.APPLY_FAILED, str(fault))


def remember(
    before: Refusal | None, generation: int, failures: Iterable[FailedAction], now: float
) -> Refusal | None:
    """Return the refusal after pods were tried, None if the API server refused none of them.

    `before` is the refusal of the same generation, and `now` is a time of the loop's clock.
    """
    refused = tuple(
        each for each in failures if each.of_pod and each.reason is not Reason.APPLY_FAILED
    )
    if not refused:
        return None
    tries = 1 if before is None else before.tries + 1
    delay_s = doubled(FIRST_RETRY_S, LONGEST_RETRY_S, tries)
    return Refusal(generation, refused, tries, now + delay_s)


def merged(failures: Iterable[FailedAction]) -> tuple[FailedAction, ...]:
    """Return one failure for each reason: pods of one plan are refused for the same cause."""
    found: dict[Reason, FailedAction] = {}
    for failure in failures:
        known = found.get(failure.reason)
        if known is None:
            found[failure.reason] = failure
        elif failure.reason is Reason.APPLY_FAILED and failure.message not in known.message:
            message = f"{known.message}; {failure.message}"
            found[failure.reason] = FailedAction(
                failure.reason, message, known.of_pod or failure.of_pod
            )
    return tuple(found.values())


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_CAUSE else f"{text[: LONGEST_CAUSE - 1]}…"
