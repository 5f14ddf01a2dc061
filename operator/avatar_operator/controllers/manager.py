"""Builds the controllers with their shared store, routes changes to them, and runs them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from avatar_operator.controllers.avatar_controller import AvatarController
from avatar_operator.controllers.claims import ClaimGate, Claims
from avatar_operator.controllers.decision_log import DecisionLogWriter
from avatar_operator.controllers.executor import Executor
from avatar_operator.controllers.gpu_shares import GPUShares
from avatar_operator.controllers.key_controller import KeyController
from avatar_operator.controllers.profile_controller import ProfileController
from avatar_operator.controllers.service_controller import ServiceController
from avatar_operator.controllers.stream_follower import StreamFollower
from avatar_operator.controllers.tenant_controller import TenantController
from avatar_operator.controllers.tenant_quotas import TenantQuotas
from avatar_operator.controllers.triggers import SPREAD_S, Triggers
from avatar_operator.controllers.worker import Worker
from avatar_operator.core.cache.entries import ChangeImpact, Kind
from avatar_operator.core.cache.pdb_index import PdbIndex
from avatar_operator.core.cache.store import Store
from avatar_operator.core.claims import GONE_S
from avatar_operator.core.manifests.network_policy import egress_of
from avatar_operator.core.planning import planner
from avatar_operator.kube import client, informers
from avatar_operator.streams.gateways import GatewayStates
from avatar_operator.streams.runtimes import RuntimeStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_operator.core.keys import KeyRing
    from avatar_operator.fence import Fence
    from avatar_operator.metrics import Metrics
    from avatar_operator.settings import Settings

TICK_S: Final = 1.0  # between two checks for stale states, which also refresh the metrics
REFUSED_S: Final = 0.25  # before the control Secret of a pod that refused all tokens is written
AVATAR_S: Final = 0.05  # before an avatar is reconciled: its pod changes several times
STALLED_S: Final = 30.0  # an event loop that did not run a tick for longer is not alive

_log = logging.getLogger(__name__)


class Manager:
    """Owns the store and the controllers; receives every change, and the result of elections."""

    def __init__(
        self, api: client.KubernetesClient, settings: Settings, fence: Fence, metrics: Metrics
    ) -> None:
        self._api = api
        self._settings = settings
        self._fence = fence
        self._metrics = metrics
        self._store = Store(settings.watch_namespaces, settings.namespace)
        self._worker = Worker(lambda uid: self._gate.reconcile(uid), self._may_reconcile, metrics)
        self._triggers = Triggers(self._store, self._worker, settings.resync_s, self.is_ready)
        self._runtimes = RuntimeStates(self._on_state, fence, self._on_refused)
        self._gateways = GatewayStates(self._triggers.on_demand, self._on_tenant_use)
        self._claims = Claims(api, settings.installation)
        self._profiles = ProfileController(
            *(api, self._store, self._runtimes.states, fence.is_open, self._claims, self.observe)
        )
        self._follower = StreamFollower(
            self._store, self._runtimes, self._gateways, self._profiles.forget
        )
        self._keys = KeyController(
            api,
            settings.namespace,
            settings.control_secret,
            settings.gateway_secret,
            self._on_keys,
            settings.key_refresh_s,
        )
        self._pdbs = PdbIndex()
        self._executor = Executor(
            api,
            self._runtimes,
            fence,
            settings.pods,
            metrics,
            self._pdbs,
            observe=self.observe,
            observe_deletion=self.observe_deletion,
            keys=self._known_keys,
        )
        self._decisions = DecisionLogWriter(settings.decision_log)
        self._shares = GPUShares(
            self._store, self._triggers, self._runtimes.states, api.priority_classes
        )
        self._quotas = TenantQuotas(
            self._store, self._triggers, self._runtimes.states, self._on_tenant_use
        )
        self._tenants = TenantController(
            api,
            self._store,
            self._gateways,
            self._quotas,
            fence.is_open,
            self._claims,
            self.observe,
        )
        self._services = ServiceController(
            self._store,
            self._runtimes,
            self._gateways,
            self._executor,
            self._triggers,
            self._decisions,
            self._shares,
            self._quotas,
            planner.Options(
                settings.pods.image,
                settings.memory_share,
                settings.rollout,
                defaults=settings.pods.defaults,
                egress=egress_of(settings.pods.network_rules),
            ),
            metrics,
            settings.watch_namespaces,
            lambda: self._known_keys().generation,
            settings.installation,
        )
        self._avatars = AvatarController(
            api,
            self._store,
            self._shares,
            self._claims,
            settings,
            metrics,
            observe=self.observe,
            on_change=self._on_change,
        )
        self._avatar_worker = Worker(self._avatars.reconcile, self._may_reconcile, metrics)
        self._gate = ClaimGate(self._claims, self._store, self._services, self._executor, metrics)
        self._informers = informers.Informers(api, self._store, settings.resync_s, self, metrics)
        self._epoch: int | None = None  # of the last term of this process
        self._ticked_at = asyncio.get_running_loop().time()

    @property
    def keys(self) -> KeyRing | None:
        """The keys that all tokens are derived from; None until they were read."""
        return self._keys.ring

    @property
    def waits_for(self) -> str:
        """Why the operator is not ready, as a sentence; empty if it is ready."""
        if self._keys.waits_for:
            return self._keys.waits_for
        return "" if self.is_ready() else "waiting for the first list of every kind"

    def is_ready(self) -> bool:
        """Return whether everything was listed at least once, so that plans are complete."""
        return self._informers.synced

    def is_alive(self) -> bool:
        """Return whether the event loop runs and no watch is frozen."""
        runs = asyncio.get_running_loop().time() - self._ticked_at < STALLED_S
        return runs and not self._informers.frozen()

    async def run(self) -> None:
        """Read the master keys, list everything, then reconcile until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                # From now on, because the process is alive while it waits for the master key.
                tasks.create_task(self._tick_forever(), name="tick")
                await self._keys.read_first()
                tasks.create_task(self._keys.run(), name="key controller")
                tasks.create_task(self._informers.run(), name="informers")
                tasks.create_task(self._profiles.run(), name="profile controller")
                tasks.create_task(self._tenants.run(), name="tenant controller")
                tasks.create_task(self._decisions.run(), name="decision log")
                tasks.create_task(self._shares.run(), name="GPU shares")
                tasks.create_task(self._worker.run(), name="worker")
                tasks.create_task(self._avatar_worker.run(), name="avatar worker")
        finally:
            await self._follower.close()

    def lead(self, epoch: int | None) -> None:
        """Start to lead under an epoch; None: stop leading."""
        if epoch is None:
            self._metrics.forget_services()  # the new leader reports them
            return
        if self._fence.gap_s >= GONE_S:
            # Another operator may have claimed services while nobody renewed the Lease.
            self._informers.relist(Kind.SERVICES)
            self._epoch = None
        if epoch == self._epoch:
            # No other replica has led in between: only the metrics must be reported again.
            self._triggers.trigger_all()
        else:
            self._epoch = epoch
            self._services.begin_term()
            self._avatars.begin_term()
            self._keys.begin_term()
            self._triggers.trigger_new_term()
        self._trigger_avatars()
        self._profiles.wake()
        self._tenants.wake()
        self._worker.check_now()
        self._avatar_worker.check_now()

    def on_event(self, kind: Kind) -> None:
        """Record that kopf's watch of a kind delivered an event."""
        self._informers.on_event(kind)

    def relist(self, kind: Kind) -> None:
        """List a kind again, because kopf's watch of it was restarted."""
        self._informers.relist(kind)

    def observe(self, kind: Kind, body: Mapping[str, object]) -> ChangeImpact:
        """Handle an object that exists, and return the impact of what changed."""
        impact = self._store.observe(kind, body)
        self._on_change(impact)
        if kind is Kind.PROFILES:
            self._profiles.wake()
        if kind is Kind.TENANTS:
            self._tenants.wake()
        return impact

    def observe_deletion(self, kind: Kind, uid: str) -> None:
        """Handle the deletion of an object."""
        self._on_change(self._store.observe_deletion(kind, uid))
        if kind is Kind.SERVICES:
            self._services.forget(uid)
            self._gate.forget(uid)
            self._pdbs.forget(uid)
            self._triggers.on_deleted_service(uid)
        if kind is Kind.AVATARS:
            self._avatar_worker.remove(uid)
            self._avatars.forget(uid)

    def on_pdb(self, uid: str, protects: str | None) -> None:
        """Handle a PDB; the PDB of a service that is no longer correct is applied again."""
        unprotected = self._pdbs.put(uid, protects)
        if unprotected is not None:
            self._triggers.on_pdb_lost(unprotected)

    def on_pdbs_listed(self, protects: Mapping[str, str]) -> None:
        """Handle a list of all PDBs: for the UID of each correct one, the UID of its service."""
        self._pdbs.replace(protects)

    def on_resync(self) -> None:
        """Reconcile every service after a full list, and check once what others may change."""
        self._services.on_resync()
        self._triggers.trigger_all()
        self._trigger_avatars()

    def _on_change(self, impact: ChangeImpact) -> None:
        if impact.fault:
            _log.warning("object is not used fault=%s", impact.fault)
        self._follower.on_change(impact)
        if impact.deleted_service is not None:
            self._metrics.forget_service(impact.deleted_service)
        self._triggers.on_change(impact)
        for uid in impact.avatars:
            self._avatar_worker.add_after(uid, AVATAR_S)
        if impact.all_services:
            self._profiles.wake()
        if impact.tenants:
            self._informers.check_namespaces()
            self._quotas.on_tenants()
            self._on_tenant_use()

    def _trigger_avatars(self) -> None:
        """Reconcile every avatar; few of them change anything."""
        for number, uid in enumerate(self._store.avatar_index.avatars.uids()):
            self._avatar_worker.add_after(uid, AVATAR_S + number * SPREAD_S)

    def _on_tenant_use(self) -> None:
        """Handle a change of what tenants use or of what their services may use."""
        self._tenants.wake()

    def _on_state(self, pod_uid: str) -> None:
        self._profiles.on_state(pod_uid)
        self._triggers.on_state(pod_uid)

    def _on_refused(self, pod_uid: str) -> None:
        """Handle a pod that refused all tokens: its Secret is written again, and it is reported."""
        pod = self._store.pods.get(pod_uid)
        if pod is None:
            return
        origin = self._store.service_uid(pod.origin)
        if origin is not None:
            self._services.on_refused(origin)
        for uid in {pod.owner_uid, origin} - {None}:
            self._triggers.trigger(str(uid), REFUSED_S)

    def _may_reconcile(self) -> bool:
        return self._informers.synced and self._fence.is_open()

    def _known_keys(self) -> KeyRing:
        """Return the keys; nothing is planned before they are known."""
        ring = self._keys.ring
        assert ring is not None
        return ring

    def _on_keys(self, ring: KeyRing) -> None:
        """Follow all pods with new keys, and write the control Secret of every service again."""
        self._follower.start(ring)
        self._services.forget_secrets()
        self._triggers.trigger_all()

    async def _tick_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._triggers.on_stale(self._runtimes.stale() | self._gateways.stale())
            self._metrics.set_state_age(self._runtimes.oldest_s())
            self._informers.export_metrics()
            self._ticked_at = loop.time()
            await asyncio.sleep(TICK_S)
            self._metrics.set_loop_lag(loop.time() - self._ticked_at - TICK_S)
