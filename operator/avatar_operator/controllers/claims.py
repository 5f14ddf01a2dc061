"""Checks whether this installation of the operator may write an object; see `core.claims`.

An installation that stands back writes nothing but one Event for each service: the status belongs
to the installation that it names.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from avatar_operator.controllers.service_state import ServiceState
from avatar_operator.core import claims, leader_election
from avatar_operator.core.claims import Claim
from avatar_operator.core.resources.service import parse_service
from avatar_operator.core.status.service_status import Notice
from avatar_operator.errors import ClusterError, InvalidResource, NotFound
from avatar_operator.fence import clock
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from avatar_operator.controllers.executor import Executor
    from avatar_operator.controllers.service_controller import ServiceController
    from avatar_operator.core.cache.entries import ServiceBody
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.claims import LeaseView
    from avatar_operator.kube import client
    from avatar_operator.metrics import Metrics

READ_S: Final = 5.0  # between two reads of the Lease of another installation
LONGEST_S: Final = 30.0  # between two checks of a service that another installation manages
TIMEOUT_S: Final = 2.0

_log = logging.getLogger(__name__)


class Claims:
    """What is known of the other installations that manage services in the cluster."""

    def __init__(self, api: client.KubernetesClient, own: str) -> None:
        """`own` is this installation, NAMESPACE/NAME of its Lease."""
        self.own = own
        self._api = api
        self._views: dict[str, LeaseView] = {}
        self._read_at: dict[str, float] = {}

    async def check(self, installation: str) -> Claim:
        """Return who may write an object that names `installation`."""
        claim = claims.judge(installation, self.own, None, clock())
        if claim is not Claim.HELD:
            return claim
        now = clock()
        if now - self._read_at.get(installation, float("-inf")) >= READ_S:
            self._read_at[installation] = now  # before the read: one of many callers reads
            await self._read(installation)
        return claims.judge(installation, self.own, self._views.get(installation), clock())

    def recheck_s(self, installation: str) -> float:
        """Return after how many seconds to check again an object that another installation has."""
        view = self._views.get(installation)
        left_s = claims.GONE_S if view is None else view.ended_at - clock()
        return min(max(READ_S, left_s), LONGEST_S)

    async def _read(self, installation: str) -> None:
        lease = claims.parse_lease(installation)
        assert lease is not None
        record = None
        try:
            record = leader_election.parse(await self._api.read_lease(*lease, TIMEOUT_S))
        except NotFound:
            pass
        except ClusterError as error:  # it may be renewed: nothing is concluded
            _log.warning("cannot read the Lease of another operator fault=%s", error)
            return
        view = claims.observe(self._views.get(installation), record, clock())
        self._views[installation] = view


class ClaimGate:
    """Lets a reconcile through if this installation manages the service."""

    def __init__(
        self,
        claims: Claims,
        store: Store,
        services: ServiceController,
        executor: Executor,
        metrics: Metrics,
    ) -> None:
        self._claims = claims
        self._store = store
        self._services = services
        self._executor = executor
        self._metrics = metrics
        self._elsewhere: dict[str, str] = {}  # who manages a service, by its UID

    def forget(self, uid: str) -> None:
        """Discard what is recorded of a deleted service."""
        self._elsewhere.pop(uid, None)
        self._metrics.set_managed_elsewhere(len(self._elsewhere))

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile a service like `ServiceController.reconcile`, unless another operator has it.

        Raises:
            AvatarOperatorError: a write failed; the claim of the service may be another one now.
        """
        body = self._store.services.get(uid)
        if body is not None:
            holder = claims.read_claim(body.status)
            version = self._store.services.version(uid) or 0
            claim = await self._claims.check(holder)
            if claim is Claim.HELD:
                await self._stand_back(uid, body, holder)
                return self._claims.recheck_s(holder)
            self.forget(uid)
            if claim is Claim.FREE and not body.deleting:
                # Only in the version that names nobody: of two operators, one succeeds.
                status = {**body.status, "operator": self._claims.own}
                await self._executor.claim(uid, body.key, version, status)
                _log.info("claimed service=%s previous=%s", body.key, holder or "none")
        return await self._services.reconcile(uid)

    async def _stand_back(self, uid: str, body: ServiceBody, holder: str) -> None:
        """Report once that another operator manages a service."""
        self._services.stand_back(uid)  # each time: the plans of a new term wait for every service
        if self._elsewhere.get(uid) == holder:
            return
        self._elsewhere[uid] = holder
        self._metrics.forget_service(body.key)
        self._metrics.set_managed_elsewhere(len(self._elsewhere))
        own = self._claims.own
        message = f"the operator {holder} manages this AvatarService, the operator {own} does not"
        _log.warning("another operator manages service=%s operator=%s", body.key, holder)
        try:
            service = parse_service(body.body)
        except InvalidResource:
            return  # the other operator reports it
        notice = Notice(Reason.MANAGED_ELSEWHERE, message, warning=True)
        await self._executor.emit_events(service, [notice], ServiceState(), time.time())
