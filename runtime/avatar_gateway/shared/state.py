"""What a shared state can do; `memory` and `redis` implement it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_contracts.state import SharedStateName
    from avatar_gateway.core.leases import Lease, QuotaExceeded, Usage
    from avatar_gateway.core.tenants import TenantLimits
    from avatar_gateway.core.usage import Claim, HourTotal, Record

RECORD_KEPT_MS: Final = 24 * 3_600_000
"""How long a state knows the records that are closed."""
CLAIM_AGE_MS: Final = RECORD_KEPT_MS // 2
"""Age of a connection from which on a claim counts only if its record is known.

So a pod cannot repeat a claim after its record was forgotten.
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A connection that gives up its lease."""

    lease: Lease
    is_suspended: bool
    """Whether its caller may come back."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What all gateways together have."""

    replicas: int = 0
    """Gateways that have reported in the last seconds; 0 if that was never known."""
    tenants: Mapping[str, Usage] = field(default_factory=dict)
    data_id: str = ""
    """Another one after the server has lost its data; empty if that is not known."""
    waiting: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Callers that wait at the other gateways, by tenant and service."""


class SharedState(Protocol):
    """Every method takes at most about a second, and raises `SharedStateUnavailable` otherwise.

    Every method may be repeated with the same arguments without another effect, except `count_use`.
    """

    @property
    def name(self) -> SharedStateName:
        """`ok` or `unavailable`; `none` for a state that one gateway has for itself."""

    async def server_id(self) -> str:
        """Return another text after each start of the server, which may lose the last seconds."""

    async def acquire(self, lease: Lease, limits: TenantLimits) -> QuotaExceeded | None:
        """Count a new session, or return the limit that refuses it; atomic over all gateways."""

    async def bind(self, lease: Lease, session_id: str) -> bool:
        """Name a lease by its session, so that another gateway can take it over.

        Returns:
            False if another lease of the tenant has that name.
        """

    async def take_over(self, lease: Lease) -> None:
        """Make this connection the owner of the lease of a session, which exists already."""

    async def renew(self, leases: Sequence[Lease]) -> None:
        """Extend leases of live connections, and add those that are missing or have no owner."""

    async def finish(self, finished: Sequence[Finished]) -> None:
        """Release or suspend leases that these connections still own."""

    async def overview(
        self, gateway: str, waiting: Mapping[str, Mapping[str, int]] | None = None
    ) -> Overview:
        """Register this gateway for some seconds and return what all gateways have.

        `waiting` are the callers that wait here, by tenant and service.
        """

    async def report_usage(self, records: Sequence[Record]) -> None:
        """Count what is new in records."""

    async def claim_usage(self, claims: Sequence[Claim], now_ms: float) -> None:
        """Keep what pods say of connections that have ended, for `close_abandoned`."""

    async def close_abandoned(self) -> Sequence[Record]:
        """Take some records of gateways that have died, with what pods claim for them.

        Each goes to one gateway.
        """

    async def usage(self, since: int, until: int) -> Sequence[HourTotal]:
        """Return the totals of the hours from `since` to before `until`, hours of the epoch."""

    async def count_use(self, counter: str, limit: int, ttl_s: float) -> bool:
        """Count one use; return whether no more than `limit` were counted in `ttl_s`."""

    async def close(self) -> None:
        """Close all connections."""
