"""What the operator remembers of a service, and what a reconcile of it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar_operator.core.autoscaling import scaling
    from avatar_operator.core.autoscaling.start_times import Starts
    from avatar_operator.core.planning import planner
    from avatar_operator.core.planning.failures import Failure
    from avatar_operator.core.status.refusals import Refusal
    from avatar_operator.errors import AvatarOperatorError, ClusterError


@dataclass(slots=True)
class ServiceState:
    """What the operator remembers of a service because it cannot be observed."""

    written_at: float = float("-inf")
    """When the status was written last, in seconds of the loop's clock."""

    is_new: bool = False
    """Whether no status was written after a plan: nothing of the service exists yet, as a rule."""

    has_secret: bool = False
    """Whether the control Secret was checked since the last resync."""

    secret_checked_at: float = float("-inf")
    """When the control Secret was checked last, in seconds of the loop's clock."""

    control_secret: str = ""
    """The name of the control Secret of the service; empty until it is known."""

    names_taken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that objects of others have, by the kind of the object."""

    pods_taken: set[str] = field(default_factory=set)
    """Names that pods of others had when the operator tried to create a pod."""

    relabelled: set[str] = field(default_factory=set)
    """UIDs of pods whose labels were restored since the last resync."""

    has_network_policy: bool = False
    """Whether the NetworkPolicy was checked since the last resync."""

    policy_has_downloads: bool = False
    """Whether the checked NetworkPolicy lets pods download."""

    term: int = 0
    """The term of this process in which the service was planned last."""

    hold_removals_until: float = float("-inf")
    """Nothing is removed before this time of the loop's clock."""

    history: scaling.History | None = None
    """The history of the scaling decisions."""

    starts: Starts | None = None
    """The starts of the pods of the service; None if the status was not read."""

    starts_term: int = 0
    """The term of this process in which `starts` was read."""

    failures: tuple[Failure, ...] | None = None
    """Pods that failed to start, as the last plan has them; None if the status was not read."""

    refusal: Refusal | None = None
    """The last refusal of pods by the API server; None if the last pods were created."""

    field_conflicts: dict[str, str] = field(default_factory=dict)
    """Which manager applies a field of the operator, by the kind of action."""

    emitted: set[int] = field(default_factory=set)
    """Hashes of the Events that were emitted."""


@dataclass(slots=True)
class ExecutionResult:
    """The results of the actions of one plan."""

    done: list[planner.Action] = field(default_factory=list)
    faults: list[AvatarOperatorError] = field(default_factory=list)
    outdated: list[ClusterError] = field(default_factory=list)
    """Errors of actions on objects that have changed since they were observed."""
