"""What happened to the Lease of the operators, in order.

How fast one operator follows another one depends on the machine. Whether the first one has released
the Lease, or the second one had to wait until it expired, does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from localcluster import operator_process
from localcluster.controlplane import kubeapi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.controlplane.cluster import ControlPlane
    from localcluster.controlplane.kubeapi import Body

LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{operator_process.SYSTEM}/leases"
DEADLINE_S: Final = 60.0


class LeaseLog:
    """The holders of the Lease, one after another; an empty one if it was released."""

    def __init__(self, changed: asyncio.Condition) -> None:
        """`changed` is the condition of the mirror that reports the versions."""
        self.holders: list[str] = []
        self._changed = changed

    def observe(self, _: str, lease: Body) -> None:
        """Take notice of a version of the Lease."""
        if lease["metadata"]["name"] != operator_process.LEASE:
            return
        holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
        if self.holders[-1:] != [holder]:
            self.holders.append(holder)

    async def until_another_leads(self) -> None:
        """Wait until a second process holds the Lease."""
        await kubeapi.until(
            self._changed,
            lambda: len(set(self.holders) - {""}) > 1,
            lambda: f"another leader; last seen: {self.holders}",
            DEADLINE_S,
        )

    def handovers(self) -> list[tuple[str, str]]:
        """Return who released the Lease, and who took it next."""
        return [
            (before, after)
            for before, between, after in zip(
                self.holders, self.holders[1:], self.holders[2:], strict=False
            )
            if not between
        ]


@contextlib.asynccontextmanager
async def followed(cluster: ControlPlane) -> AsyncIterator[LeaseLog]:
    """Follow the Lease until the block ends."""
    changed = asyncio.Condition()
    log = LeaseLog(changed)
    async with (
        kubeapi.connected(cluster) as api,
        kubeapi.Mirror(api, LEASES, changed, log.observe).running(),
    ):
        yield log
