"""Reads the API server's audit log: who wrote what, and when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Write:
    """One request that asked to change something."""

    at: str
    """When it was answered, RFC 3339 in UTC with microseconds: texts compare as times."""
    user: str
    verb: str
    resource: str
    """`pods`, `avatarservices.avatar.musetalk.io/status`."""
    namespace: str
    name: str
    code: int
    """The HTTP status of the answer."""
    agent: str = ""
    """The user agent, which tells replicas of one account apart."""


LEASES: Final = "leases.coordination.k8s.io"


def read(
    path: Path, user: str | None = None, since: str = "", *, leases: bool = False
) -> tuple[Write, ...]:
    """Return the writes in the log, oldest first, of one user or all, later than `since`.

    Those of Leases are heartbeats, and left out unless asked for.
    """
    with path.open() as file:
        complete = (line for line in file if line.endswith("\n"))  # the last may be half written
        writes = (parse(line) for line in complete)
        wanted = (w for w in writes if leases or w.resource != LEASES)
        return tuple(w for w in wanted if user in (None, w.user) and w.at > since)


def parse(line: str) -> Write:
    """Return the write of one line."""
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
