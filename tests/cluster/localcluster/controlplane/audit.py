"""Reads the audit log of the API server: which user wrote which object, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Write:
    """One write request."""

    at: str
    """The time of the response, RFC 3339 in UTC with microseconds, so that texts sort as times."""
    user: str
    verb: str
    resource: str
    """For example `pods` or `avatarservices.avatar.musetalk.io/status`."""
    namespace: str
    name: str
    code: int
    """The HTTP status of the response."""
    agent: str = ""
    """The user agent, which distinguishes replicas with the same account."""


LEASES: Final = "leases.coordination.k8s.io"


def read(
    path: Path, user: str | None = None, since: str = "", *, leases: bool = False
) -> tuple[Write, ...]:
    """Return the writes of one user or of all users after `since`, oldest first.

    Writes of Leases are heartbeats; they are omitted by default. A dry run writes nothing.
    """
    with path.open() as file:
        complete = (line for line in file if line.endswith("\n"))  # the last line may be incomplete
        writes = (parse(line) for line in complete if "dryRun=All" not in line)
        wanted = (w for w in writes if leases or w.resource != LEASES)
        return tuple(w for w in wanted if user in (None, w.user) and w.at > since)


def parse(line: str) -> Write:
    """Parse one line."""
    event = json.loads(line)
    target = event.get("objectRef", {})
    kind = ".".join(part for part in (target.get("resource"), target.get("apiGroup")) if part)
    return Write(
        at=event["stageTimestamp"],
        user=event["user"]["username"],
        verb=event["verb"],
        resource="/".join(part for part in (kind, target.get("subresource")) if part),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        agent=event.get("userAgent", ""),
    )
