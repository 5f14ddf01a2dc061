"""Decides which change triggers the reconcile of which service, and after what delay.

The delays collect changes that arrive together, so that one reconcile handles all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.controllers.worker import Worker
    from avatar_operator.core.cache.entries import ChangeImpact
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.service import ServiceKey

SERVICE_S: Final = 0.02  # after a change of the service, of its demand or of a pod's state
PODS_S: Final = 0.15  # after a change of a pod of the service: a new pod changes several times
CLUSTER_S: Final = 0.25  # after changes of nodes, profiles and other pods, which come in bursts
PDB_S: Final = 1.0  # before a PDB is applied again: another manager may change it each time
SPREAD_S: Final = 0.005  # between two services that only check for changes: 200 per second


class Triggers:
    """Adds services to the work queue when something that concerns them changes."""

    def __init__(
        self,
        store: Store,
        worker: Worker,
        resync_s: float,
        is_synced: Callable[[], bool],
    ) -> None:
        """`is_synced` returns whether everything was listed at least once."""
        self._store = store
        self._worker = worker
        self._resync_s = resync_s
        self._is_synced = is_synced
        self._lacks_gpus: set[str] = set()  # UIDs of services
        self._waiting: set[str] = set()  # UIDs of services whose pods start and that lack GPUs
        self._stale: frozenset[str] = frozenset()  # UIDs of pods and gateways with a stale state

    def on_change(self, impact: ChangeImpact) -> None:
        """Trigger the services that a change of an object affects."""
        if impact.new_spec is not None:
            self._worker.forget(impact.new_spec)
        for uid in impact.services:
            self.trigger(uid, SERVICE_S if impact.pod is None else PODS_S)
        if impact.all_services or impact.freed_gpus:
            for uid in self._lacks_gpus:
                self.trigger(uid, CLUSTER_S)
        if impact.node and self._is_synced():
            for pod in self._store.pods.values():
                if pod.node == impact.node:
                    self.trigger(pod.owner_uid, CLUSTER_S)
        if impact.all_services:
            self.trigger_all()

    def on_deleted_service(self, uid: str) -> None:
        """Trigger the deletion of the pods that a deleted service leaves behind."""
        self._lacks_gpus.discard(uid)
        self._waiting.discard(uid)
        self._worker.remove(uid)
        self.trigger(uid, SERVICE_S)

    def on_progress(self, uid: str) -> None:
        """Forget the failures of a service: a reconcile that partly failed changed something."""
        self._worker.forget(uid)

    def on_demand(self, key: ServiceKey) -> None:
        """Trigger a service whose demand changed at a gateway."""
        uid = self._store.service_uid(key)
        if uid is not None:
            self.trigger(uid, SERVICE_S)

    def on_state(self, pod_uid: str) -> None:
        """Trigger the services that the new state of a runtime pod concerns."""
        pod = self._store.pods.get(pod_uid)
        if pod is not None:
            self._trigger_for(pod)

    def on_stale(self, stale: frozenset[str]) -> None:
        """Trigger the services of pods whose state became stale or fresh again.

        `stale` are the UIDs of all pods with a stale state. A gateway concerns all services.
        """
        before, self._stale = self._stale, stale
        for uid in before ^ stale:
            pod = self._store.pods.get(uid)
            if pod is not None:
                self._trigger_for(pod)
            elif self._store.gateways.get(uid) is not None:
                self.trigger_all()

    def on_pdb_lost(self, uid: str) -> None:
        """Trigger a service whose PDB was changed or deleted by someone else."""
        self.trigger(uid, PDB_S)

    def set_lacks_gpus(self, uid: str, lacks: bool) -> None:
        """Record whether a service waits for GPUs."""
        (self._lacks_gpus.add if lacks else self._lacks_gpus.discard)(uid)

    def set_waits(self, uid: str, *, waits: bool) -> None:
        """Record whether a service whose pods start lacks a GPU."""
        (self._waiting.add if waits else self._waiting.discard)(uid)

    def others_wait(self, uid: str) -> bool:
        """Return whether a service other than this one lacks a GPU, and its pods start."""
        return len(self._waiting - {uid}) > 0

    def trigger_new_term(self) -> None:
        """Trigger all services together, because no replica reconciled since the last leader."""
        for uid in self._store.services.uids():
            self.trigger(uid, CLUSTER_S)

    def trigger_all(self) -> None:
        """Trigger all services one after the other, so that urgent reconciles are not delayed."""
        uids = self._store.services.uids()
        step_s = min(SPREAD_S, self._resync_s / 2 / max(1, len(uids)))
        for number, uid in enumerate(uids):
            self.trigger(uid, CLUSTER_S + number * step_s)

    def trigger(self, uid: str, after_s: float) -> None:
        """Trigger one service, if it exists or has left pods behind."""
        if self._store.services.get(uid) is not None or self._store.owned_by(uid):
            self._worker.add_after(uid, after_s)

    def _trigger_for(self, pod: RuntimePod) -> None:
        """Trigger the service of a pod, and those that lack GPUs and may adopt the pod."""
        self.trigger(pod.owner_uid, SERVICE_S)
        if pod.reserve:
            for uid in self._store.reserve_groups.claimants(pod.owner_uid, pod.namespace):
                if uid in self._lacks_gpus:
                    self.trigger(uid, SERVICE_S)
