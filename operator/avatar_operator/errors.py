"""Every error that the operator raises on purpose.

AvatarOperatorError
├── SettingsError          environment variables are missing or invalid
├── InputError             a file or option of the command line cannot be used
├── InvalidResource        a resource body breaks its contract; lists all faults
├── ClusterError           the Kubernetes API did not execute a request
│   ├── TemporaryError     it may do so later; carries the delay that the server asked for
│   ├── NotFound           the object does not exist
│   ├── Conflict           the object has changed or was replaced, or exists already
│   ├── FieldConflict      another manager applies a field of the operator
│   ├── NameTaken          objects of others have the names of an object of a service
│   └── Refused            it never will: the request is forbidden or invalid
├── NotRemoved             an uninstall did not remove everything before its deadline
├── BrokenStream           the state stream of a pod ended or is invalid
│   └── TokenRefused       the pod does not accept the token
├── RuntimeUnreachable     a runtime pod did not respond on its admin port
└── NotLeading             this replica does not lead: nothing was written
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_contracts.environment import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_contracts.fields import Fault


class AvatarOperatorError(Exception):
    """Base class of all errors that this package raises on purpose."""


class SettingsError(AvatarOperatorError, InvalidSettings):
    """Environment variables with which the operator cannot start."""


class InputError(AvatarOperatorError):
    """A file or option of the command line that cannot be used."""

    def __init__(self, option: str, path: str, fault: str) -> None:
        super().__init__(option, path, fault)
        self.option = option
        self.path = path
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.option} {self.path}: {self.fault}"


class InvalidResource(AvatarOperatorError):
    """A resource body that breaks its contract, with all faults."""

    def __init__(self, kind: str, name: str, faults: Sequence[Fault]) -> None:
        super().__init__(kind, name, tuple(faults))
        self.kind = kind
        self.name = name
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: " + "; ".join(map(str, self.faults))


class ClusterError(AvatarOperatorError):
    """The Kubernetes API did not execute a request."""

    def __init__(self, request: str, status: int, message: str) -> None:
        super().__init__(request, status, message)
        self.request = request
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.request}: {self.status} {self.message}"


class TemporaryError(ClusterError):
    """The API cannot execute the request now; `delay_s` is the delay it asked for, or None."""

    def __init__(
        self, request: str, status: int, message: str, delay_s: float | None = None
    ) -> None:
        super().__init__(request, status, message)
        self.args = (request, status, message, delay_s)
        self.delay_s = delay_s


class NotFound(ClusterError):
    """The object does not exist."""


class Conflict(ClusterError):
    """The object has changed or was replaced, or exists already."""


class FieldConflict(ClusterError):
    """Another manager applies a field of the operator; both would overwrite it without end."""


class NameTaken(ClusterError):
    """Objects that do not belong to a service have all names of one of its own objects."""

    def __init__(self, kind: str, namespace: str, taken: Sequence[str]) -> None:
        message = "the name is taken by an object that does not belong to the AvatarService"
        super().__init__(f"{kind} {namespace}/{' and '.join(taken)}", 409, message)
        self.args = (kind, namespace, taken)
        self.kind = kind
        self.taken = tuple(taken)

    def __str__(self) -> str:
        return f"{self.request}: {self.message}"


class Refused(ClusterError):
    """The API will never execute the request: it is forbidden or invalid."""


class BrokenStream(AvatarOperatorError):
    """The state stream of a pod ended or is invalid."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return self.fault


class TokenRefused(BrokenStream):
    """A pod does not accept the token of a request: HTTP status 401."""


class RuntimeUnreachable(AvatarOperatorError):
    """A runtime pod did not respond on its admin port."""

    def __init__(self, pod: str, fault: str) -> None:
        super().__init__(pod, fault)
        self.pod = pod
        self.fault = fault

    def __str__(self) -> str:
        return f"pod {self.pod} did not respond on its admin port: {self.fault}"


class NotRemoved(AvatarOperatorError):
    """Objects or pods that were not gone at the deadline of a cleanup."""

    def __init__(self, objects: Sequence[str], pods: int, within_s: float) -> None:
        super().__init__(tuple(objects), pods, within_s)
        self.objects = tuple(objects)
        self.pods = pods
        self.within_s = within_s

    def __str__(self) -> str:
        listed = "; ".join(self.objects[:20])
        return (
            f"{len(self.objects)} objects and {self.pods} pods were not gone after "
            f"{self.within_s:g} s{': ' * bool(listed)}{listed}; sessions that are live go on, run "
            "the uninstall again when they have ended"
        )


class NotLeading(AvatarOperatorError):
    """A write that was not sent, because this process may not be the leader."""

    def __str__(self) -> str:
        return "this replica does not lead, nothing was written"
