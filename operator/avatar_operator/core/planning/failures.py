"""What failed to start: the record that the status of a service keeps, and the delays it causes.

The record outlives the operator, so that a spec that fails each time is tried ever less often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_contracts.backoff import doubled
from avatar_contracts.fields import Fields
from avatar_operator.core.resources.pod_status import parse_seconds
from avatar_operator.core.text import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_operator.core.gpus.pools import Pool
    from avatar_operator.core.planning.fleet import Fleet
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.core.resources.pod import RuntimePod

FIRST_RETRY_S: Final = 10.0
"""Delay before another pod is tried after the first round of failures; each round doubles it."""

MAX_RETRY_S: Final = 300.0

YIELD_S: Final = 5.0
"""Time between two checks whether other services still wait for the GPU of the next try."""

_MAX_COUNT: Final = 10**6


@dataclass(frozen=True, slots=True)
class Failure:
    """The latest round of pods of one spec that failed to start, kept in the status."""

    spec_hash: str
    gpu_class: str
    """The class whose nodes rejected the pods; empty if the spec fails on every class."""
    rounds: int
    """Rounds in a row, by which the delay grows."""
    pods: int
    """Pods that failed in the latest round."""
    failed_at: float
    """When the latest pod failed, in seconds since 1970."""
    gpus: int
    """GPUs of the class at that time: another number is a reason to try again at once."""
    pod: str
    message: str

    @property
    def retry_at(self) -> float:
        """When another pod may be tried, in seconds since 1970."""
        return self.failed_at + doubled(FIRST_RETRY_S, MAX_RETRY_S, self.rounds)

    @property
    def last_retry_at(self) -> float:
        """When another pod is tried although it takes the GPU that another service waits for."""
        return self.failed_at + MAX_RETRY_S


class FailedPod(NamedTuple):
    """A pod that failed to start and is deleted."""

    pod: RuntimePod
    message: str
    gpu_class: str | None
    """The `gpu_class` of the failure to record; None if its spec is not at fault."""


def still_valid(failures: Iterable[Failure], fleet: Fleet, spec_hash: str) -> tuple[Failure, ...]:
    """Return the failures that no later pod has disproved.

    A failure on every class is disproved by a ready pod, one on a class by a pod that a node of
    this class has accepted. The pod must have been created after the failure.
    """
    return tuple(
        each
        for each in failures
        if each.spec_hash == spec_hash
        and not any(
            pod.created_at + 1 > each.failed_at  # the API server cuts off fractions
            and ((pod.node and pod.gpu_class == each.gpu_class) if each.gpu_class else pod.ready)
            for pod in fleet.current
        )
    )


def record(
    failures: Sequence[Failure],
    failed: Iterable[FailedPod],
    pools: Sequence[Pool],
    spec_hash: str,
    now: float,
) -> tuple[Failure, ...]:
    """Return the failures with those of the pods that are deleted now."""
    gpus = {pool.gpu_class: pool.stock.total for pool in pools}
    by_class = {each.gpu_class: each for each in failures}
    for pod, message, gpu_class in failed:
        if gpu_class is None:
            continue
        before = by_class.get(gpu_class)
        rounds, pods = 1, 1
        if before is not None:
            again = now >= before.retry_at  # else it belongs to the same round
            rounds, pods = before.rounds + again, 1 if again else before.pods + 1
        by_class[gpu_class] = Failure(
            spec_hash, gpu_class, rounds, pods, now, gpus.get(gpu_class, 0), pod.name, message
        )
    return tuple(by_class[name] for name in sorted(by_class))


def to_status(failures: Sequence[Failure]) -> list[Body]:
    """Render the failures for the status of the service."""
    return [
        {
            "specHash": each.spec_hash,
            **({"gpuClass": each.gpu_class} if each.gpu_class else {}),
            "rounds": each.rounds,
            "pods": each.pods,
            "time": rfc3339(each.failed_at),
            "gpus": each.gpus,
            "pod": each.pod,
            "message": each.message,
        }
        for each in failures
    ]


def read_failures(status: Mapping[str, object]) -> tuple[Failure, ...]:
    """Return the failures that a status contains."""
    return tuple(
        Failure(
            spec_hash=each.text("specHash"),
            gpu_class=each.text("gpuClass"),
            rounds=each.integer("rounds", 1, 1, _MAX_COUNT),
            pods=each.integer("pods", 1, 1, _MAX_COUNT),
            failed_at=parse_seconds(each.text("time")) or 0.0,
            gpus=each.integer("gpus", 0, 0, _MAX_COUNT),
            pod=each.text("pod"),
            message=each.text("message"),
        )
        for each in Fields(status, "status", []).children("failures")
    )
