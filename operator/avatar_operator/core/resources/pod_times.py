"""When the stages of the start of a pod ended, from its conditions and container states.

The API server and the kubelet give times in whole seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from avatar_operator import names
from avatar_operator.core.resources.pod_status import parse_seconds

if TYPE_CHECKING:
    from avatar_contracts.fields import Fields


class PodTimes(NamedTuple):
    """Seconds since 1970; None if the time is unknown, or the stage has not ended."""

    scheduled_at: float | None = None
    first_container_at: float | None = None
    """When the first container of the pod began: volumes are mounted, and its image is there."""
    download_s: float | None = None
    """Duration of the downloads of models and avatars; None if the pod downloads none."""
    runtime_at: float | None = None
    """When the runtime container began."""
    ready_at: float | None = None


UNKNOWN_TIMES: Final = PodTimes()


def parse(status: Fields) -> PodTimes:
    """Return the times that the status of a pod has."""
    since = {
        condition.text("type"): parse_seconds(condition.text("lastTransitionTime"))
        for condition in status.children("conditions")
        if condition.text("status") == "True"
    }
    began: list[float] = []
    downloads: list[float] = []
    for container in status.children("initContainerStatuses"):
        start, end = _times(container)
        if start is not None:
            began.append(start)
            if end is not None and container.text("name").startswith(names.CACHE_CONTAINER_PREFIX):
                downloads.append(max(0.0, end - start))
    runtime_at = None
    for container in status.children("containerStatuses"):
        start, _ = _times(container)
        if start is not None:
            began.append(start)
            if container.text("name") == names.CONTAINER:
                runtime_at = start
    return PodTimes(
        scheduled_at=since.get("PodScheduled"),
        first_container_at=min(began, default=None),
        download_s=sum(downloads) if downloads else None,
        runtime_at=runtime_at,
        ready_at=since.get("Ready"),
    )


def _times(container: Fields) -> tuple[float | None, float | None]:
    """Return when the current run of a container began and ended."""
    state = container.child("state")
    ended = state.child("terminated")
    if state.has("terminated"):
        return parse_seconds(ended.text("startedAt")), parse_seconds(ended.text("finishedAt"))
    return parse_seconds(state.child("running").text("startedAt")), None
