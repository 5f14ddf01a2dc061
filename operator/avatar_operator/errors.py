"""Every error that the operator raises on purpose.

AvatarOperatorError
├── SettingsError          an environment variable is missing, unknown or out of range
├── InputError             a file given to the command line cannot be used
├── InvalidResource        a resource body breaks its contract; lists all faults
├── ClusterError           the Kubernetes API did not do what was asked
│   ├── TemporaryError     it may later; carries the delay that the server asked for
│   ├── NotFound           the object is gone
│   ├── Conflict           the object is another one by now, or exists already
│   ├── Contested          someone else declares a field of ours: it is not fought over
│   └── Refused            it never will: forbidden, or the object is invalid
├── BrokenStream           the stream of a pod's states ended, or is none
├── RuntimeUnreachable     a runtime pod did not answer on its admin port
└── NotLeading             another replica acts, or none may: nothing was written
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AvatarOperatorError(Exception):
    """Base of all errors this package raises on purpose."""


class SettingsError(AvatarOperatorError):
    """An environment variable that the operator cannot start with."""

    def __init__(self, variable: str, value: str | None, limit: str) -> None:
        super().__init__(variable, value, limit)
        self.variable = variable
        self.value = value
        self.limit = limit

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.variable} is not set, must be {self.limit}"
        return f"{self.variable} is {self.value!r}, must be {self.limit}"


class InputError(AvatarOperatorError):
    """A file given to the command line that cannot be used."""

    def __init__(self, option: str, path: str, fault: str) -> None:
        super().__init__(option, path, fault)
        self.option = option
        self.path = path
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.option} {self.path}: {self.fault}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that breaks the contract: where it is, what it holds, what it must be."""

    path: str
    value: str | None  # as JSON, cut; None: the field is missing; "": the value is not shown
    limit: str  # completes "must be", or a clause that starts with "must", or a sentence

    def __str__(self) -> str:
        is_clause = self.limit.startswith("must ")
        if self.value == "":
            return f"{self.path} {self.limit}" if is_clause else f"{self.path}: {self.limit}"
        clause = self.limit if is_clause else f"must be {self.limit}"
        if self.value is None:
            return f"{self.path} is missing, {clause}"
        return f"{self.path} is {self.value}, {clause}"


class InvalidResource(AvatarOperatorError):
    """A resource body that breaks its contract, with every fault found."""

    def __init__(self, kind: str, name: str, faults: Sequence[Fault]) -> None:
        super().__init__(kind, name, tuple(faults))
        self.kind = kind
        self.name = name
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: " + "; ".join(map(str, self.faults))


class ClusterError(AvatarOperatorError):
    """The Kubernetes API did not do what was asked."""

    def __init__(self, request: str, status: int, message: str) -> None:
        super().__init__(request, status, message)
        self.request = request
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.request}: {self.status} {self.message}"


class TemporaryError(ClusterError):
    """The API cannot do it now; `delay_s` is what it asked for, or None."""

    def __init__(
        self, request: str, status: int, message: str, delay_s: float | None = None
    ) -> None:
        super().__init__(request, status, message)
        self.args = (request, status, message, delay_s)
        self.delay_s = delay_s


class NotFound(ClusterError):
    """The object is gone."""


class Conflict(ClusterError):
    """The object is another one by now, or exists already."""


class Contested(ClusterError):
    """Someone else declares a field of ours, so that writing it would never end."""


class Refused(ClusterError):
    """The API will never do it: forbidden, or the object is invalid."""


class BrokenStream(AvatarOperatorError):
    """The stream of a pod's states ended, or is none."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return self.fault


class RuntimeUnreachable(AvatarOperatorError):
    """A runtime pod did not answer on its admin port."""

    def __init__(self, pod: str, fault: str) -> None:
        super().__init__(pod, fault)
        self.pod = pod
        self.fault = fault

    def __str__(self) -> str:
        return f"pod {self.pod} did not answer on its admin port: {self.fault}"


class NotLeading(AvatarOperatorError):
    """A write that was held back, because this process does not lead or cannot be sure to."""

    def __str__(self) -> str:
        return "this replica does not lead, nothing was written"
