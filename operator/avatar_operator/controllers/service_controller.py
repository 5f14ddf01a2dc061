"""Reconciles one service at a time: read the store, plan, execute, write the status.

Changes only trigger a reconcile; what to do is planned from the current content of the
store each time. A reconcile writes the status at most once, and only if it changed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_operator import names
from avatar_operator.controllers.reconcile import Reconcile
from avatar_operator.controllers.service_reports import ServiceReports, failures_of
from avatar_operator.controllers.service_state import ServiceState
from avatar_operator.core.autoscaling import inputs, start_times
from avatar_operator.core.manifests import model_cache
from avatar_operator.core.planning import (
    disruption,
    planner,
    quota_wishes,
    rollout,
    shared_reserve,
)
from avatar_operator.core.planning.avatars import needs
from avatar_operator.core.planning.failures import read_failures
from avatar_operator.core.planning.sharing import fair_limits
from avatar_operator.core.resources.service import Service, parse_service
from avatar_operator.core.status import refusals, service_status
from avatar_operator.errors import InvalidResource
from avatar_operator.streams.client import SILENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from avatar_operator.controllers.decision_log import DecisionLogWriter
    from avatar_operator.controllers.executor import Executor
    from avatar_operator.controllers.gpu_shares import GPUShares
    from avatar_operator.controllers.service_state import ExecutionResult
    from avatar_operator.controllers.tenant_quotas import TenantQuotas
    from avatar_operator.controllers.triggers import Triggers
    from avatar_operator.core.cache.store import Store
    from avatar_operator.core.planning.failures import Failure
    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.metrics import Metrics
    from avatar_operator.streams.gateways import GatewayStates
    from avatar_operator.streams.runtimes import RuntimeStates

SETTLE_S: Final = 2.0  # how long a new leader waits at most for the states of all pods
STATES_WAIT_S: Final = 0.25  # between two checks whether the states of all pods have arrived
FINALIZE_AGAIN_S: Final = 0.5  # before pods that changed meanwhile are deleted again
SECRET_CHECK_S: Final = 10.0  # how long a retry relies on the check of the control Secret
HOLD_REMOVALS_S: Final = 1.0  # after the first plan of a new leader; nothing is removed before


class ServiceController:
    """Owns what is remembered of each service between two reconciles."""

    def __init__(
        self,
        store: Store,
        runtimes: RuntimeStates,
        gateways: GatewayStates,
        executor: Executor,
        triggers: Triggers,
        decisions: DecisionLogWriter,
        shares: GPUShares,
        quotas: TenantQuotas,
        options: planner.Options,
        metrics: Metrics,
        watch_namespaces: Collection[str],
        key_generation: Callable[[], str],
        installation: str,
    ) -> None:
        """`key_generation` returns the generation of the current master key.

        `installation` is the name of this operator in the status of services.
        """
        self._store = store
        self._runtimes = runtimes
        self._gateways = gateways
        self._executor = executor
        self._triggers = triggers
        self._decisions = decisions
        self._shares = shares
        self._quotas = quotas
        self._options = options
        self._metrics = metrics
        self._watch_namespaces = watch_namespaces
        self._key_generation = key_generation
        self._reports = ServiceReports(
            store, runtimes, executor, metrics, options.egress, installation
        )
        self._states: dict[str, ServiceState] = {}  # by UID
        self._class_starts: dict[str, start_times.ClassStarts] = {}  # of all services
        self._start_s: Mapping[str, float] = {}  # their 90th percentiles
        self._term = 0  # number of the terms of this process
        self._elected_at = asyncio.get_running_loop().time()

    def begin_term(self) -> None:
        """Start to lead after another replica may have led."""
        self._term += 1
        self._shares.begin_term()
        self._quotas.begin_term()
        self._elected_at = asyncio.get_running_loop().time()

    def forget(self, uid: str) -> None:
        """Discard what is remembered of a deleted service."""
        self._states.pop(uid, None)
        self._shares.record_none(uid)
        self._quotas.record_none(uid)
        self._triggers.set_lacks_gpus(uid, False)
        self._triggers.set_waits(uid, waits=False)

    def stand_back(self, uid: str) -> None:
        """Discard what is remembered of a service that another operator manages."""
        self._states.pop(uid, None)
        self._shares.record_none(uid)
        self._quotas.record_none(uid)

    def forget_secrets(self) -> None:
        """Write the control Secret of every service again."""
        for state in self._states.values():
            state.has_secret = False

    def on_refused(self, uid: str) -> None:
        """Write the control Secret of a service again: one of its pods refused all tokens."""
        if uid in self._states:
            self._states[uid].has_secret = False

    def on_resync(self) -> None:
        """Check again once for each service what others may have changed."""
        for state in self._states.values():
            state.has_secret = False
            state.has_network_policy = False
            state.field_conflicts.clear()
            state.pods_taken.clear()
            state.relabelled.clear()

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile once; return the seconds until the next time, None to wait for a change.

        Raises:
            AvatarOperatorError: an action or the status write failed; the others were executed.
        """
        body = self._store.services.get(uid)
        if body is None or body.deleting:
            self._shares.record_none(uid)
            self._quotas.record_none(uid)
            pods = self._orphans(uid)
            changed = await self._executor.finalize(uid, pods)
            if body is not None:
                state = self._states.get(uid) or ServiceState()
                await self._reports.write_terminating(uid, body, pods, state)
            return FINALIZE_AGAIN_S if changed else None
        now, last_status = time.time(), body.status
        version = self._store.services.version(uid) or 0
        state = self._states.setdefault(uid, ServiceState())
        state.is_new = service_status.is_unplanned(last_status)
        try:
            service = self._options.defaults.merged_into(parse_service(body.body))
        except InvalidResource as error:
            self._shares.record_none(uid)
            self._quotas.record_none(uid)
            await self._reports.write_invalid(uid, version, body, error, state, now)
            return None
        reconcile = Reconcile(uid, service, state, version, last_status, now)
        self._read_starts(reconcile)
        observed = self._observed(reconcile)
        if not self._may_plan(state, observed):
            return STATES_WAIT_S  # a state that arrives triggers the reconcile earlier
        return await self._reconcile(reconcile, observed)

    async def _reconcile(self, reconcile: Reconcile, observed: planner.Observed) -> float | None:
        service, state = reconcile.service, reconcile.state
        options = replace(self._options, key_generation=self._key_generation())
        plan = planner.plan(service, observed, options, reconcile.now)
        retry_s = reconcile.retry_s(asyncio.get_running_loop().time())
        self._record(reconcile, plan, refused=retry_s > 0)
        # The previous leader may have known more: at first nothing is removed.
        hold_s = state.hold_removals_until - asyncio.get_running_loop().time()
        actions = tuple(each for each in plan.actions if hold_s <= 0 or not _removes(each))
        holds = len(actions) < len(plan.actions)
        if not holds:  # else the failed pods are deleted by a later plan
            state.failures = plan.failures
        created = [each for each in actions if isinstance(each, planner.CreatePod)]
        withholds = retry_s > 0 and bool(created)
        if withholds:  # it would be refused again
            actions = tuple(each for each in actions if not isinstance(each, planner.CreatePod))
            created = []
        if created and self._must_check_secret(state, actions):
            secret = planner.ApplyControlSecret(names.control_secret(service.key.name))
            actions = (secret, *actions)
        for action in created:  # no await since the plan: no other plan saw these GPUs as free
            self._store.reserve_gpus(service.key, action.name, action.gpu_use)
        try:
            result = await self._executor.execute(service, actions, state)
        finally:
            impact = self._store.release_gpus(service.key, [action.name for action in created])
            self._triggers.on_change(impact)
        if result.done:
            self._triggers.on_progress(reconcile.uid)
        self._remember_refusal(reconcile, created, result)
        started = self._note_starts(reconcile, observed)
        status_s = await self._reports.write(reconcile, plan, observed, result, started)
        if result.faults or result.outdated:
            if any(action not in result.done for action in created):
                self._shares.record_failure(reconcile.uid)
            raise (*result.faults, *result.outdated)[0]  # reconciled again without a change
        state.secret_checked_at = float("-inf")
        held_s = hold_s if holds else None
        # Pods without a node stop counting without an event.
        freed_s = self._store.next_freed_s(reconcile.now) if plan.missing else None
        waits = (status_s, plan.wake_after_s, held_s, freed_s, retry_s if withholds else None)
        return min((each for each in waits if each is not None), default=None)

    def _may_plan(self, state: ServiceState, observed: planner.Observed) -> bool:
        """Return whether to plan; the first plan of a term waits for the states of all pods."""
        if state.term == self._term:
            return True
        if not self._has_states(observed):
            return False
        state.term = self._term
        state.hold_removals_until = asyncio.get_running_loop().time() + HOLD_REMOVALS_S
        return True

    def _has_states(self, observed: planner.Observed) -> bool:
        """Return whether every pod has sent its state, or had enough time to do so."""
        if asyncio.get_running_loop().time() >= self._elected_at + SETTLE_S:
            return True
        fresh = {uid for uid, s in observed.states.items() if s.age_s < SILENCE_S}
        return fresh.issuperset(pod.uid for pod in observed.pods if pod.running and pod.ip)

    def _must_check_secret(self, state: ServiceState, actions: Collection[planner.Action]) -> bool:
        """Return whether the control Secret is checked before pods are created.

        Without it a new pod would not start, and nobody reports a Secret that was deleted. The
        retry of a reconcile that failed relies on the check of that reconcile.
        """
        if any(isinstance(each, planner.ApplyControlSecret) for each in actions):
            return False
        checked_s = asyncio.get_running_loop().time() - state.secret_checked_at
        return not state.has_secret or checked_s > SECRET_CHECK_S

    def _remember_refusal(
        self, reconcile: Reconcile, created: Collection[planner.CreatePod], result: ExecutionResult
    ) -> None:
        """Remember whether the API server refused the pods that were tried."""
        if not created:
            return
        now = asyncio.get_running_loop().time()
        reconcile.state.refusal = refusals.remember(
            reconcile.refusal, reconcile.service.generation, failures_of(result), now
        )

    def _record(self, reconcile: Reconcile, plan: planner.Plan, *, refused: bool) -> None:
        """Record a plan in the metrics, the triggers, the scaling history and the decision log.

        A service whose pods are refused wants no more GPUs until the next try, and one that waits
        for its avatars leaves them to the preparation.
        """
        key = reconcile.service.key
        self._metrics.set_desired(key, plan.desired)
        refused = refused or plan.waits_for_avatars
        lacks_gpus = bool(plan.missing or plan.held) or service_status.lacks_gpus(plan)
        self._triggers.set_lacks_gpus(reconcile.uid, lacks_gpus)
        demand = fair_limits.demand(reconcile.service, plan, reconcile.now)
        self._shares.record(reconcile.uid, demand.without_more() if refused else demand)
        self._quotas.record(
            reconcile.uid,
            plan.tenant,
            quota_wishes.wish(reconcile.service, plan),
            limited=quota_wishes.is_limited(reconcile.service, plan),
        )
        waits = bool(plan.missing) or service_status.lacks_gpus(plan)
        waits = waits and not plan.failures and not refused
        self._triggers.set_waits(reconcile.uid, waits=waits)
        if plan.scaling is not None:
            reconcile.state.history = plan.scaling.decision.history
            self._decisions.write(key, plan.scaling)

    def _orphans(self, uid: str) -> tuple[RuntimePod, ...]:
        """Return the pods of a service, existing or deleted, in the watched namespaces."""
        watched = self._watch_namespaces
        pods = self._store.owned_by(uid)
        return tuple(pod for pod in pods if not watched or pod.namespace in watched)

    def _observed(self, reconcile: Reconcile) -> planner.Observed:
        service, state = reconcile.service, reconcile.state
        pods = self._store.pods_of(service.key)
        conflicts = state.field_conflicts
        shared = self._shared(service, reconcile.now)
        reserve_owner = None if shared is None else shared.group.owner.uid
        return planner.Observed(
            nodes=self._store.nodes(),
            uses=self._store.gpu_uses(reconcile.now),
            profiles=self._store.profiles(),
            node_classes=self._store.node_class_cache(),
            pods=pods,
            states=self._runtimes.states(pod.uid for pod in pods),
            silent=self._runtimes.silent(pod.uid for pod in pods),
            has_control_secret=state.has_secret or "ApplyControlSecret" in conflicts,
            has_pdb=self._executor.has_pdb(service.uid) or "ApplyBudget" in conflicts,
            has_network_policy=self._options.egress is None
            or (
                state.has_network_policy
                and state.policy_has_downloads == bool(model_cache.sources(service))
            )
            or "ApplyNetworkPolicy" in conflicts,
            halted=rollout.read_halt(reconcile.last_status, service.generation),
            shared=shared,
            failures=self._failures(reconcile),
            others_wait=self._triggers.others_wait(service.uid),
            names_elsewhere=self._store.names_elsewhere(service.key) | state.pods_taken,
            image_checks=self._store.image_checks(service.uid),
            share=self._shares.of(service.uid),
            tenant=self._quotas.terms(service.uid, reserve_owner),
            needs=needs.judge(service, self._store.avatar_index.known_to(service.uid)),
            scaling_context=inputs.ScalingContext(
                self._gateways.demand(service.key),
                # In another term another replica may have decided since.
                state.history if state.term == self._term else None,
                asyncio.get_running_loop().time(),
                start_s=self._start_s,
            ),
        )

    def _read_starts(self, reconcile: Reconcile) -> None:
        """Read the starts that another replica has recorded in the status."""
        state = reconcile.state
        if state.starts is None or state.starts_term != self._term:
            state.starts = start_times.read_status(reconcile.last_status)
            state.starts_term = self._term
            known = start_times.p90_by_class(state.starts.classes)
            self._remember_starts(
                [start_times.PodStart("", name, {"total": p90}) for name, p90 in known.items()]
            )

    def _note_starts(
        self, reconcile: Reconcile, observed: planner.Observed
    ) -> tuple[start_times.PodStart, ...]:
        """Record the pods that have started since the last reconcile, and return their starts."""
        state = reconcile.state
        before = state.starts or start_times.Starts()
        state.starts, started = start_times.observe(before, observed.pods, observed.states)
        self._remember_starts(started)
        for start in started:
            self._metrics.observe_start(start)
        return started

    def _remember_starts(self, started: Sequence[start_times.PodStart]) -> None:
        """Count starts for their classes; most reconciles see none."""
        if started:
            self._class_starts = start_times.merged(self._class_starts, started)
            self._start_s = start_times.p90_by_class(self._class_starts)

    def _failures(self, reconcile: Reconcile) -> tuple[Failure, ...]:
        """Return what failed to start; in another term another replica may have recorded it."""
        state = reconcile.state
        if state.failures is None or state.term != self._term:
            state.failures = read_failures(reconcile.last_status)
        return state.failures

    def _shared(self, service: Service, now: float) -> shared_reserve.SharedReserve | None:
        """Return the warm pool that a service shares, with the pods that it may adopt."""
        group = self._store.reserve_groups.group(service.uid, service.key.namespace, now)
        if group is None or group.owner.uid == service.uid:
            return None if group is None else shared_reserve.SharedReserve(group)
        pods = tuple(pod for pod in self._store.pods_of(group.owner.key) if pod.reserve)
        return shared_reserve.SharedReserve(
            group, pods, self._runtimes.states(pod.uid for pod in pods)
        )


def _removes(action: planner.Action) -> bool:
    return isinstance(action, planner.DrainPod | planner.DeletePod | disruption.ReleasePod)
