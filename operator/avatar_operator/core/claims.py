"""Decides which installation of the operator manages an object, if a cluster has several.

`status.operator` of an object names the installation that manages it, by the Lease of its replicas:
NAMESPACE/NAME. An installation writes only objects that name itself. It may write its own name, in
exactly the version of the object that it has seen, if the object names nobody or an installation
that has ended: its Lease does not exist, or was not renewed for a long time. A Lease is deleted
with its release; a pause of the operator, for example during an upgrade, must not move services.

Times are seconds of the reader's own clock: clocks of two machines are never compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.leader_election import Record

GONE_S: Final = 10.0
"""A Lease that does not exist for this long belongs to no installation: a leader whose Lease was
deleted by hand creates it again after its duration, 4 s by default."""

EXPIRED_S: Final = 600.0
"""A Lease that is not renewed for this long belongs to an installation that has ended."""

_LEASE: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62})/([a-z0-9][a-z0-9.-]{0,252})")


class Claim(Enum):
    """Who may write an object."""

    OWN = "own"
    """This installation."""

    FREE = "free"
    """This installation, after it has written its name."""

    HELD = "held"
    """Another installation."""


@dataclass(frozen=True, slots=True)
class LeaseView:
    """The Lease of another installation, as it was seen last."""

    renewal: tuple[str, str] | None
    """Holder and time of the last renewal; None if the Lease does not exist."""

    since: float
    """When it was seen in this form first."""

    @property
    def ended_at(self) -> float:
        """When the installation has ended, unless its Lease changes before."""
        return self.since + (GONE_S if self.renewal is None else EXPIRED_S)


def read_claim(status: Mapping[str, object]) -> str:
    """Return the installation that a status names, an empty string if it names none."""
    return Fields(status, "status", []).text("operator")


def parse_lease(installation: str) -> tuple[str, str] | None:
    """Return namespace and name of the Lease of an installation, None if they cannot be a Lease."""
    match = _LEASE.fullmatch(installation)
    return None if match is None else (match[1], match[2])


def observe(view: LeaseView | None, record: Record | None, now: float) -> LeaseView:
    """Return the view after the Lease was read; None as `record` means that it does not exist."""
    renewal = None if record is None else (record.holder, record.renewed)
    if view is not None and view.renewal == renewal:
        return view
    return LeaseView(renewal, now)


def judge(installation: str, own: str, view: LeaseView | None, now: float) -> Claim:
    """Return who may write an object that names `installation`."""
    if installation == own:
        return Claim.OWN
    if parse_lease(installation) is None:
        return Claim.FREE
    return Claim.FREE if view is not None and now >= view.ended_at else Claim.HELD
